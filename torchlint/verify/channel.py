"""What comes back from the processes of a verified run, read as data: none of it may act here, outside the sandbox.

Verdicts of tier 2 are JSON with a keyed digest; records of tier 3 are pickles, read with nothing but the few types that
a record is made of. The key is new for each run. It lies where the run's own processes can find it, since each of them
must sign: the digest shows what was damaged or written by a bystander, not what a program says that is out to deceive.
"""

from __future__ import annotations

import hmac
import io
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

_MOST = 4 << 30  # bytes of a record file


class Forged(Exception):
    """A result that was not written by the verifier's own agent, or was changed since."""


def sign(data: Any, key: str) -> str:
    """A result as text."""
    body = json.dumps(data)
    return json.dumps({"body": body, "mac": _mac(body, key)})


def verified(text: str, key: str) -> Any:
    """What was signed. Raises Forged."""
    try:
        outer = json.loads(text)
        body, mac = outer["body"], outer["mac"]
        if not hmac.compare_digest(_mac(body, key), mac):
            raise Forged
        return json.loads(body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Forged from error


def _mac(body: str, key: str) -> str:
    return hmac.new(bytes.fromhex(key), body.encode(), "blake2b").hexdigest()


_BUILTIN = frozenset(("set", "frozenset", "complex", "slice", "range", "bytearray"))


class _Reader(pickle.Unpickler):
    """Builds records and tensors; a pickle that names anything else is refused before that is even imported."""

    def find_class(self, module: str, name: str) -> Any:
        import torch

        from torchlint.verify import observe

        if module == observe.__name__ and name in ("Observation", "TensorLeaf", "DigestLeaf"):
            return getattr(observe, name)
        if module == "torch" and isinstance(getattr(torch, name, None), (torch.dtype, torch.layout)):
            return getattr(torch, name)
        if (module, name) == ("torch", "Size"):
            return torch.Size
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
            return getattr(torch._utils, name)
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _storage
        if (module, name) == ("torch.serialization", "_get_layout"):
            return torch.serialization._get_layout
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if (module, name) == ("torch", "device"):
            return torch.device
        if module == "builtins" and name in _BUILTIN:
            import builtins

            return getattr(builtins, name)
        raise Forged(f"a record names {module}.{name}")


def _storage(data: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(data), weights_only=True)


def items(path: str) -> Iterator[Any]:
    """The objects of a record file, up to where a killed run has stopped. Raises Forged."""
    if Path(path).is_symlink() or not Path(path).is_file() or Path(path).stat().st_size > _MOST:
        raise Forged
    with open(path, "rb") as file:
        yield from _items(file)


def _items(file: BinaryIO) -> Iterator[Any]:
    while True:
        try:
            item = _Reader(file).load()
        except (EOFError, pickle.UnpicklingError):
            return
        except Forged:
            raise
        except Exception as error:
            raise Forged from error
        yield item
