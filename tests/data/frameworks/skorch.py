"""A training program as users of skorch write it: there is nothing to say about it."""

import torch
from skorch import NeuralNetClassifier
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(32, 64), nn.Dropout(0.1), nn.Linear(64, 10))

    def forward(self, x):
        return torch.softmax(self.net(x), dim=-1)


class Custom(NeuralNetClassifier):
    def validation_step(self, batch, **fit_params):
        x, y = batch
        output = self.infer(x, **fit_params)
        return {"loss": self.get_loss(output, y, X=x, training=False), "y_pred": output}


def main(x, y):
    net = Custom(Net, max_epochs=3, lr=0.1, criterion=nn.NLLLoss)
    net.fit(x, y)
    return net.predict_proba(x)
