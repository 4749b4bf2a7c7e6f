"""The clock that the host sets, and what it is told of the guest."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from subos_agent import clock, facts
from subos_protocol.agent.errors import RemoteError
from support.agents import asking, on_a_loop


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock would have been set to."""
    seen: list[float] = []
    monkeypatch.setattr(clock.time, "clock_settime", lambda which, value: seen.append(value))
    return seen


@on_a_loop
async def test_a_clock_that_is_off_is_set(clocks: list[float]) -> None:
    async with asking() as peer:
        said = await peer.ask({"op": "clock", "time": time.time(), "tolerance": 0.5})
        assert (said["set"], clocks) == (False, [])
        assert abs(said["ahead"]) < 0.5
        wanted = time.time() + 3600
        said = await peer.ask({"op": "clock", "time": wanted})
        assert (said["set"], clocks) == (True, [wanted])
        assert -3600.5 < said["ahead"] < -3599.5


@on_a_loop
async def test_times_that_cannot_be_one(clocks: list[float]) -> None:
    async with asking() as peer:
        bad: list[Any] = [None, True, "1", -1, 1e300, float("nan"), float("inf"), [], 10**40]
        for value in bad:
            for head in ({"time": value}, {"time": time.time() + 100, "tolerance": value}):
                with pytest.raises(RemoteError) as refused:
                    await peer.ask({"op": "clock", **head})
                assert refused.value.code == "malformed"
    assert clocks == []


@on_a_loop
async def test_who_may_not_set_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(which: int, value: float) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(clock.time, "clock_settime", refuse)
    async with asking() as peer:
        with pytest.raises(RemoteError, match="the guest's clock cannot be set: Operation not permitted"):
            await peer.ask({"op": "clock", "time": 1000})


def test_facts() -> None:
    said = json.loads(json.dumps(facts.facts()))
    system = os.uname()
    assert (said["kernel"], said["arch"], said["hostname"]) == (system.release, system.machine, system.nodename)
    assert said["python"] == ".".join(map(str, sys.version_info[:3]))
    assert all(isinstance(address, str) for address in said["addresses"])


def test_os_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "os-release").write_text("# a comment\nID=debian\nPRETTY_NAME=\"Debian 'x'\"\nodd line\n")
    monkeypatch.setattr(facts, "OS_RELEASE", (tmp_path / "none", tmp_path / "os-release"))
    assert facts.os_release() == {"ID": "debian", "PRETTY_NAME": "Debian 'x'"}
    monkeypatch.setattr(facts, "OS_RELEASE", (tmp_path / "none",))
    assert facts.os_release() == {}
    assert facts.facts()["os"] == "Linux"


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kernel shows them; loopback and link-local ones are left out."""
    trie = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 192.168.7.0
        /24 link UNICAST
     |-- 192.168.7.9
        /32 host LOCAL
     |-- 192.168.7.255
        /32 link BROADCAST
     |-- 169.254.3.4
        /32 host LOCAL
Local:
     |-- 192.168.7.9
        /32 host LOCAL
"""
    six = (
        "00000000000000000000000000000001 01 80 10 80       lo\n"
        "20010db8000000000000000000000a0b 02 40 00 80     eth0\n"
        "fe80000000000000505400fffe123456 02 40 20 80     eth0\n"
    )
    files = {"/proc/net/fib_trie": trie, "/proc/net/if_inet6": six}
    for name, text in files.items():
        (tmp_path / Path(name).name).write_text(text)
    monkeypatch.setattr(facts, "Path", lambda name: tmp_path / Path(name).name)
    assert facts.addresses() == ["192.168.7.9", "2001:db8::a0b"]
    for name in files:
        (tmp_path / Path(name).name).unlink()
    assert facts.addresses() == []
