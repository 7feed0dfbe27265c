"""Whole-script rewrites: first the script's shape is understood, then edits follow from it.

`Script` says where a file's models, loaders and loops come from and which of them train. `to_ddp` turns a script that
trains under `nn.DataParallel` into one that runs one process per GPU, or says in words why it cannot.
"""

from torchlint.migrate import sharding
from torchlint.migrate.ddp import Migration, to_ddp
from torchlint.migrate.epochs import NotUnderstood
from torchlint.migrate.evidence import Trained, trained
from torchlint.migrate.script import Script

__all__ = ["Migration", "NotUnderstood", "Script", "Trained", "sharding", "to_ddp", "trained"]
