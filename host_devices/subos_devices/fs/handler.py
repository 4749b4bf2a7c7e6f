"""What serves the chains of a queue: the compiled handler where it and its ring are in use, else the plain one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..fast import compiled
from ..vhost_user.virtqueue import Virtqueue, Words
from .requests import request_handler
from .server import FuseServer

_hot: Any = compiled("subos_devices.fs._hot")


def handler(server: FuseServer, queue: Virtqueue) -> Callable[[Words], int]:
    """For `queue.drain`."""
    if _hot is None or type(queue) is Virtqueue:
        return request_handler(server, queue)
    serve: Callable[[Words], int] = _hot.FsHandler(server, queue)
    return serve
