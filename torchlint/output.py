"""Files that a run is asked to write for other programs (`--output-file`, `--write-baseline`): whole or not at all."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress


def put(path: str, text: str) -> str | None:
    """Write a text as UTF-8; a line saying why if it was not written, and then the file is as it was.

    A link is written through. What is no regular file (/dev/stdout, a pipe) is written to as it is.
    """
    data = text.encode("utf-8", "backslashreplace")
    try:
        if _is_stdout(path):  # as /dev/stdout; where that is a file, replacing it would take away what is in it
            sys.stdout.flush()
            with open(os.dup(1), "wb") as out:
                out.write(data)
            return None
        mode = _mode(path)
        if mode is None:
            with open(path, "wb") as device:  # a pipe's real path names nothing that could be opened
                device.write(data)
            return None
        _replace(os.path.realpath(path), data, mode)
    except (OSError, ValueError) as error:
        folder = os.path.dirname(path)
        if isinstance(error, (FileNotFoundError, NotADirectoryError)) and not os.path.isdir(folder or "."):
            return f"{path}: cannot be written: there is no folder {folder}"
        return f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}"
    return None


def _is_stdout(path: str) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(1))
    except OSError:
        return False


def _mode(path: str) -> int | None:
    """The permissions that the file is to have, None for what is no regular file."""
    try:
        info = os.stat(path)
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(21, "it is a folder")
    if not stat.S_ISREG(info.st_mode):
        return None
    if not os.access(path, os.W_OK):
        raise PermissionError(13, "it is read-only")
    return stat.S_IMODE(info.st_mode)


def _replace(target: str, data: bytes, mode: int) -> None:
    temporary = os.path.join(os.path.dirname(target), f".torchlint-{os.urandom(6).hex()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:  # around the making, too: a signal may come right behind it
        with open(os.open(temporary, flags, 0o600), "wb") as out:
            out.write(data)
        os.chmod(temporary, mode)
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
