"""The host's clipboard process: when it is started, what becomes of it; and what a person is told by the command."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from subos_devices import runtime
from subos_devices.agent.caller import connected
from subos_devices.agent.clipboard import driver as module
from subos_devices.agent.clipboard.driver import ClipboardDriver
from subos_devices.agent.hub import Hub
from subos_devices.testing.serving import children
from subos_protocol.agent.errors import RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.peer import Handler, Peer
from subos_protocol.agent.stream import Stream
from support.agents import agent_peer, on_a_loop
from support.command import COMMAND, refused, subos

OFFER: Head = {"op": "clipboard.offer", "selection": "clipboard", "serial": 1, "seen": 0, "formats": ["text/html"]}


CLIPBOARD = ("clipboard", "vm")


@pytest.fixture(autouse=True)
def without_a_desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


@contextlib.contextmanager
def on_a_terminal() -> Iterator[tuple[int, int]]:
    """(the program's end, the person's)."""
    person, program = os.openpty()
    try:
        yield program, person
    finally:
        os.close(person)
        os.close(program)


def holding(data: bytes) -> dict[str, Handler]:
    """What an agent answers whose session holds this."""

    async def give(stream: Stream) -> Head:
        await stream.send(data)
        return {"size": len(data)}

    return {"clipboard.read": give}


@contextlib.asynccontextmanager
async def vm(
    tmp_path_factory: pytest.TempPathFactory, *rules: str, handlers: dict[str, Handler] | None = None
) -> AsyncIterator[tuple[ClipboardDriver, Peer, Peer]]:
    """(the driver, a command's peer, the guest's agent)."""
    folder = tmp_path_factory.mktemp("r")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        with runtime.claim("vm") as place:
            async with Hub(place) as hub:
                driver = ClipboardDriver(hub, "vm", rules)
                driver.join()
                agent = agent_peer(handlers or {})
                await asyncio.get_running_loop().create_unix_connection(lambda: agent, str(place / "vsock.sock_252"))
                await agent.ready()
                try:
                    async with connected("vm") as asker:
                        yield driver, asker, agent
                finally:
                    agent.close()
                    await driver.close()


@on_a_loop
async def test_it_is_started_when_it_is_first_wanted(tmp_path_factory: pytest.TempPathFactory) -> None:
    before = children(os.getpid())
    async with vm(tmp_path_factory) as (driver, asker, agent):
        assert children(os.getpid()) == before
        asked = [agent.ask(OFFER | {"serial": serial}) for serial in range(1, 11)]
        assert {reply["accepted"] for reply in await asyncio.gather(*asked)} <= {True, False}
        assert len(children(os.getpid())) == len(before) + 1
        assert (await asker.ask({"op": "host-clipboard.formats"}))["clipboard"] == ["text/html"]
        assert driver._process is not None
    assert children(os.getpid()) == before


@on_a_loop
async def test_it_dies_and_is_started_again_with_the_policy_of_now(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with vm(tmp_path_factory, "to-guest=deny") as (driver, asker, _):
        await asker.ask({"op": "host-clipboard.policy", "rules": ["from-guest.image=ask"]})
        with pytest.raises(RemoteError):
            await asker.ask({"op": "host-clipboard.policy", "rules": ["from-guest=deny", "nonsense"]})
        assert driver._process is not None
        driver._process.send_signal(signal.SIGKILL)
        await driver._process.wait()
        table = await asker.ask({"op": "host-clipboard.policy"})
        assert (table["to-guest"]["text"], table["from-guest"]["image"]) == ("deny", "ask")
        assert table["from-guest"]["text"] == "allow", "rules of which one is none change nothing"


@on_a_loop
async def test_rules_that_are_set_again_and_again_do_not_grow(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with vm(tmp_path_factory) as (driver, asker, _):
        before = len(driver._rules.texts())
        for action in ("off", "on", "primary=both", "to-guest.text=ask") * 10:
            await asker.ask({"op": "host-clipboard.policy", "rules": [action]})
        assert len(driver._rules.texts()) == before
        assert driver._process is not None
        driver._process.kill()
        await driver._process.wait()
        table = await asker.ask({"op": "host-clipboard.policy"})
        assert (table["on"], table["primary"], table["to-guest"]["text"]) == (True, "both", "ask")


# --- the command's own standard input and output


HOSTILE = b"line\n\tred: \x1b[31m \x1b]52;c;eA==\x07\r\n"


@on_a_loop
async def test_a_guests_text_does_not_steer_the_terminal(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with vm(tmp_path_factory, handlers=holding(HOSTILE)) as (_, _asker, agent):
        await agent.ask(OFFER | {"formats": ["text/plain;charset=utf-8", "image/png"]})
        with on_a_terminal() as (program, person):
            done = await asyncio.to_thread(
                subprocess.run, [*COMMAND, *CLIPBOARD, "get"], stdout=program, check=True, timeout=60
            )
            assert done.returncode == 0
            assert os.read(person, 4096) == b"line\r\n\tred: ?[31m ?]52;c;eA==??\r\n"
            done = await asyncio.to_thread(
                subprocess.run,
                [*COMMAND, *CLIPBOARD, "get", "--type", "image/png"],
                stdout=program,
                stderr=subprocess.PIPE,
                check=False,
                timeout=60,
            )
            assert done.returncode == 2
            assert b"image/png is nothing for a terminal\n  hint: write it to a file" in done.stderr
        piped = await asyncio.to_thread(subos, *CLIPBOARD, "get", check=0)
        assert piped.stdout == HOSTILE


@on_a_loop
async def test_ctrl_c_ends_set_though_nothing_comes(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with vm(tmp_path_factory) as (_, asker, _agent):
        await asker.ask({"op": "host-clipboard.policy"})
        with subprocess.Popen([*COMMAND, *CLIPBOARD, "set"], stdin=subprocess.PIPE) as process:
            await asyncio.to_thread(_interrupt, process)


@on_a_loop
async def test_ctrl_c_ends_get_though_nobody_takes_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with vm(tmp_path_factory, handlers=holding(bytes(1 << 20))) as (_, _asker, agent):
        await agent.ask(OFFER)
        with subprocess.Popen([*COMMAND, *CLIPBOARD, "get"], stdout=subprocess.PIPE) as process:
            await asyncio.to_thread(_interrupt, process)


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """While it waits for standard input or output."""
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3)
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 128 + signal.SIGINT
    finally:
        process.kill()


@on_a_loop
async def test_one_that_hangs_is_killed_at_the_end(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with vm(tmp_path_factory) as (driver, asker, _):
        await asker.ask({"op": "host-clipboard.policy"})
        assert driver._process is not None
        driver._process.send_signal(signal.SIGSTOP)


@on_a_loop
async def test_whoever_gives_up_does_not_end_the_start(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with vm(tmp_path_factory) as (driver, asker, agent):
        impatient = agent.call(OFFER)
        await asyncio.sleep(0.02)
        impatient.cancel()
        assert (await asker.ask({"op": "host-clipboard.policy"}))["on"]
        assert len(driver._started) == 1


@on_a_loop
async def test_one_that_dies_again_and_again_is_left_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with vm(tmp_path_factory) as (driver, asker, agent):
        for _ in range(module.STARTS):
            await asker.ask({"op": "host-clipboard.policy"})
            assert driver._process is not None
            driver._process.kill()
            await driver._process.wait()
        with pytest.raises(RemoteError, match="died too often"):
            await agent.ask(OFFER)


@on_a_loop
async def test_a_guest_cannot_take_all_of_it(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    async with vm(tmp_path_factory) as (driver, asker, agent):
        await agent.ask(OFFER)
        assert driver._process is not None
        driver._process.send_signal(signal.SIGSTOP)  # so nothing that the guest asks for ends
        asked = [asyncio.ensure_future(agent.ask(OFFER | {"serial": serial})) for serial in range(2, 62)]
        done, _ = await asyncio.wait(asked, timeout=1.0)
        assert len(done) == 60 - module.MAX_OF_GUEST
        assert "wants more than" in caplog.text
        driver._process.send_signal(signal.SIGCONT)
        await asyncio.gather(*asked, return_exceptions=True)
        await asker.ask({"op": "host-clipboard.policy", "rules": ["off"]})


@on_a_loop
async def test_what_the_command_says(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with vm(tmp_path_factory, "from-guest.image=deny") as (_, _asker, agent):

        def told(*words: str) -> str:
            return refused("clipboard", "vm", *words).message

        await asyncio.to_thread(_check, told, agent)


def _check(told: object, agent: Peer) -> None:
    assert callable(told)
    assert told("get") == "the guest has nothing in clipboard that may be had"
    assert "no rule" in told("policy", "both.text")
    assert told("yes") == "nothing is being asked"
    assert told("yes", "7") == "question 7 is not being asked"
    assert told("no", "x") == told("yes", "1", "2").replace("yes", "no") == "no takes the number of a question"
    assert told("get", "a=b") == "get takes no 'a=b'"
    assert told("set", "--primary").endswith("may not pass to the guest as what is marked")
    assert "no MIME type" in told("set", "--type", "x")
    done = subos("clipboard", "vm", "set", stdin=b"x")
    assert done.returncode != 0
    assert done.stderr.startswith(b"subos-devices: the guest did not take it")
    table = subos("clipboard", "vm", "policy", check=0).stdout.decode().splitlines()
    assert table[0] == "on"
    assert table[2].startswith("from-guest: text allow, html allow, image deny")
    assert table[3] == "what is marked: from-guest"
    assert table[4] == "limits: text 256M, html 256M, image 256M, files 256M, other 256M"
    subos("clipboard", "vm", "off", check=0)
    assert subos("clipboard", "vm", "policy", check=0).stdout.startswith(b"off: nothing passes")


def test_help_and_no_vm() -> None:
    said = subos("clipboard", "--help", check=0).stdout.decode()
    for word in ("text-only", "limit[.TYPE]=SIZE", "watch", "--primary", "primary=both", "clipboard-VM.log"):
        assert word in said
    assert refused("clipboard", "no-such-vm", "get").message == "no VM called 'no-such-vm' answers"
