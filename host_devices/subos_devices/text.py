"""Text from where nobody can be trusted, made fit to be shown."""

from __future__ import annotations


def printable(text: str | bytes, limit: int = 300) -> str:
    """What a guest or a worker has said, for a message or the log: one line of at most `limit` letters.

    Nothing in it steers the terminal that it is shown on.
    """
    if isinstance(text, bytes):
        text = text[: 4 * limit + 4].decode("utf-8", "replace")
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[:limit])
    return f"{shown}…" if len(text) > limit else shown
