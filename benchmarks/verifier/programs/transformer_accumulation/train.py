"""A tiny causal transformer trained with gradient accumulation and autocast (bfloat16 on the CPU)."""

import math
from contextlib import nullcontext

import torch
import torch.nn as nn
from torch.nn import functional as F

# -----------------------------------------------------------------------------
batch_size = 8
block_size = 32
gradient_accumulation_steps = 4
max_iters = 6
eval_interval = 3
eval_iters = 3
n_layer, n_head, n_embd, vocab_size = 2, 4, 32, 40
learning_rate = 1e-3
dtype = "bfloat16"
# -----------------------------------------------------------------------------


class CausalSelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.c_attn = nn.Linear(n_embd, 3 * n_embd)
        self.c_proj = nn.Linear(n_embd, n_embd)
        self.register_buffer("bias", torch.tril(torch.ones(block_size, block_size)).view(1, 1, block_size, block_size))

    def forward(self, x):
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(n_embd, dim=2)
        k = k.view(B, T, n_head, C // n_head).transpose(1, 2)
        q = q.view(B, T, n_head, C // n_head).transpose(1, 2)
        v = v.view(B, T, n_head, C // n_head).transpose(1, 2)
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf"))
        y = F.softmax(att, dim=-1) @ v  # wrong: BAD004
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.attn = CausalSelfAttention()
        self.mlp = nn.Sequential(nn.Linear(n_embd, 4 * n_embd), nn.GELU(), nn.Linear(4 * n_embd, n_embd))

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab_size, n_embd), nn.Embedding(block_size, n_embd)
        self.blocks = nn.Sequential(*[Block() for _ in range(n_layer)])
        self.ln_f = nn.LayerNorm(n_embd)
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)

    def forward(self, idx, targets):
        x = self.wte(idx) + self.wpe(torch.arange(idx.size(1)))
        logits = self.lm_head(self.ln_f(self.blocks(x)))
        return logits, F.cross_entropy(logits.view(-1, vocab_size), targets.view(-1))


class Trainer:
    def __init__(self, model, optimizer, train_data, val_data):
        self.model, self.optimizer = model, optimizer
        self.train_data, self.val_data = train_data, val_data
        self.ctx = nullcontext() if dtype == "float32" else torch.autocast("cpu", dtype=torch.bfloat16)
        self.history = []

    def get_batch(self, split):
        data = self.train_data if split == "train" else self.val_data
        ix = torch.randint(len(data) - block_size, (batch_size,))
        x = torch.stack([data[i : i + block_size] for i in ix])
        y = torch.stack([data[i + 1 : i + 1 + block_size] for i in ix])
        return x, y

    def estimate_loss(self):
        out = {}
        self.model.eval()
        for split in ["train", "val"]:
            losses = torch.zeros(eval_iters)
            for k in range(eval_iters):
                X, Y = self.get_batch(split)
                with self.ctx:
                    _, loss = self.model(X, Y)  # good: TL201
                losses[k] = loss.item()
            out[split] = losses.mean()
        self.model.train()
        return out

    def train_epoch(self, iters):
        self.model.train()
        for micro in range(iters * gradient_accumulation_steps):
            self.optimizer.zero_grad()  # good: TL102
            X, Y = self.get_batch("train")
            with self.ctx:
                _, loss = self.model(X, Y)
            loss.backward()  # good: TL106
            self.history.append(loss)  # good: TL601
            if (micro + 1) % gradient_accumulation_steps == 0:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimizer.step()
                self.optimizer.zero_grad()

    def positions(self, x: torch.Tensor):
        """Each row of a batch as shares of its sum."""
        shares = []
        for i in range(x.shape[0]):
            shares.append(x[i] / x[i].sum())  # good: TL501
        return torch.stack(shares)


def main():
    torch.manual_seed(1337)
    steps = torch.randint(1, 4, (4000,)).cumsum(0) % vocab_size
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95))
    trainer = Trainer(model, optimizer, steps[:3500], steps[3500:])
    for it in range(0, max_iters, eval_interval):
        losses = trainer.estimate_loss()
        print(f"step {it}: train loss {losses['train']:.4f}, val loss {losses['val']:.4f}")
        trainer.train_epoch(eval_interval)
    print("mean loss", round(sum(float(loss) for loss in trainer.history) / len(trainer.history), 4))
    print("shares", trainer.positions(steps[: 4 * 16].view(4, 16).float()).sum().item())
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iters": max_iters}, "ckpt.pt")


if __name__ == "__main__":
    main()
