"""The clipboard of a desktop: one interface (interface.py) over X11, Wayland, pyperclip and memory.

clipboard = choose()
async with clipboard:
    async for offer in clipboard.offers():
        ...
"""

from __future__ import annotations

from .choosing import BACKENDS, Choice, choose, probe
from .formats import BMP, HTML, JPEG, PNG, RTF, TEXT, TIFF, URI_LIST
from .interface import (
    CHUNK,
    MARKER,
    PATIENCE,
    Clipboard,
    ClipboardError,
    Disconnected,
    Malformed,
    NotOffered,
    Offer,
    Provider,
    Selection,
    Stalled,
    TooLarge,
    Unavailable,
)
from .streams import closing, gather, read_all

__all__ = [
    "BACKENDS", "BMP", "CHUNK", "HTML", "JPEG", "MARKER", "PATIENCE", "PNG", "RTF", "TEXT", "TIFF", "URI_LIST",
    "Choice", "Clipboard", "ClipboardError", "Disconnected", "Malformed", "NotOffered", "Offer", "Provider",
    "Selection", "Stalled", "TooLarge", "Unavailable", "choose", "closing", "gather", "probe", "read_all",
]  # fmt: skip
