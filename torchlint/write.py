"""Puts a fixed text into the user's file: whole or not at all, whatever happens meanwhile. No other module writes one.

The new bytes go to a file of their own beside the old one, which then takes its place in one step.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Sequence
from contextlib import suppress

from torchlint import cache
from torchlint.encoding import decode_file

_PREFIX, _SUFFIX = ".torchlint-", ".tmp"
_ABANDONED = 60.0  # seconds; a file in the making is there for some milliseconds
# What fsync says on file systems that have none: then there is nothing to wait for.
_NO_FSYNC = frozenset((errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP))
_swept: set[str] = set()


def write(path: str, content: bytes, text: str, inside: Sequence[str]) -> str | None:
    """Put `text` into a file in the file's own encoding; a line saying why if it was not written.

    `content` is the digest of the bytes that the text was made from: a file that has changed since is left alone, and
    so is one that nobody may write. A link is written through only where its target lies inside the given paths.
    """
    target = os.path.realpath(path)
    if target != os.path.abspath(path) and not any(_within(target, _top(one)) for one in inside):
        return f"{path}: not written: it links to {target}, which is outside the given paths"
    changed = f"{path}: not written: it changed on disk while it was being fixed; run again"
    try:
        info = os.stat(target)  # before it is read: what changes later must show
        with open(target, "rb") as handle:
            old = handle.read()
        if cache.digest(old) != content:
            return changed
        if not info.st_mode & 0o222 or not os.access(target, os.W_OK):
            return f"{path}: not written: it is read-only; make it writable first"
        data = decode_file(target, old).encode(text)
        _sweep(os.path.dirname(target))
        if not _replace(target, data, info):
            return changed
    except UnicodeEncodeError as error:
        character = error.object[error.start : error.end]
        return f"{path}: not written: the fix holds {character!r}, which {error.encoding} cannot express"
    except OSError as error:
        return f"{path}: not written: {error.strerror or error}"
    return None


def _top(path: str) -> str:
    """Where links may lead that are met below a given path. A file that is itself a link vouches for its folder only:
    `fix *.py` names whatever links a checkout holds."""
    return os.path.realpath(path) if os.path.isdir(path) else os.path.realpath(os.path.dirname(path))


def _within(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip(os.sep) + os.sep)


def _replace(target: str, data: bytes, info: os.stat_result) -> bool:
    """Give a file new bytes in one step; False, and nothing is done, if it is not the file of `info` any more."""
    temporary = os.path.join(os.path.dirname(target), f"{_PREFIX}{os.urandom(6).hex()}{_SUFFIX}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:  # around the making, too: a signal may come right behind it
        with open(os.open(temporary, flags, 0o600), "wb") as out:
            out.write(data)
            out.flush()
            _fsync(out.fileno())
        _dress(temporary, target, info)
        if _identity(os.stat(target)) != _identity(info):
            os.unlink(temporary)
            return False
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    return True


def _identity(info: os.stat_result) -> tuple[int, int, int]:
    return (cache.changed_at(info), info.st_size, info.st_ino)


def _fsync(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise


def _dress(temporary: str, target: str, info: os.stat_result) -> None:
    """Give the new file the owner, the attributes (access lists among them) and the mode of the old one.

    Owner and attributes as far as we may; a mode that cannot be kept raises OSError.
    """
    mine = os.stat(temporary)
    if hasattr(os, "chown") and (mine.st_uid, mine.st_gid) != (info.st_uid, info.st_gid):
        with suppress(OSError):
            os.chown(temporary, info.st_uid, info.st_gid)
    if hasattr(os, "listxattr"):
        with suppress(OSError):
            for name in os.listxattr(target):
                os.setxattr(temporary, name, os.getxattr(target, name))
    try:
        os.chmod(temporary, stat.S_IMODE(info.st_mode))
    except OSError:
        if stat.S_IMODE(os.stat(temporary).st_mode) != stat.S_IMODE(info.st_mode):
            raise


def _sweep(folder: str) -> None:
    """Remove what runs that were killed have left in a folder, once per run."""
    if folder in _swept:
        return
    _swept.add(folder)
    with suppress(OSError), os.scandir(folder) as scan:
        for entry in scan:
            if not (entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX)):
                continue
            with suppress(OSError):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED:
                    os.unlink(entry.path)
