"""Lines for the user beside the findings: one each, on standard error, with nothing in them that acts on a terminal."""

from __future__ import annotations

import sys


def tell(line: str) -> None:
    """Say what went wrong. File names and settings may be quoted in it as they are."""
    print(f"torchlint: {harmless(line)}", file=sys.stderr, flush=True)


def harmless(text: str) -> str:
    """The text on one line; what a checkout puts into it must neither move the cursor nor begin a line of its own."""
    if text.isascii() and text.isprintable():
        return text
    from torchlint.report.terminal import clean  # takes longer to import than a warm run may

    return clean(text)


def harmless_code(text: str) -> str:
    """The same for lines of code, whose line ends and tabs are kept."""
    return "".join(
        "\t".join(map(harmless, line.rstrip("\r\n").split("\t"))) + line[len(line.rstrip("\r\n")) :]
        for line in text.splitlines(keepends=True)
    )
