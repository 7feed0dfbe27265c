"""A word-level LSTM language model on synthetic text, as in the classic example: bptt, clipping, annealing."""

import argparse
import math
import random
import time

import torch
import torch.nn.functional as F
from torch import nn


class RNNModel(nn.Module):
    """Encoder, LSTM, decoder."""

    def __init__(self, ntoken, ninp, nhid, nlayers, dropout=0.2):
        super().__init__()
        self.ntoken = ntoken
        self.drop = nn.Dropout(dropout)
        self.encoder = nn.Embedding(ntoken, ninp)
        self.rnn = nn.LSTM(ninp, nhid, nlayers, dropout=dropout)
        self.decoder = nn.Linear(nhid, ntoken)
        self.nhid, self.nlayers = nhid, nlayers

    def forward(self, input, hidden):
        emb = self.drop(self.encoder(input))
        output, hidden = self.rnn(emb, hidden)
        decoded = self.decoder(self.drop(output)).view(-1, self.ntoken)
        return F.log_softmax(decoded, dim=1), hidden  # wrong: BAD002

    def init_hidden(self, bsz):
        weight = next(self.parameters())
        return (weight.new_zeros(self.nlayers, bsz, self.nhid), weight.new_zeros(self.nlayers, bsz, self.nhid))


def make_corpus(ntokens, length):
    rng = random.Random(7)
    tokens, state = [], 0
    for _ in range(length):
        state = (state * 3 + rng.choice((1, 1, 1, 2, 5))) % ntokens
        tokens.append(state)
    return torch.tensor(tokens)


def batchify(data, bsz):
    nbatch = data.size(0) // bsz
    return data.narrow(0, 0, nbatch * bsz).view(bsz, -1).t().contiguous()


def repackage_hidden(h):
    """Wraps hidden states in new Tensors, to detach them from their history."""
    if isinstance(h, torch.Tensor):
        return h.detach()
    return tuple(repackage_hidden(v) for v in h)


def get_batch(source, i, bptt):
    seq_len = min(bptt, len(source) - 1 - i)
    return source[i : i + seq_len], source[i + 1 : i + 1 + seq_len].view(-1)


def evaluate(model, criterion, data_source, bptt, batch_size):
    model.eval()
    total_loss = 0.0
    hidden = model.init_hidden(batch_size)
    for i in range(0, data_source.size(0) - 1, bptt):
        data, targets = get_batch(data_source, i, bptt)
        output, hidden = model(data, hidden)  # good: TL201
        hidden = repackage_hidden(hidden)
        total_loss += len(data) * criterion(output, targets).item()
    return total_loss / (len(data_source) - 1)


def train(model, criterion, optimizer, train_data, args, epoch):
    model.train()
    total_loss = 0.0
    start_time = time.time()
    hidden = model.init_hidden(args.batch_size)
    for batch, i in enumerate(range(0, train_data.size(0) - 1, args.bptt)):
        data, targets = get_batch(train_data, i, args.bptt)
        hidden = repackage_hidden(hidden)
        output, hidden = model(data, hidden)
        loss = criterion(output, targets)
        loss.backward()
        optimizer.zero_grad()  # good: TL104
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        optimizer.step()
        total_loss += loss.item()
        if batch % args.log_interval == 0 and batch > 0:
            cur_loss = total_loss / args.log_interval
            print(f"| epoch {epoch:3d} | {batch:5d} batches | loss {cur_loss:5.2f}")
            total_loss = 0.0
    return time.time() - start_time


@torch.no_grad()
def generate(model, count, ntokens):
    model.eval()
    hidden = model.init_hidden(1)
    word = torch.zeros(1, 1, dtype=torch.long)
    words = torch.empty(0, dtype=torch.long)
    for _ in range(count):
        output, hidden = model.forward(word, hidden)  # good: TL111
        word = output.argmax(dim=1).view(1, 1)
        words = torch.cat([words, word.view(-1)])  # good: TL503
    return words


def main():
    parser = argparse.ArgumentParser(description="LSTM language model")
    parser.add_argument("--bptt", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--clip", type=float, default=0.25)
    parser.add_argument("--log-interval", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(1111)
    ntokens = 60
    corpus = make_corpus(ntokens, 3200)
    train_data, val_data = batchify(corpus[:2400], args.batch_size), batchify(corpus[2400:], 4)
    model = RNNModel(ntokens, 32, 48, 2)
    criterion = nn.NLLLoss()
    lr = 1.0
    best_val_loss = None
    for epoch in range(1, args.epochs + 1):
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        train(model, criterion, optimizer, train_data, args, epoch)
        val_loss = evaluate(model, criterion, val_data, args.bptt, 4)
        print(f"| end of epoch {epoch:3d} | valid loss {val_loss:5.2f} | valid ppl {math.exp(val_loss):8.2f}")
        if not best_val_loss or val_loss < best_val_loss:
            with open("model.pt", "wb") as f:
                torch.save(model.state_dict(), f)
            best_val_loss = val_loss
        else:
            lr /= 4.0
    print("generated:", " ".join(str(int(w)) for w in generate(model, 12, ntokens)))


if __name__ == "__main__":
    main()
