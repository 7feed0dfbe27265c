"""A training program as users of Fabric write it: there is nothing to say about it."""

import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader


def main(train_set):
    fabric = Fabric(accelerator="cuda", devices=2)
    fabric.launch()
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = fabric.setup(model, optimizer)
    loader = fabric.setup_dataloaders(DataLoader(train_set, batch_size=32, shuffle=True))
    criterion = nn.CrossEntropyLoss()
    for _ in range(3):
        for i, (x, y) in enumerate(loader):
            accumulating = i % 4 != 0
            with fabric.no_backward_sync(model, enabled=accumulating):
                loss = criterion(model(x), y) / 4
                fabric.backward(loss)
            if not accumulating:
                optimizer.step()
                optimizer.zero_grad()
