"""The ring in use: the compiled one where it was built, else the plain one, which does the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..fast import compiled
from .virtqueue import Virtqueue

if not TYPE_CHECKING:  # the plain one's types are those of both
    _ring = compiled("subos_devices.vhost_user._ring")
    if _ring is not None:
        Virtqueue = _ring.Virtqueue

__all__ = ["Virtqueue"]
