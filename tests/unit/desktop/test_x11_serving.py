"""A program that pastes very much at once: what is kept for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

from subos_desktop.clipboard.interface import CHUNK
from subos_desktop.clipboard.x11 import requests
from subos_desktop.clipboard.x11.atoms import Atoms
from subos_desktop.clipboard.x11.requests import words
from subos_desktop.clipboard.x11.serving import MAX_PAIRS, MAX_TRANSFERS, Held, Owner
from subos_desktop.clipboard.x11.wire import Property, SelectionRequest
from support.agents import on_a_loop

CLIPBOARD, MULTIPLE, PNG, INCR = 1, 2, 3, 4


class Server:
    """A connection over which nothing is ever taken; `asked` counts the answers of data that is to come in parts."""

    max_property = 2 * CHUNK

    def __init__(self) -> None:
        self.watchers = 0
        self.parts = 0

    def watch(self, window: int, watcher: object, events: int) -> None:
        self.watchers += 1

    def unwatch(self, window: int, watcher: object) -> None:
        self.watchers -= 1

    def send(self, request: bytes, data: bytes = b"") -> None:
        self.parts += request[:1] == bytes([18]) and request[12:16] == words([INCR])  # ChangeProperty

    async def ask(self, request: bytes, _unpack: object) -> Property:
        return Property(5, 32, 0, words([PNG, 6] * MAX_PAIRS))


class Names:
    def __getitem__(self, name: str) -> int:
        return {"MULTIPLE": MULTIPLE, "INCR": INCR}.get(name, 99)

    async def intern(self, names: list[str]) -> dict[str, int]:
        return dict.fromkeys(names, 98)


async def much(_mime: str) -> AsyncIterator[bytes]:
    while True:
        yield bytes(CHUNK)


@on_a_loop
async def test_pastes_of_many_formats_at_once_are_bounded_together() -> None:
    server = Server()
    owner = Owner(cast(Any, server), cast(Atoms, Names()))
    owner.held[CLIPBOARD] = Held({PNG: ("image/png", "image/png")}, 0, much)
    for window in range(4):
        owner.answer(SelectionRequest(requests.CURRENT_TIME, 7, 100 + window, CLIPBOARD, MULTIPLE, 8))
    while server.parts < MAX_TRANSFERS:
        await asyncio.sleep(0.001)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert MAX_TRANSFERS <= server.parts < MAX_TRANSFERS + 4
    tasks = list(owner._tasks)
    owner.close()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not owner._incremental
    assert not server.watchers
