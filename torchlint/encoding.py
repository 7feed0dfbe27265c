"""Bytes of a source file to text and back, so that what a fix does not touch stays as it was, byte for byte.

PEP 263 decides the encoding. The text keeps its own newlines; a UTF-8 byte order mark is taken off and remembered.
"""

from __future__ import annotations

from torchlint.discover import DOCUMENTS

BOM = b"\xef\xbb\xbf"
# Codecs from packages that read UTF-8 and rewrite the source as Python loads it.
_UTF8_CODECS = frozenset(("future-fstrings", "future-annotations", "future-typing", "future-match"))


class Undecodable(Exception):
    """The bytes are not text in the declared encoding. `row` is 1-based."""

    def __init__(self, message: str, row: int = 1, column: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.row = row
        self.column = column


class Source:
    """A decoded file: the text without its mark, and what is needed to write it back."""

    __slots__ = ("bom", "data", "encoding", "text")

    def __init__(self, data: bytes, text: str, encoding: str, bom: bool) -> None:
        self.data = data
        self.text = text
        self.encoding = encoding
        self.bom = bom

    def encode(self, text: str) -> bytes:
        """`text` as bytes in this file's encoding. Raises UnicodeEncodeError where it has no room for a character."""
        return (BOM if self.bom else b"") + text.encode(self.encoding)

    @property
    def exact(self) -> bool:
        """Whether writing the unchanged text gives the bytes that were read; if not, the file must not be rewritten."""
        try:
            return self.encode(self.text) == self.data
        except UnicodeError:  # encodings that are no text encodings: idna, unicode_escape
            return False


def decode(data: bytes) -> Source:
    """Decode source bytes as Python does. Raises Undecodable."""
    bom = data.startswith(BOM)
    body = data[3:] if bom else data
    encoding = _declared(body)
    if bom and encoding != "utf-8":
        raise Undecodable(f"the file starts with a UTF-8 byte order mark but declares {encoding!r}")
    try:
        return Source(data, body.decode(encoding), encoding, bom)
    except UnicodeDecodeError as error:
        row = body.count(b"\n", 0, error.start) + 1
        column = error.start - (body.rfind(b"\n", 0, error.start) + 1) + 1
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            what = "the file is UTF-16, which Python does not read: save it as UTF-8"
        elif encoding == "utf-8":
            what = f"byte 0x{body[error.start]:02x} is not UTF-8 and the file declares no other encoding"
        else:
            what = f"byte 0x{body[error.start]:02x} is not valid in the declared encoding {encoding!r}"
        raise Undecodable(what, row, column) from error
    except (UnicodeError, LookupError, ValueError) as error:  # "undefined", "hex" and others that Python knows
        raise Undecodable(f"the declared encoding {encoding!r} is no encoding for source text") from error


def decode_file(path: str, data: bytes) -> Source:
    """Decode a file as its name says: the cells of a notebook joined to one program, prose as it stands there, anything
    else as Python source. Raises Undecodable.
    """
    if path.endswith(".ipynb"):
        from torchlint.notebook import decode as decode_notebook

        return decode_notebook(data)
    return _prose(data) if path.endswith(DOCUMENTS) else decode(data)


def _prose(data: bytes) -> Source:
    """A document, which declares no encoding: one that is not UTF-8 keeps its bytes as Latin-1."""
    bom = data.startswith(BOM)
    body = data[3:] if bom else data
    try:
        return Source(data, body.decode("utf-8"), "utf-8", bom)
    except UnicodeDecodeError:
        return Source(data, body.decode("latin-1"), "latin-1", bom)


def encoded(text: str) -> bytes:
    """A text as saving it would write it, in the encoding that it declares, `?` for what that cannot express."""
    data = text.encode("utf-8", "replace")
    try:
        encoding = decode(data).encoding
    except Undecodable:  # checking these bytes says so
        return data
    return data if encoding == "utf-8" else text.removeprefix("\ufeff").encode(encoding, "replace")


def _declared(body: bytes) -> str:
    """The encoding that a comment in the first two lines names, else UTF-8. Raises Undecodable for an unknown one."""
    second = body.find(b"\n", body.find(b"\n") + 1)
    head = body[: second if second >= 0 else 400]
    if b"coding" not in head and b"\r" not in head:
        return "utf-8"
    import io
    import tokenize

    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")).readline)
    except SyntaxError as error:
        message = str(error.msg or error)
        if message.startswith("unknown encoding"):
            if message[18:].strip().lower().replace("_", "-") in _UTF8_CODECS:
                return "utf-8"
            raise Undecodable(f"the file declares an encoding that Python does not know: {message[18:]}") from error
        return "utf-8"  # not UTF-8 in its first lines: decoding says where
    return "utf-8" if encoding == "utf-8-sig" else encoding
