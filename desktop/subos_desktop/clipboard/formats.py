"""Names of formats: MIME types for us, targets for X11 (and, by habit, for some programs under Wayland).

Of one canonical name several are in use. Text is UTF-8 for us, whatever the other program calls it and has it
in; line ends are never touched. Sources: ICCCM 2.6.2 and 2.7.1, freedesktop.org's shared MIME database.
"""

from __future__ import annotations

import codecs
import re
from typing import Dict, Iterable, Iterator, List, Optional, Tuple

from .interface import MARKER

TEXT = "text/plain;charset=utf-8"
HTML = "text/html"
RTF = "text/rtf"
PNG = "image/png"
JPEG = "image/jpeg"
BMP = "image/bmp"
TIFF = "image/tiff"
URI_LIST = "text/uri-list"

SECRET = "x-kde-passwordManagerHint"
"""A target of no MIME type, by which password managers say that what they have copied is not to be kept or passed on
(KeePassXC, Bitwarden, `wl-copy --sensitive`). Its only value in use is "secret", so the value is not asked for."""

MAX_FORMATS = 100  # of an offer; LibreOffice has about 40
MAX_NAME = 255

# canonical name: what programs call it, the best to read first
ALIASES: Dict[str, Tuple[str, ...]] = {
    TEXT: ("UTF8_STRING", TEXT, "text/plain", "STRING", "TEXT", "COMPOUND_TEXT"),
    HTML: (HTML,),
    RTF: (RTF, "application/rtf", "text/richtext"),
    PNG: (PNG,),
    JPEG: (JPEG, "image/jpg"),
    BMP: (BMP, "image/x-bmp", "image/x-ms-bmp"),
    TIFF: (TIFF,),
    URI_LIST: (URI_LIST,),
}
# COMPOUND_TEXT is read, but nothing needs to be given it: who knows it knows UTF8_STRING or STRING too.
UNSERVED = ("COMPOUND_TEXT",)

_CANONICAL = {alias.lower(): name for name, aliases in ALIASES.items() for alias in aliases}
_TOKEN = r"[A-Za-z0-9!#$&^_.+-]+"
_MIME = re.compile(rf'{_TOKEN}/{_TOKEN}(;[ ]?{_TOKEN}=({_TOKEN}|"[ !#-\[\]-~]*"))*')


def is_mime(name: str) -> bool:
    """Whether it is a MIME type, with parameters or without (RFC 2045, section 5.1; names as in RFC 6838)."""
    return len(name) <= MAX_NAME and _MIME.fullmatch(name) is not None


def canonical(target: str) -> Optional[str]:
    """The MIME type that a target stands for; None for what is no format (TARGETS, TIMESTAMP, our marker)."""
    if target.startswith(MARKER):
        return None
    known = _CANONICAL.get(target.lower().replace("; ", ";"))
    return known or (target if is_mime(target) else None)


def from_targets(targets: Iterable[str]) -> Dict[str, str]:
    """{MIME type: the target to ask for}, in the order of the targets, at most MAX_FORMATS; none of what is SECRET."""
    targets = list(targets)
    if SECRET in targets:
        return {}
    found: Dict[str, str] = {}
    for target in targets:
        mime = canonical(target)
        if mime is None:
            continue
        if mime not in found:
            if len(found) == MAX_FORMATS:
                break
            found[mime] = target
        elif _rank(mime, target) < _rank(mime, found[mime]):
            found[mime] = target
    return found


def _rank(mime: str, target: str) -> int:
    aliases = [alias.lower() for alias in ALIASES.get(mime, ())]
    target = target.lower().replace("; ", ";")
    return aliases.index(target) if target in aliases else len(aliases)


def to_targets(formats: Iterable[str]) -> Dict[str, str]:
    """{target: MIME type}: under which names to offer these formats. What is no MIME type is left out."""
    targets: Dict[str, str] = {}
    for mime in _first(mime for mime in formats if is_mime(mime)):
        for alias in ALIASES.get(mime, (mime,)):
            if alias not in UNSERVED:
                targets.setdefault(alias, mime)
    return targets


def _first(names: Iterator[str]) -> List[str]:
    return [name for name, _ in zip(names, range(MAX_FORMATS))]


class Recoder:
    """Bytes as they are; the base of those that change them."""

    def feed(self, chunk: bytes, last: bool = False) -> bytes:
        """The next bytes, changed. What cannot be decided yet is kept for the next call: a few bytes at most."""
        return chunk


class _Codec(Recoder):
    def __init__(self, source: str, target: str) -> None:
        self._decoder = codecs.getincrementaldecoder(source)("replace")
        self._target = target

    def feed(self, chunk: bytes, last: bool = False) -> bytes:
        return self._decoder.decode(chunk, last).encode(self._target, "replace")


class _CompoundText(Recoder):
    """X.Org's Compound Text, of which Latin-1 and UTF-8 segments are understood; others become U+FFFD.

    An escape sequence is ESC, intermediate bytes 2/0 to 2/15, and a final one. ESC % G begins a UTF-8 segment, ESC % @
    ends it.
    """

    LONGEST = 8  # of an escape sequence; a longer one is none
    _ESCAPE = re.compile(rb"\x1b([\x20-\x2f]*)([\x30-\x7e])")
    _LATIN1 = (b"\x1b(B", b"\x1b)B", b"\x1b-A", b"\x1b%@")  # ASCII to the left, Latin-1 to the right

    def __init__(self) -> None:
        self._kept = b""
        self._decoder = codecs.getincrementaldecoder("latin-1")("replace")

    def feed(self, chunk: bytes, last: bool = False) -> bytes:
        data, out = self._kept + chunk, []
        self._kept = b""
        while True:
            text, escape, data = data.partition(b"\x1b")
            out.append(self._decoder.decode(text))
            if not escape:
                break
            data = escape + data
            found = self._ESCAPE.match(data)
            if found:
                self._switch(found.group())
                data = data[found.end() :]
            elif last or len(data) >= self.LONGEST:
                data = data[1:]
            else:
                self._kept = data
                break
        if last:
            out.append(self._decoder.decode(b"", True))
        return "".join(out).encode("utf-8", "replace")

    def _switch(self, escape: bytes) -> None:
        name = "latin-1" if escape in self._LATIN1 else "utf-8" if escape == b"\x1b%G" else "ascii"
        self._decoder = codecs.getincrementaldecoder(name)("replace")


def reader(kind: str) -> Recoder:
    """To what we hand on from what a program gave; `kind` is the type that it said it has."""
    if kind == "STRING":
        return _Codec("latin-1", "utf-8")
    if kind == "COMPOUND_TEXT":
        return _CompoundText()
    return Recoder()


def writer(target: str) -> Tuple[str, Recoder]:
    """(the type to say, the way there) from what we were given to what a program asked for."""
    if target == "STRING":
        return target, _Codec("utf-8", "latin-1")
    if target == "TEXT":
        return "UTF8_STRING", Recoder()
    return target, Recoder()
