"""A training program as users of DGL write it: there is nothing to say about it."""

import dgl
import torch
import torch.nn.functional as F


def train(graph, nodes, model, device):
    sampler = dgl.dataloading.NeighborSampler([10, 10])
    loader = dgl.dataloading.DataLoader(
        graph, nodes, sampler, device=device, batch_size=1024, shuffle=True, drop_last=False
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(3):
        model.train()
        for _, _, blocks in loader:
            loss = F.cross_entropy(model(blocks, blocks[0].srcdata["feat"]), blocks[-1].dstdata["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
