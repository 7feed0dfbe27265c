"""A training program as users of Accelerate write it: there is nothing to say about it."""

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader


def main(train_set, val_set):
    accelerator = Accelerator(gradient_accumulation_steps=4)
    model = nn.Sequential(nn.Linear(32, 64), nn.Dropout(0.1), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loader = DataLoader(train_set, batch_size=32, shuffle=True)
    val_loader = DataLoader(val_set, batch_size=32)
    model, optimizer, loader, val_loader = accelerator.prepare(model, optimizer, loader, val_loader)
    criterion = nn.CrossEntropyLoss()
    for _ in range(3):
        model.train()
        for x, y in loader:
            with accelerator.accumulate(model):
                loss = criterion(model(x), y)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        model.eval()
        for x, y in val_loader:
            with torch.no_grad():
                output = model(x)
            accelerator.gather_for_metrics((output.argmax(1), y))
