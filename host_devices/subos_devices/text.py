"""Text from where nobody can be trusted, made fit to be shown."""

from __future__ import annotations

import codecs


def printable(text: str | bytes, limit: int = 300) -> str:
    """What a guest or a worker has said, for a message or the log: one line of at most `limit` letters.

    Nothing in it steers the terminal that it is shown on.
    """
    if isinstance(text, bytes):
        text = text[: 4 * limit + 4].decode("utf-8", "replace")
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[:limit])
    return f"{shown}…" if len(text) > limit else shown


class Shown:
    """The bytes of a text of many lines, made fit for a terminal: newlines and tabs stay, nothing else steers it."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes, last: bool = False) -> bytes:
        """The next ones, as UTF-8."""
        text = self._decoder.decode(data, last)
        return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text).encode()
