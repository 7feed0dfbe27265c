"""Trees without whitespace, on which rules find out cheaply that they have nothing to say."""

from torchlint.skeleton.file import Skeleton
from torchlint.skeleton.missing import NeedsText

__all__ = ["NeedsText", "Skeleton"]
