"""`torchlint server`: the language server, for editors that speak the Language Server Protocol over stdio."""

from __future__ import annotations

import importlib.util
import sys

from torchlint.options import Arguments

TROUBLE = 2


def main(arguments: Arguments) -> int:
    """Serve one editor until it says goodbye; 0 if it did so properly, 1 if it just went away."""
    if arguments.paths:
        print("torchlint: torchlint server takes no PATH; the editor says what is open", file=sys.stderr)
        return TROUBLE
    if any(importlib.util.find_spec(name) is None for name in ("pygls", "lsprotocol")):
        print("torchlint: torchlint server needs pygls: pip install 'torchlint[server]'", file=sys.stderr)
        return TROUBLE
    try:
        from torchlint.server.service import serve
    except ImportError as error:  # an older pygls has other modules
        print(
            f"torchlint: torchlint server cannot use the pygls that is installed ({error}): "
            "pip install -U 'torchlint[server]'",
            file=sys.stderr,
        )
        return TROUBLE
    return serve()
