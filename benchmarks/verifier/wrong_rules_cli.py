"""torchlint's own command line with the wrong rules of `programs/wrong_rules/` beside the real ones.

`python wrong_rules_cli.py fix …` is `torchlint fix …`; the engine loads the wrong rules as it loads any other.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import torchlint.rules  # noqa: E402
from torchlint.cli import main  # noqa: E402

torchlint.rules.__path__.append(str(HERE / "programs" / "wrong_rules"))

if __name__ == "__main__":
    raise SystemExit(main())
