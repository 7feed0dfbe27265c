"""A GAN on a ring of Gaussians, as one script without functions around the training loop."""

import argparse
import os

import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

os.makedirs("images", exist_ok=True)

parser = argparse.ArgumentParser()
parser.add_argument("--n_epochs", type=int, default=3, help="number of epochs of training")
parser.add_argument("--batch_size", type=int, default=64, help="size of the batches")
parser.add_argument("--lr", type=float, default=0.0002, help="adam: learning rate")
parser.add_argument("--b1", type=float, default=0.5, help="adam: decay of first order momentum of gradient")
parser.add_argument("--latent_dim", type=int, default=16, help="dimensionality of the latent space")
parser.add_argument("--sample_interval", type=int, default=4, help="interval between image samples")
opt = parser.parse_args()

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.manual_seed(0)
np.random.seed(0)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(opt.latent_dim, 64),
            nn.LeakyReLU(0.2),
            nn.Linear(64, 64),
            nn.BatchNorm1d(64),
            nn.LeakyReLU(0.2),
            nn.Linear(64, 2),
        )

    def forward(self, z):
        return self.model(z)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1), nn.Sigmoid())

    def forward(self, img):
        return self.model(img)


def ring(count):
    angle = torch.from_numpy(np.random.randint(0, 8, count)).float() * (2 * np.pi / 8)
    return torch.stack([angle.cos(), angle.sin()], dim=1) + 0.05 * torch.randn(count, 2)


def sample_image(n_row, batches_done):
    """Saves a grid of generated points"""
    z = torch.randn(n_row**2, opt.latent_dim, device=device)
    gen_imgs = generator(z)
    np.save(f"images/{batches_done}.npy", gen_imgs.detach().cpu().numpy())


def radii(points: torch.Tensor):
    """How far each generated point is from the middle of the ring."""
    out = torch.zeros(points.shape[0])
    for i in range(points.shape[0]):
        out[i] = points[i].norm()  # good: TL501
    return out


adversarial_loss = torch.nn.BCELoss()
generator = Generator().to(device)
discriminator = Discriminator().to(device)
dataloader = DataLoader(TensorDataset(ring(512)), batch_size=opt.batch_size, shuffle=True)
optimizer_G = torch.optim.Adam(generator.parameters(), lr=opt.lr, betas=(opt.b1, 0.999))
optimizer_D = torch.optim.Adam(discriminator.parameters(), lr=opt.lr, betas=(opt.b1, 0.999))

d_losses = []
for epoch in range(opt.n_epochs):
    for i, (imgs,) in enumerate(dataloader):
        valid = torch.ones(imgs.size(0), 1).to(device)  # good: TL401
        fake = torch.zeros(imgs.size(0), 1).to(device)  # good: TL401

        imgs = imgs.to(device)

        # Train Generator
        optimizer_G.zero_grad()
        z = torch.randn(opt.batch_size, opt.latent_dim, device=device)  # wrong: BAD003
        gen_imgs = generator(z)
        g_loss = adversarial_loss(discriminator(gen_imgs), valid)
        g_loss.backward()
        optimizer_G.step()

        # Train Discriminator
        optimizer_D.zero_grad()
        real_loss = adversarial_loss(discriminator(imgs), valid)
        fake_loss = adversarial_loss(discriminator(gen_imgs.detach()), fake)
        d_loss = (real_loss + fake_loss) / 2
        d_loss.backward()
        optimizer_D.step()
        d_losses.append(d_loss)  # good: TL601

        batches_done = epoch * len(dataloader) + i
        if batches_done % opt.sample_interval == 0:
            sample_image(n_row=5, batches_done=batches_done)
    print(f"[Epoch {epoch}/{opt.n_epochs}] [D loss: {d_loss.item():.6f}] [G loss: {g_loss.item():.6f}]")

with torch.no_grad():
    points = generator(torch.randn(40, opt.latent_dim, device=device)).cpu()
    print(f"radius: {radii(points).mean().item():.4f}")
print(f"mean D loss: {torch.stack(d_losses).mean().item():.4f}")
torch.save(generator.state_dict(), "generator.pt")
