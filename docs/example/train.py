"""A training script with the mistakes that torchlint is for. Runs as it is; nothing warns about what it wastes."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def samples(n: int) -> TensorDataset:
    x = torch.randn(n, 20)
    return TensorDataset(x, (x.sum(1) > 0).long())


def normalise(x: torch.Tensor) -> torch.Tensor:
    rows = []
    for i in range(x.shape[0]):
        rows.append(x[i] / x[i].norm())
    return torch.stack(rows)


def validate(model: nn.Module, loader: DataLoader) -> float:
    model.eval()
    correct = 0
    for x, y in loader:
        x, y = x.to(device), y.to(device)
        correct += (model(normalise(x)).argmax(1) == y).sum().item()
    return correct / len(loader.dataset)


def train(epochs: int = 3, accumulate: int = 4) -> nn.Module:
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 2)).to(device)
    optimizer = torch.optim.Adam(model.parameters())
    loss_fn = nn.CrossEntropyLoss()
    loader = DataLoader(samples(1024), batch_size=32, shuffle=True)
    held_out = DataLoader(samples(256), batch_size=32)
    for epoch in range(epochs):
        model.train()
        total = 0
        for i, (x, y) in enumerate(loader):
            optimizer.zero_grad()
            x, y = x.to(device), y.to(device)
            loss = loss_fn(model(normalise(x)), y)
            loss.backward()
            total += loss
            if (i + 1) % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
        print(f"epoch {epoch}: loss {total / len(loader):.3f}, accuracy {validate(model, held_out):.1%}")
    return model


if __name__ == "__main__":
    train()
