"""What TL506 and TL507 advise in place of the loops they report gives the loops' results."""

import copy

import pytest

torch = pytest.importorskip("torch")


def test_one_call_for_all_samples() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()).eval()
    images = torch.randn(5, 3, 8, 8)
    looped = torch.cat([net(images[i].unsqueeze(0)) for i in range(images.size(0))])
    torch.testing.assert_close(net(images), looped)


def test_an_axis_folded_into_the_batch() -> None:
    torch.manual_seed(0)
    encoder = torch.nn.Conv2d(3, 4, 3)
    frames = torch.randn(2, 5, 3, 8, 8)
    looped = torch.stack([encoder(frames[:, t]) for t in range(frames.shape[1])], 1)
    torch.testing.assert_close(encoder(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]), looped)


def test_all_parameters_averaged_at_once() -> None:
    torch.manual_seed(0)
    model, looped = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    target, tau = copy.deepcopy(looped), 0.9
    with torch.no_grad():
        for t, p in zip(looped.parameters(), model.parameters()):
            t.mul_(tau).add_(p, alpha=1 - tau)
        torch._foreach_lerp_(list(target.parameters()), list(model.parameters()), 1 - tau)
    torch.testing.assert_close(list(target.parameters()), list(looped.parameters()))


def test_all_parameters_moved_at_once() -> None:
    torch.manual_seed(0)
    looped, lr = torch.nn.Linear(4, 3), 0.1
    model, x = copy.deepcopy(looped), torch.randn(7, 4)
    looped(x).pow(2).mean().backward()
    model(x).pow(2).mean().backward()
    with torch.no_grad():
        for p in looped.parameters():
            p -= lr * p.grad
    torch.optim.SGD(model.parameters(), lr=lr).step()
    torch.testing.assert_close(list(model.parameters()), list(looped.parameters()))
