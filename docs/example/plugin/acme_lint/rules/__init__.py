"""Each module beside this one holds one rule."""

TORCHLINT_API = 1
