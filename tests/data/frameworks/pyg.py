"""A training program as users of PyTorch Geometric write it: there is nothing to say about it."""

import torch
import torch.nn.functional as F
from torch_geometric.nn import GCNConv, global_mean_pool


class GCN(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = GCNConv(16, 32)
        self.lin = torch.nn.Linear(32, 2)

    def forward(self, x, edge_index, batch):
        x = F.dropout(self.conv(x, edge_index).relu(), p=0.5, training=self.training)
        return self.lin(global_mean_pool(x, batch))


def train(model, loader, optimizer, device):
    model.train()
    total = torch.zeros((), device=device)
    for data in loader:
        data = data.to(device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(data.x, data.edge_index, data.batch), data.y)
        loss.backward()
        optimizer.step()
        total += loss.detach() * data.num_graphs
    return total.item() / len(loader.dataset)


@torch.no_grad()
def test(model, loader, device):
    model.eval()
    correct = 0
    for data in loader:
        data = data.to(device)
        correct += int((model(data.x, data.edge_index, data.batch).argmax(1) == data.y).sum())
    return correct / len(loader.dataset)
