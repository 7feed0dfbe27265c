"""Trains the U-Net, writes a checkpoint per epoch, resumes from the newest one."""

import argparse
import logging
from pathlib import Path

import torch
from seg.data import loaders
from seg.engine import evaluate, predict, train_one_epoch
from seg.unet import UNet
from torch import optim

dir_checkpoint = Path("checkpoints/")


def fit(net, device, epochs, batch_size, learning_rate):
    train_loader, val_loader = loaders(batch_size)
    optimizer = optim.RMSprop(net.parameters(), lr=learning_rate, momentum=0.9, foreach=True)
    scheduler = optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", patience=5)
    start = 0
    known = sorted(dir_checkpoint.glob("checkpoint_epoch*.pth"))
    if known:
        state = torch.load(known[-1], weights_only=True)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["epoch"]
        logging.info(f"Resumed from {known[-1]}")
    for epoch in range(start + 1, epochs + 1):
        loss = train_one_epoch(net, train_loader, val_loader, optimizer, device)
        val_score = evaluate(net, val_loader, device)
        scheduler.step(val_score)
        print(f"epoch {epoch}: loss {loss:.4f}, validation Dice {val_score.item():.4f}")
        dir_checkpoint.mkdir(parents=True, exist_ok=True)
        state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        torch.save(state, dir_checkpoint / f"checkpoint_epoch{epoch}.pth")
        logging.info(f"Checkpoint {epoch} saved!")
    print("predicted", tuple(predict(net, val_loader, device).shape))


def get_args():
    parser = argparse.ArgumentParser(description="Train the UNet on images and target masks")
    parser.add_argument("--epochs", "-e", metavar="E", type=int, default=3)
    parser.add_argument("--batch-size", "-b", dest="batch_size", metavar="B", type=int, default=8)
    parser.add_argument("--learning-rate", "-l", metavar="LR", type=float, default=1e-4, dest="lr")
    return parser.parse_args()


if __name__ == "__main__":
    args = get_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fit(UNet().to(device=device), device, args.epochs, args.batch_size, args.lr)
