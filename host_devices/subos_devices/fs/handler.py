"""What serves the chains of a queue: the compiled handler where it and its ring are in use, else the plain one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..fast import compiled
from ..vhost_user.virtqueue import Virtqueue, Words
from .journal import Slot
from .requests import request_handler
from .server import FuseServer

_hot: Any = compiled("subos_devices.fs._hot")


def handler(server: FuseServer, queue: Virtqueue) -> Callable[[Words], int]:
    """For `queue.drain`."""
    slot = server.share.journal.slot(queue.index)
    if _hot is None or type(queue) is Virtqueue:
        return request_handler(server, queue, slot)
    serve: Callable[[Words], int] = _hot.FsHandler(server, queue, slot)
    return serve


def retrying(server: FuseServer, queue: Virtqueue) -> Callable[[Words], int]:
    """For `queue.retry`: what was answered LATER is no replay, and comes before what may be one."""
    return request_handler(server, queue, Slot.scratch())
