"""A small CNN on synthetic digits: batch norm, dropout, Adam, a test pass after every epoch."""

import argparse

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.dropout = nn.Dropout(0.25)
        self.fc = nn.Linear(16 * 4 * 4, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        return self.fc(self.dropout(torch.flatten(x, 1)))


def synthetic_digits(count, classes):
    labels = torch.randint(0, classes, (count,))
    images = torch.randn(count, 1, 16, 16)
    for label in range(classes):
        images[labels == label, :, label, :] += 3.0
    return images, labels


def normalise(images: torch.Tensor):
    rows = []
    for i in range(images.shape[0]):
        rows.append(images[i] / images[i].abs().max())  # good: TL501
    return torch.stack(rows)


def train(args, model, device, loader, optimizer, epoch):
    model.train()
    total_loss = 0.0
    for batch_idx, (data, target) in enumerate(loader):
        data, target = data.to(device), target.to(device)
        loss = F.cross_entropy(model(data), target)
        loss.backward()  # good: TL101
        optimizer.step()
        total_loss += loss  # good: TL601
        if batch_idx % args.log_interval == 0:
            print(f"Train Epoch: {epoch} [{batch_idx * len(data)}/{len(loader.dataset)}]\tLoss: {loss.item():.6f}")
    print(f"Train Epoch: {epoch} average loss {total_loss / len(loader):.4f}")


def test(model, device, loader):
    model.eval()  # wrong: BAD001
    test_loss, correct = 0.0, 0
    for data, target in loader:
        data, target = data.to(device), target.to(device)
        output = model(data)  # good: TL201
        test_loss += F.cross_entropy(output, target, reduction="sum").item()
        correct += (output.argmax(dim=1) == target).sum().item()
    test_loss /= len(loader.dataset)
    print(f"Test set: Average loss: {test_loss:.4f}, Accuracy: {correct}/{len(loader.dataset)}")


@torch.no_grad()
def embeddings(model, loader):
    device = next(model.parameters()).device
    features = torch.empty(0, 10, device=device)
    for data, _ in loader:
        features = torch.cat([features, model(data.to(device))])  # good: TL503
    return features


def main():
    parser = argparse.ArgumentParser(description="CNN example")
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log-interval", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, labels = synthetic_digits(700, 10)
    images = normalise(images)
    train_loader = DataLoader(TensorDataset(images[:500], labels[:500]), batch_size=args.batch_size, shuffle=True)
    test_loader = DataLoader(TensorDataset(images[500:], labels[500:]), batch_size=100)
    model = Net(10).to(device)
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    for epoch in range(1, args.epochs + 1):
        train(args, model, device, train_loader, optimizer, epoch)
        test(model, device, test_loader)
    print("embeddings", tuple(embeddings(model, test_loader).shape))
    torch.save(model.state_dict(), "cnn.pt")


if __name__ == "__main__":
    main()
