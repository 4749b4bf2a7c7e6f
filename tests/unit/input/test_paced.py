"""What comes faster than it is to be done."""

from __future__ import annotations

import asyncio
import itertools

from subos_devices.input.paced import Paced
from support.agents import on_a_loop

PACE = 0.05


@on_a_loop
async def test_the_first_at_once_and_then_the_newest_so_often_at_most() -> None:
    done: list[tuple[float, int]] = []
    loop = asyncio.get_running_loop()
    paced = Paced[int](lambda what: done.append((loop.time(), what)), PACE)
    begun = loop.time()
    number = 0
    while loop.time() < begun + 5 * PACE:
        number += 1
        paced.put(number)
        if number == 1:
            assert [what for _, what in done] == [1]
        await asyncio.sleep(0)
    await asyncio.sleep(2 * PACE)
    whats = [what for _, what in done]
    assert (whats[0], whats[-1]) == (1, number)
    assert 2 < len(done) <= 7 < number
    assert all(after - before > 0.9 * PACE for (before, _), (after, _) in itertools.pairwise(done))


@on_a_loop
async def test_what_waits_can_be_called_off() -> None:
    done: list[int] = []
    paced = Paced[int](done.append, PACE)
    paced.put(1)
    paced.put(2)
    paced.cancel()
    await asyncio.sleep(2 * PACE)
    assert done == [1]
    paced.put(3)
    assert done == [1, 3]
    await asyncio.sleep(2 * PACE)
    paced.put(4)
    assert done == [1, 3, 4]
    paced.cancel()
