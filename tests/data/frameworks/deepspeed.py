"""A training program as users of DeepSpeed write it: there is nothing to say about it."""

import deepspeed
from torch import nn


def main(args, train_set):
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
    engine, _, loader, _ = deepspeed.initialize(
        args=args, model=model, model_parameters=model.parameters(), training_data=train_set
    )
    criterion = nn.CrossEntropyLoss()
    for _ in range(3):
        for x, y in loader:
            x, y = x.to(engine.local_rank), y.to(engine.local_rank)
            loss = criterion(engine(x), y)
            engine.backward(loss)
            engine.step()
