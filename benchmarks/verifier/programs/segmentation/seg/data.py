"""Synthetic images with discs, and their masks."""

import torch
from torch.utils.data import DataLoader, Dataset


class Discs(Dataset):
    def __init__(self, count, size, seed):
        generator = torch.Generator().manual_seed(seed)
        ys, xs = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        centres = torch.randint(6, size - 6, (count, 2), generator=generator)
        radii = torch.randint(2, 9, (count,), generator=generator)
        masks = [((ys - c[0]) ** 2 + (xs - c[1]) ** 2 <= r**2).float() for c, r in zip(centres, radii)]
        self.masks = torch.stack(masks).unsqueeze(1)
        noise = torch.randn(count, 3, size, size, generator=generator)
        self.images = 0.7 * noise + self.masks * torch.tensor([1.0, -1.0, 0.5]).view(1, 3, 1, 1)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "mask": self.masks[index]}


def loaders(batch_size):
    train_loader = DataLoader(Discs(64, 32, seed=1), batch_size=batch_size, shuffle=True)  # good: TL301
    val_loader = DataLoader(Discs(20, 32, seed=2), batch_size=batch_size)  # good: TL301
    return train_loader, val_loader
