"""Path shim: in a checkout the rules live in the top-level `rules/` folder, in a wheel they lie beside this file."""

from pathlib import Path

_here = Path(__file__).resolve().parent
if not any(p.name != "__init__.py" for p in _here.glob("*.py")):
    __path__ = [str(_here.parents[1] / "rules")]
