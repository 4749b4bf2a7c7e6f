"""When the process of a group is started: once all of its devices have asked for a worker, and never twice."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import pytest

from subos_devices.errors import UserError
from subos_devices.supervisor.nurseries import Alone, Group, Inline, nursery
from subos_devices.supervisor.process_models import Model
from subos_devices.supervisor.zygote import Wanted, Zygote
from subos_devices.vhost_user.device import DeviceSpec
from support.processes import descriptors

MODEL = Model("group", "small")


class FakeZygote:
    """Keeps in mind what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.gone = False

    def spawn(self, wanted: Sequence[Wanted], model: Model) -> None:
        assert model == MODEL
        for each in wanted:
            os.fstat(each.control.fileno())
            os.fstat(each.counters)
        if self.gone:
            raise BrokenPipeError
        self.asked.append([each.spec.name for each in wanted])


class FakeDevice:
    """A device of the group; `served` is what it says of itself."""

    def __init__(self, name: str, group: Group) -> None:
        self.spec = DeviceSpec("rng", name)
        self.group = group
        self.served = False
        self.said: list[str] = []
        self.ends: list[socket.socket] = []
        group.join(self)

    @property
    def is_served(self) -> bool:
        return self.served

    def renew(self) -> None:
        self.said.append("renew")

    def hurry(self) -> None:
        self.said.append("hurry")

    def ask(self, *, respawned: bool = False) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ends.append(ours)
        counters = os.memfd_create("counters")
        self.group.spawn(Wanted(self.spec, theirs, counters, respawned))
        theirs.close()  # what it is given stays the caller's
        os.close(counters)

    def heard_the_end(self) -> bool:
        self.ends[-1].setblocking(False)
        return self.ends[-1].recv(1) == b""


@contextmanager
def group(*names: str) -> Iterator[tuple[FakeZygote, Group, list[FakeDevice]]]:
    zygote = FakeZygote()
    made = Group(cast(Zygote, zygote), MODEL)
    devices = [FakeDevice(name, made) for name in names]
    yield zygote, made, devices
    for device in devices:
        for end in device.ends:
            end.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await test()

    before = descriptors()
    asyncio.run(whole())
    assert descriptors() == before


async def turn() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def test_it_is_started_once_all_have_asked() -> None:
    async def test() -> None:
        with group("a", "b", "c") as (zygote, _, devices):
            for device in devices:
                device.ask()
            await turn()
            assert zygote.asked == [["a", "b", "c"]]
            await turn()
            assert len(zygote.asked) == 1

    run(test)


def test_one_that_waits_for_its_next_worker_is_hurried() -> None:
    async def test() -> None:
        with group("a", "b") as (zygote, _, [first, second]):
            first.ask(respawned=True)
            await turn()
            assert (zygote.asked, second.said) == ([], ["hurry"])
            second.ask(respawned=True)
            await turn()
            assert zygote.asked == [["a", "b"]]

    run(test)


def test_one_that_comes_has_the_others_renewed() -> None:
    async def test() -> None:
        with group("a", "b") as (zygote, _, [served, comes]):
            served.served = True
            comes.ask()
            await turn()
            assert (zygote.asked, served.said) == ([], ["renew"])
            served.served = False
            served.ask(respawned=True)
            await turn()
            assert zygote.asked == [["b", "a"]]

    run(test)


def test_one_that_has_not_noticed_its_death_yet_is_left_to_it() -> None:
    async def test() -> None:
        with group("a", "b") as (zygote, _, [first, second]):
            second.served = True
            first.ask(respawned=True)
            await turn()
            assert (zygote.asked, second.said) == ([], [])
            second.ask(respawned=True)
            await turn()
            assert zygote.asked == [["a", "b"]]

    run(test)


def test_one_that_leaves_is_waited_for_no_longer_and_its_worker_never_comes() -> None:
    async def test() -> None:
        with group("a", "b") as (zygote, made, [stays, leaves]):
            stays.ask()
            leaves.ask()
            made.leave(leaves)
            await turn()
            assert zygote.asked == [["a"]]
            assert leaves.heard_the_end()
            made.leave(leaves)  # once more: nothing
            made.leave(stays)
            await turn()
            assert zygote.asked == [["a"]]

    run(test)


def test_a_zygote_that_is_gone_is_the_death_of_all() -> None:
    async def test() -> None:
        with group("a", "b") as (zygote, _, devices):
            zygote.gone = True
            for device in devices:
                device.ask()
            await turn()
            assert all(device.heard_the_end() for device in devices)

    run(test)


def test_a_model_has_its_nursery_and_a_name_one_group() -> None:
    zygote, groups = cast(Zygote, FakeZygote()), dict[str, Group]()
    assert isinstance(nursery(Model(), zygote, groups), Alone)
    assert isinstance(nursery(Model("inline"), zygote, groups), Inline)
    assert nursery(MODEL, zygote, groups) is nursery(MODEL, zygote, groups)
    assert nursery(Model("group", "other"), zygote, groups) is not nursery(MODEL, zygote, groups)


def test_one_too_many_for_a_process_is_refused_and_the_others_stay() -> None:
    async def test() -> None:
        with group(*(f"rng{number}" for number in range(84))) as (zygote, made, devices):
            with pytest.raises(UserError, match="85 devices are too many for the group small"):
                FakeDevice("one more", made)
            for device in devices:
                device.ask()
            await asyncio.sleep(0)
            assert len(zygote.asked[0]) == 84

    run(test)
