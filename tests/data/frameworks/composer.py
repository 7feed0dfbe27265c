"""A training program as users of Composer write it: there is nothing to say about it."""

import torch
from composer import Trainer
from composer.models import ComposerModel
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader


class Classifier(ComposerModel):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(32, 64), nn.Dropout(0.1), nn.Linear(64, 10))

    def forward(self, batch):
        x, _ = batch
        return self.net(x)

    def loss(self, outputs, batch):
        return F.cross_entropy(outputs, batch[1])

    def eval_forward(self, batch, outputs=None):
        return self.forward(batch) if outputs is None else outputs


def main(train_set, val_set):
    model = Classifier()
    trainer = Trainer(
        model=model,
        train_dataloader=DataLoader(train_set, batch_size=32, shuffle=True),
        eval_dataloader=DataLoader(val_set, batch_size=32),
        optimizers=torch.optim.AdamW(model.parameters(), lr=1e-3),
        max_duration="3ep",
    )
    trainer.fit()
