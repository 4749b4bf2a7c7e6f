"""The agent's channel for a VM that somebody else started: a virtio-serial port, plugged while it runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from subos_devices import runtime
from subos_devices.launcher import qmp
from support.command import running, status_of, subos, wait_for_vm
from support.steps import step
from support.waiting import eventually

pytestmark = pytest.mark.vm

BOOT = 120.0  # seconds
DEVICES = "/machine/peripheral-anon"


async def take_port_out(monitor_path: Path) -> None:
    """QEMU has one port of a name. It has no id, so it is found among the nameless devices."""
    async with qmp.connected(monitor_path) as monitor:
        for found in await monitor.execute("qom-list", path=DEVICES):
            path = f"{DEVICES}/{found['name']}"
            if found["type"] != "child<virtserialport>":
                continue
            if await monitor.execute("qom-get", path=path, property="name") == "org.subos.agent":
                await monitor.execute("device_del", id=path)


@pytest.fixture
def portless() -> Iterator[Path]:
    """The monitor of a default guest whose agent has lost its port, and looks for another one."""
    name = f"portless-{os.getpid()}"
    with running("run", "--name", name, "--no-vsock", "--", "sleep", "600") as process:
        wait_for_vm(name, process)
        eventually(lambda: status_of(name)["agent"], BOOT)
        assert status_of(name)["agent"]["way"] == "virtio-serial"
        monitor = runtime.vm_folder(name) / "qmp.sock"
        asyncio.run(take_port_out(monitor))
        eventually(lambda: status_of(name)["agent"] is None, BOOT)  # noticed, though no port tells its end
        yield monitor


def test_a_port_is_plugged_and_the_agent_finds_it(portless: Path) -> None:
    step("attach: nothing but the agent's channel")
    said = subos("attach", "--qmp", portless, "--name", "again", "--agent", "serial", check=0).stdout.decode()
    assert said == "attached to again: agent\n"
    eventually(lambda: status_of("again")["agent"], BOOT)
    step("commands run, with more input than any buffer holds")
    done = subos("exec", "-i", "again", "--", "sh", "-c", "tr a-z A-Z; exit 5", stdin=b"hello" * 100_000, check=5)
    assert done.stdout == b"HELLO" * 100_000
    step("the agent is killed in the middle of one, and the next one goes on")
    assert subos("exec", "again", "--", "sh", "-c", "pkill -9 -f 'subos_agent serve'; sleep 20").returncode
    assert eventually(lambda: subos("exec", "again", "--", "echo", "again").stdout == b"again\n", BOOT)
    step("detach, and attach again")
    subos("detach", "again", check=0)
    subos("attach", "--qmp", portless, "--name", "again", "--agent", "serial", check=0)
    assert eventually(lambda: subos("exec", "again", "--", "echo", "again").stdout == b"again\n", BOOT)
    subos("detach", "again", check=0)
    eventually(lambda: not (runtime.base_folder() / "again").exists())


def test_a_vsock_device_is_plugged_and_the_agent_finds_it(portless: Path) -> None:
    said = subos("attach", "--qmp", portless, "--name", "again", "--agent", "vsock", check=0).stdout.decode()
    assert said == "attached to again: agent\n"
    eventually(lambda: status_of("again")["agent"], BOOT)
    assert status_of("again")["agent"]["way"] == "vsock"
    done = subos("exec", "-i", "again", "--", "sh", "-c", "tr a-z A-Z; exit 5", stdin=b"hello" * 100_000, check=5)
    assert done.stdout == b"HELLO" * 100_000
    subos("detach", "again", check=0)
    eventually(lambda: not (runtime.base_folder() / "again").exists())
