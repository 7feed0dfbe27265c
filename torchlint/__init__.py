"""torchlint: a linter for PyTorch training code that fixes what it finds and proves each fix by running it."""

__version__ = "0.1.0"
