"""`python -m torchlint`."""

import os
import sys

# `python -m` looks for modules in the current folder first: what lies in a checkout must not stand in for what we need.
# (For `torchlint` itself it has looked already: see docs/security.md.)
_ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if sys.path and sys.path[0] in ("", os.getcwd()) and os.path.realpath(_ours) != os.path.realpath(os.getcwd()):
    del sys.path[0]

from torchlint.cli import main  # noqa: E402 (the path comes first)

if __name__ == "__main__":
    sys.exit(main())
