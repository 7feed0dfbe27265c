"""An image classifier as it grows in an afternoon: it runs, it learns, and nothing warns about what it wastes."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Rows(Dataset):
    """Noisy pictures of uneven brightness with one bright row; the class says which row."""

    def __init__(self, count, seed):
        random = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(0, 10, (count,), generator=random)
        self.images = torch.randn(count, 1, 20, 20, generator=random)
        self.images[torch.arange(count), 0, self.labels * 2] += 0.6
        self.images *= torch.rand(count, 1, 1, 1, generator=random) * 200 + 50

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.images[index], self.labels[index]


def standardise(images: torch.Tensor):
    rows = []
    for image in images:
        rows.append(((image - image.mean()) / (image.std() + 1e-6)).clamp(-3, 3))
    return torch.stack(rows)


def accuracy(model, loader):
    model.eval()
    correct = 0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        correct += (model(standardise(images)).argmax(1) == labels).sum().item()
    return correct / len(loader.dataset)


def train(model, loader, held_out, epochs=10, accumulate=4):
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(epochs):
        model.train()
        total = 0
        for step, (images, labels) in enumerate(loader):
            optimizer.zero_grad()
            images, labels = images.to(device), labels.to(device)
            loss = F.cross_entropy(model(standardise(images)), labels)
            loss.backward()
            total += loss
            if (step + 1) % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
        print(f"epoch {epoch}: loss {total / len(loader):.3f}, accuracy {accuracy(model, held_out):.1%}")


def main():
    torch.manual_seed(0)
    loader = DataLoader(Rows(12000, seed=1), batch_size=128, shuffle=True)
    held_out = DataLoader(Rows(3000, seed=2), batch_size=500)
    model = nn.Sequential(nn.Flatten(), nn.Linear(400, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))
    train(model.to(device), loader, held_out)


if __name__ == "__main__":
    main()
