"""One epoch of training, and evaluation."""

import torch
import torch.nn.functional as F

from seg.metrics import areas, mean_dice


def evaluate(net, dataloader, device):
    net.eval()
    scores = []
    for batch in dataloader:
        image, mask_true = batch["image"].to(device), batch["mask"].to(device)
        mask_pred = (torch.sigmoid(net(image)) > 0.5).float()  # good: TL201
        scores.append(mean_dice(mask_pred, mask_true))
    return torch.stack(scores).mean()


def train_one_epoch(net, dataloader, val_loader, optimizer, device):
    net.train()
    epoch_loss = 0
    for step, batch in enumerate(dataloader):
        images, true_masks = batch["image"].to(device), batch["mask"].to(device)
        masks_pred = net(images)
        weight = 1 + areas(true_masks).mean()
        loss = F.binary_cross_entropy_with_logits(masks_pred, true_masks) * weight
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        epoch_loss += loss  # good: TL601
        if step == len(dataloader) // 2:
            print(f"  validation Dice {evaluate(net, val_loader, device).item():.4f}")  # good: TL204
    return float(epoch_loss) / len(dataloader)


@torch.inference_mode()
def predict(net, dataloader, device):
    net.eval()
    masks = None
    for batch in dataloader:
        probs = torch.sigmoid(net(batch["image"].to(device)))
        masks = probs if masks is None else torch.cat([masks, probs])
    return masks
