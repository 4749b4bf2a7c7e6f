"""`subos-devices exec` and `status` by way of a real hub, with agents that answer late, or never, or nonsense."""

from __future__ import annotations

import asyncio
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from subos_agent.service import handlers
from subos_devices import runtime
from subos_devices.agent.caller import facts
from subos_devices.commands import status
from subos_protocol import __version__
from subos_protocol.agent.frames import Head
from subos_protocol.agent.stream import Stream
from support.agents import ALL_ON, hub_with_agent, on_a_loop
from support.command import COMMAND
from support.unread import blocked
from support.unread import status as status_of


@pytest.fixture(autouse=True)
def folder(nothing_is_left: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The VM's."""
    with tempfile.TemporaryDirectory() as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        path = runtime.vm_folder("vm")
        path.mkdir(parents=True)
        yield path


async def exec_(*words: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*COMMAND, "exec", *words, stdin=pipe, stdout=pipe, stderr=pipe)


async def deaf(stream: Stream) -> Head:
    await stream.send(b"on\n", 1)
    await asyncio.sleep(1000)
    return {}


@on_a_loop
async def test_three_signals_end_the_waiting_for_a_guest_that_hangs(folder: Path) -> None:
    async with hub_with_agent(folder, {"exec": deaf}):
        for number, options in ((signal.SIGINT, ()), (signal.SIGTERM, ("-i",))):
            process = await exec_(*options, "vm", "--", "x")
            assert process.stdout is not None
            assert await process.stdout.readline() == b"on\n"
            process.send_signal(number)
            await asyncio.sleep(1.2)  # one now and then does not count
            for _ in range(3):
                process.send_signal(number)
                await asyncio.sleep(0.05)
            assert await asyncio.wait_for(process.wait(), 10) == 128 + number
            _, errors = await process.communicate()
            assert errors == b""


@on_a_loop
async def test_three_signals_end_it_although_nobody_reads_the_output(folder: Path) -> None:
    async def flood(stream: Stream) -> Head:
        while True:
            await stream.send(bytes(1 << 15), 1)

    async with hub_with_agent(folder, {"exec": flood}):
        line = (*COMMAND, "exec", "vm", "--", "x")
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                await blocked(process)
                for _ in range(3):
                    process.send_signal(signal.SIGINT)
                    await asyncio.sleep(0.05)
                assert await status_of(process) == 128 + signal.SIGINT
            finally:
                process.kill()


@on_a_loop
async def test_standard_input_ends_and_signals_still_arrive(folder: Path) -> None:
    async with hub_with_agent(folder, handlers(ALL_ON)):
        script = "cat; trap 'echo got; exit 4' TERM; echo on; while :; do sleep 0.05; done"
        process = await exec_("-i", "vm", "--", "sh", "-c", script)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"in\n")
        process.stdin.close()
        assert await process.stdout.readline() == b"in\n"
        assert await process.stdout.readline() == b"on\n"
        process.send_signal(signal.SIGTERM)
        assert await process.stdout.read() == b"got\n"
        assert await process.wait() == 4


@on_a_loop
async def test_nobody_reads_the_output_any_more(folder: Path) -> None:
    async with hub_with_agent(folder, handlers(ALL_ON)):
        shell = f"{shlex.quote(sys.executable)} -m subos_devices.cli exec vm -- sh -c 'yes; echo no' | head -1"
        process = await asyncio.create_subprocess_shell(shell, stdout=asyncio.subprocess.PIPE)
        out, _ = await asyncio.wait_for(process.communicate(), 20)
        assert out == b"y\n"


@on_a_loop
async def test_nonsense_for_a_status(folder: Path) -> None:
    """Exit statuses are one byte; whatever else the guest says is a failure."""
    results: list[Head] = [{"status": 256}, {"status": "0"}, {"signal": -3}, {}, {"status": True}, {"status": None}]

    async def answer(stream: Stream) -> Head:
        return results[int(stream.head["argv"][0])]

    async with hub_with_agent(folder, {"exec": answer}):
        for number in range(len(results)):
            process = await exec_("vm", "--", str(number))
            assert (await process.wait(), results[number]) == (1, results[number])
            await process.communicate()


@on_a_loop
async def test_facts_of_a_guest_that_means_ill(folder: Path) -> None:
    async def many(stream: Stream) -> Head:
        return {"os": "\x1b[31mred", "n": 3, "addresses": ["a\n", 4, *["x"] * 500], **{str(n): "v" for n in range(999)}}

    async with hub_with_agent(folder, {"facts": many}):
        said = await facts("vm", 5)
        assert said is not None
        assert said["os"] == "?[31mred"
        assert "n" not in said
        assert len(said) <= 64
        assert said["addresses"][:2] == ["a?", "x"]
        assert len(said["addresses"]) <= 64
    async with hub_with_agent(folder, {"facts": deaf}):
        began = time.monotonic()
        assert await facts("vm", 0.3) is None
        assert time.monotonic() - began < 2
    assert await facts("vm", 1) is None


def test_what_status_says_of_an_agent() -> None:
    agent = {"software": "subos-agent", "release": __version__, "way": "vsock", "current": True, "capabilities": []}
    assert status._agent(agent) == f"agent: subos-agent {__version__}, over vsock"
    assert "older than this SubOS" in status._agent({**agent, "release": "0.0.9"})
    assert "older" not in status._agent({**agent, "release": "99.1"})
    assert status._agent({**agent, "release": "?"})
    assert status._agent(None) == "no agent answers in the guest"
