"""Runs a script as `__main__` through the verifier's agent: `python launch.py script.py ARGS…`."""

import os
import sys

script = sys.argv[1]
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(os.path.realpath(script))

from torchlint.verify import agent  # noqa: E402 (the path must be the script's own first)

_code, _space = agent.main_code(script), sys.modules["__main__"].__dict__
_space.update(__file__=script, __doc__=None)
for _name in ("script", "agent", "os", "sys", "annotations"):
    _space.pop(_name, None)
exec(_space.pop("_code"), _space.pop("_space"))
