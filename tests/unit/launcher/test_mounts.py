"""What the host asks an agent to mount, and what a person is told when it does not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from subos_devices.agent.hub import Hub
from subos_devices.launcher import mounts
from subos_devices.launcher.mounts import GuestMounts, MountFailed
from subos_devices.launcher.shares import Share
from subos_protocol.agent.errors import RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.stream import Stream
from support.agents import FakeAgent, hub_with_agent, on_a_loop

SHARE = Share(Path("/srv/src"), "src", at=Path("/a b"))
FILE = Share(Path("/srv/50%\n\udcff"), "f", True, Path("/root/x\\y"), single=True)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one: a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@on_a_loop
async def test_what_is_asked(folder: Path) -> None:
    agent = FakeAgent()
    async with hub_with_agent(folder, agent.handlers) as hub:
        there = GuestMounts(hub)
        await there.mount(SHARE)
        await there.mount(FILE)
        await there.unmount(FILE)
        await there.unmount(SHARE, lazy=True)
    src = {"tag": "src", "path": "/a b", "name": ""}
    file = {"tag": "f", "path": "/root/x\\y", "name": "50%\n\udcff"}
    assert agent.asked == [
        {"op": "mount", **src, "read_only": False},
        {"op": "mount", **file, "read_only": True},
        {"op": "unmount", **file, "lazy": False},
        {"op": "unmount", **src, "lazy": True},
    ]


@on_a_loop
async def test_what_the_guest_says_is_shown_as_one_line(folder: Path) -> None:
    agent = FakeAgent()
    agent.answers["mount"] = RemoteError("failed", "no\x1b]0;x\x07\nsuch place" + "x" * 1000)
    agent.answers["unmount"] = RemoteError("failed", "in use")
    async with hub_with_agent(folder, agent.handlers) as hub:
        with pytest.raises(MountFailed) as mounting:
            await GuestMounts(hub).mount(SHARE)
        assert mounting.value.message.startswith("the guest could not mount src at /a b: no?]0;x??such placexxx")
        assert len(mounting.value.message) < 400
        with pytest.raises(MountFailed, match="could not unmount src: in use") as unmounting:
            await GuestMounts(hub).unmount(SHARE)
        assert "--force" in unmounting.value.hint


@on_a_loop
async def test_an_agent_that_does_not_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "TIMEOUT", 0.1)
    agent = FakeAgent()

    async def never(stream: Stream) -> Head:
        while await stream.receive() is not None:
            pass
        raise AssertionError("nobody ends it")

    async with hub_with_agent(folder, {**agent.handlers, "mount": never}) as hub:
        with pytest.raises(MountFailed, match=r"did not answer within 0\.1 s"):
            await GuestMounts(hub).mount(SHARE)
        await GuestMounts(hub).unmount(SHARE)  # the next request is not held up


@on_a_loop
async def test_a_guest_without_an_agent(folder: Path) -> None:
    async with Hub(folder, patience=0.05) as hub:
        with pytest.raises(MountFailed, match="no agent answers"):
            await GuestMounts(hub).mount(SHARE)
        assert GuestMounts(hub).can_mount()  # the default guest: one will come
        assert not GuestMounts(hub, own_root=True).can_mount()


@on_a_loop
async def test_a_guest_with_a_root_of_its_own_has_other_places(folder: Path) -> None:
    agent = FakeAgent()
    async with hub_with_agent(folder, agent.handlers) as hub:
        there = GuestMounts(hub, own_root=True)
        assert there.can_mount()
        assert there.place(SHARE) == Path("/a b")
        assert there.place(Share(Path("/srv/src"), "src")) == Path("/mnt/src")
        assert there.place(Share(Path("/srv/note"), "f", single=True)) == Path("/mnt/note")
    async with hub_with_agent(folder, {"clock": agent.handlers["clock"]}) as hub:
        assert not GuestMounts(hub, own_root=True).can_mount()
