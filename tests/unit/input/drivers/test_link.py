"""The line to a guest's device: what it says when the device was away, was too slow, or says no."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from subos_devices.input.drivers.link import Link
from subos_protocol.input_codes import Abs, Ev
from subos_protocol.virtio_input import virtio_input_event

X = Abs.ABS_X


def key(code: int, value: int) -> virtio_input_event:
    return virtio_input_event(Ev.EV_KEY, code, value)


class Device:
    """Listens as a device does; what the link tells of is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(os.fspath(path))
        self.listener.listen()
        self.listener.settimeout(10)
        self.driver: socket.socket
        self.heard: list[dict[str, Any]] = []
        self.broken = 0
        self.lost: list[str] = []

    def link(self) -> Link:
        link = Link(self.path, self.heard.append, self._break, self.lost.append)
        self.accept()
        return link

    def _break(self) -> None:
        self.broken += 1

    def accept(self) -> None:
        self.driver, _ = self.listener.accept()
        self.driver.settimeout(10)

    def take(self) -> list[tuple[int, int, int]]:
        """All that waits now."""
        events: list[tuple[int, int, int]] = []
        self.driver.setblocking(False)
        try:
            while packet := self.driver.recv(4096):
                assert len(packet) <= 64 * 8
                events += struct.iter_unpack("<HHi", packet)
        except BlockingIOError:
            return events
        return events

    def hang_up(self) -> None:
        self.driver.close()

    def close(self) -> None:
        self.driver.close()
        self.listener.close()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path / "a device")
    yield made
    made.close()


def on_loop(work: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await work

    asyncio.run(limited())


async def until(done: Callable[[], object]) -> None:
    while not done():
        await asyncio.sleep(0.001)


def test_a_frame_is_a_packet(device: Device) -> None:
    async def work() -> None:
        link = device.link()
        link.send([key(30, 1), virtio_input_event(Ev.EV_ABS, X, -5)])
        assert device.take() == [(1, 30, 1), (3, 0, -5), (0, 0, 0)]
        link.close()

    on_loop(work())


def test_a_long_frame_is_several(device: Device) -> None:
    async def work() -> None:
        link = device.link()
        link.send([key(code, 1) for code in range(200)])
        assert [event[1] for event in device.take() if event[0] == Ev.EV_KEY] == list(range(200))
        link.close()

    on_loop(work())


def test_a_device_that_hung_up_is_told_what_is_held(device: Device) -> None:
    async def work() -> None:
        link = device.link()
        link.send([key(30, 1), key(31, 1), virtio_input_event(Ev.EV_ABS, X, 7)])
        link.send([key(30, 0)])
        device.hang_up()
        await until(lambda: device.broken)
        device.accept()
        assert device.take() == [(3, 0, 7), (1, 31, 1), (0, 0, 0)]
        assert device.lost == []
        link.close()

    on_loop(work())


def test_a_device_that_was_too_slow_is_told_the_state(device: Device) -> None:
    async def work() -> None:
        link = device.link()
        link.send([key(29, 1)])
        for step in range(5000):  # more than a socket holds
            link.send([key(30, step % 2), virtio_input_event(Ev.EV_ABS, X, step)])
        link.send([key(29, 0)])
        link.send([key(31, 1)])
        state: dict[tuple[int, int], int] = {}
        taken = 0

        def is_told() -> bool:
            nonlocal taken
            events = device.take()
            taken += len(events)
            state.update({(type_, code): value for type_, code, value in events})
            return state.get((1, 31)) == 1

        await until(is_told)
        assert taken < 3 * 5000
        assert state == {(1, 29): 0, (1, 30): 1, (3, 0): 4999, (1, 31): 1, (0, 0): 0}
        link.close()

    on_loop(work())


def test_what_the_device_says_is_passed_on_if_it_means_anything(device: Device) -> None:
    async def work() -> None:
        link = device.link()
        for packet in (b"{", b"[" * 4000, b"5", b"\xff", json.dumps({"leds": {"LED_CAPSL": 1}}).encode()):
            device.driver.send(packet)
        await until(lambda: device.heard)
        assert device.heard == [{"leds": {"LED_CAPSL": 1}}]
        link.close()

    on_loop(work())


def test_a_refusal_is_told_and_not_tried_again(device: Device) -> None:
    async def work() -> None:
        link = device.link()
        device.driver.send(b'{"refused": "no such \\u001b[1mkey"}')
        device.hang_up()
        await until(lambda: device.lost)
        assert device.lost == ["the device refused it: no such ?[1mkey"]
        link.close()

    on_loop(work())


def test_a_device_whose_socket_is_gone_is_lost(device: Device) -> None:
    async def work() -> None:
        link = device.link()
        device.path.unlink()
        device.hang_up()
        await until(lambda: device.lost)
        link.send([key(30, 1)])  # goes nowhere
        link.close()

    on_loop(work())
