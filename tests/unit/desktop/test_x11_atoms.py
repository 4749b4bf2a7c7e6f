"""Names of an X server's that somebody invents to fill our memory."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, cast

from subos_desktop.clipboard.formats import MAX_NAME
from subos_desktop.clipboard.x11.atoms import Atoms
from support.agents import on_a_loop


class Server:
    """Knows `names` by number; `asked` is how often."""

    def __init__(self, names: dict[int, str]) -> None:
        self.names = names
        self.asked = 0

    def ask(self, request: bytes, _unpack: Callable[..., str]) -> asyncio.Future[str]:
        self.asked += 1
        found: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        found.set_result(self.names[int.from_bytes(request[4:8], sys.byteorder)])
        return found


@on_a_loop
async def test_a_name_that_is_too_long_is_none_and_is_not_kept() -> None:
    server = Server({1: "text/plain", 2: "a" * MAX_NAME, 3: "b" * (MAX_NAME + 1), 4: "c" * 65535})
    atoms = Atoms(cast(Any, server))
    for _ in range(2):
        assert await atoms.names([1, 2, 3, 4, 3]) == ["text/plain", "a" * MAX_NAME]
    assert server.asked == 4, "it is remembered that they are none"
    assert max(map(len, atoms._names.values())) == MAX_NAME
