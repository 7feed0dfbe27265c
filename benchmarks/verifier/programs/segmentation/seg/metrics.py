"""Scores of predicted masks."""

import torch


def dice_coeff(pred: torch.Tensor, target: torch.Tensor, epsilon: float = 1e-6):
    inter = 2 * (pred * target).sum()
    sets_sum = pred.sum() + target.sum()
    return (inter + epsilon) / (sets_sum + epsilon)


def mean_dice(preds: torch.Tensor, targets: torch.Tensor):
    """The mean of the samples' own scores."""
    return torch.stack([dice_coeff(p, t) for p, t in zip(preds, targets)]).mean()  # wrong: BAD005


def areas(masks: torch.Tensor):
    """The share of each image that is foreground."""
    out = torch.zeros(masks.shape[0])
    for i in range(masks.shape[0]):
        out[i] = masks[i].mean()  # good: TL501
    return out
