"""What comes back from the processes of a verified run, read as data: none of it may act here, outside the sandbox.

Verdicts of tier 2 are JSON, records of tier 3 are pickles, read with nothing but the few types that a record is made
of; each carries a keyed digest. The key is new for each run. It lies where the run's own processes can find it, since
each of them must sign: the digest shows what was damaged or written by a bystander, not what a program says that is
out to deceive.
"""

from __future__ import annotations

import hmac
import io
import itertools
import json
import pickle
import struct
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

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


class Record:
    """A record file being written. Each item's digest covers its place in the file."""

    def __init__(self, path: str, key: str) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 (closed when the program ends)
        self._key, self._count = key, 0

    def add(self, item: Any) -> None:
        """Write an item so that it is there however the program ends."""
        data = seal(pickle.dumps(item), self._key, self._count)
        self._file.write(_LENGTH.pack(len(data)) + data)
        self._file.flush()
        self._count += 1

    def close(self) -> None:
        self._file.close()


_LENGTH = struct.Struct("<Q")


def items(path: str, key: str) -> Iterator[Any]:
    """The objects of a record file, up to where a killed run has stopped. Raises Forged."""
    if Path(path).is_symlink() or not Path(path).is_file() or Path(path).stat().st_size > _MOST:
        raise Forged
    with open(path, "rb") as file:
        for number in itertools.count():
            head = file.read(_LENGTH.size)
            if len(head) < _LENGTH.size:
                return
            (length,) = _LENGTH.unpack(head)
            data = file.read(min(length, _MOST))
            if len(data) < length:
                return
            yield _item(unsealed(data, key, number))


def seal(data: bytes, key: str, number: int = 0) -> bytes:
    """Data with a digest before it."""
    return _digest(data, key, number) + data


def unsealed(data: bytes, key: str, number: int = 0) -> bytes:
    """What was sealed. Raises Forged."""
    if not hmac.compare_digest(_digest(data[_DIGEST:], key, number), data[:_DIGEST]):
        raise Forged
    return data[_DIGEST:]


_DIGEST = 32  # bytes


def _digest(data: bytes, key: str, number: int) -> bytes:
    return blake2b(number.to_bytes(8, "little") + data, key=bytes.fromhex(key), digest_size=_DIGEST).digest()


def _item(data: bytes) -> Any:
    try:
        return _Reader(io.BytesIO(data)).load()
    except Forged:
        raise
    except Exception as error:
        raise Forged from error
