"""A VM with 29 devices, ten of them shares, all at work while their processes are killed: nothing is lost or left."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from subos_devices import runtime
from subos_devices.fs.device import FsDevice
from subos_devices.launcher.control import agent_command
from subos_devices.supervisor import control
from support.command import assert_nothing_is_left, family, refused, running, subos, wait_ended, wait_for_file
from support.guest import INSIDE
from support.processes import descriptors, private_memory
from support.soak import Soak
from support.steps import step
from support.waiting import eventually

pytestmark = pytest.mark.vm

SHARES = 10
GAMEPADS = ("xbox360", "dualsense", *(f"{name}:no-rumble" for name in ("xboxone", "dualshock4", *["generic"] * 4)))
BESIDE = 2 * 2  # two of the pads have sensors and a touch pad
DEVICES = 1 + SHARES + 4 + len(GAMEPADS) + BESIDE + 2  # the root, shares, mouse to pen, pads, rng and vsock
GROWTH = 16 << 20  # bytes that a process may have more at the end than after a quarter of the time


def devices(name: str) -> dict[str, dict[str, Any]]:
    return {device["name"]: device for device in control.ask(name, "status")["devices"]}


def held(name: str, pid: int) -> dict[str, Counter[str]]:
    """What the VM's processes hold: of each worker by its device, of launcher, supervisor and zygote."""
    workers = {device["pid"]: f"worker of {device['name']}" for device in devices(name).values()}
    found: dict[str, Counter[str]] = {}
    others: Counter[str] = Counter()
    for process in family(pid):
        comm = Path(f"/proc/{process.pid}/comm").read_text().strip()
        what = workers.get(process.pid, "launcher" if process.pid == pid else comm)
        if what.startswith("subos-soak"):
            continue  # QEMU
        others[what] += 1
        kept = descriptors(process.pid)
        if comm in ("subos-fs", "subos-keeper"):
            kept = [path for path in kept if not _is_cached(path)]
        found[what] = Counter(kept)
    found["processes"] = others
    found["sockets"] = Counter(
        re.findall(f"{re.escape(str(runtime.vm_folder(name)))}/[^\n]*", Path("/proc/net/unix").read_text())
    )
    return found


def _is_cached(path: str) -> bool:
    """What a share's worker holds of the host's files, within its budget."""
    return path.startswith("/") and not path.startswith(("/memfd:", "/dev/"))


def memory(name: str, pid: int) -> dict[str, int]:
    """Bytes that are a process's alone, of all that live long."""
    supervisor = control.ask(name, "status")["supervisor"]["pid"]
    return {"launcher": private_memory(pid), "supervisor": private_memory(supervisor)} | {
        f"worker of {device['name']}": private_memory(device["pid"]) for device in devices(name).values()
    }


@pytest.mark.parametrize(
    "seconds", [pytest.param(120, id="two minutes"), pytest.param(1800, id="half an hour", marks=pytest.mark.by_hand)]
)
@pytest.mark.timeout(2400)
def test_a_soak(tmp_path: Path, seconds: int) -> None:
    name = f"soak-{os.getpid()}"
    shares = [tmp_path / f"share {number}" for number in range(SHARES)]
    for share in shares:
        share.mkdir()
    _, variables = agent_command()
    busy = [sys.executable, "-S", str(INSIDE / "busy.py"), *map(str, shares)]
    command = ["env", *(f"{key}={value}" for key, value in variables.items()), *busy]
    words = [f"--share={share}" for share in shares] + [f"--gamepad={pad}" for pad in GAMEPADS]
    run = ("run", "--name", name, "--touch", "--pen", *words, "--", *command)
    with running(*run, stdout=subprocess.PIPE) as process:
        wait_for_file(shares[0] / ".ready", process)
        everybody = family(process.pid)
        served = devices(name)
        assert len(served) == DEVICES == 29
        step("every device has its driver")
        eventually(lambda: all(_driven(device) for device in devices(name).values()), timeout=60)
        step("and there is room for more shares")
        extra = tmp_path / "extra"
        extra.mkdir()
        subos("share", "add", name, f"{extra}:extra:/mnt", check=0)
        subos("share", "remove", name, "extra", check=0)

        eventually(lambda: _quiet(name), timeout=60)
        before = held(name, process.pid)
        kinds = {device["name"]: device["kind"] for device in served.values()}
        mortal = [device for device, kind in kinds.items() if kind != "fs" or FsDevice.keeps]
        with Soak(name, runtime.vm_folder(name), kinds, mortal, seed=seconds) as soak:
            step(f"{seconds} s of work, and a worker is killed every half second")
            (shares[0] / ".begin").touch()
            soak.kill_for(seconds / 4, every=0.5)
            early = memory(name, process.pid)
            soak.kill_for(seconds * 3 / 4, every=0.5)
            late = memory(name, process.pid)
        step(f"the work ends: {dict(soak.counts)}")
        assert not soak.errors
        (shares[0] / ".end").touch()
        wait_for_file(shares[0] / ".done", process)
        said = json.loads((shares[0] / ".done").read_text())
        step(f"the guest: {said['counts']}")
        check(said, shares)
        eventually(lambda: _quiet(name), timeout=60)
        with contextlib.suppress(AssertionError):  # which would not say what is left
            eventually(lambda: not left(before, held(name, process.pid)), timeout=30)
        assert left(before, held(name, process.pid)) == {}
        assert {what: late[what] - size for what, size in early.items() if late[what] - size > GROWTH} == {}
        restarts = sum(device["restarts"] for device in devices(name).values())
        assert soak.counts["kills"] >= restarts >= soak.counts["kills"] / 2  # a pid may be a dead one's
        assert soak.counts["supervisors killed"] >= control.ask(name, "status")["supervisor"]["restarts"] > 0
        (shares[0] / ".leave").touch()
        process.communicate(timeout=120)
        assert process.returncode == 0
    wait_ended(everybody)
    assert_nothing_is_left(name)


def left(before: dict[str, Counter[str]], after: dict[str, Counter[str]]) -> dict[str, Counter[str]]:
    """What there is more of. There may be less: what a share that was removed had, say."""
    more = {what: found - before.get(what, Counter()) for what, found in after.items()}
    return {what: found for what, found in more.items() if found}


def _driven(device: dict[str, Any]) -> bool:
    has_agent = device.get("gamepad", {}).get("agent")  # which then has taken the driver away
    return bool(device["driver"] or has_agent)


def _quiet(name: str) -> bool:
    """Every device has its worker, and every pad that is the agent's its agent."""
    served = devices(name).values()
    agents = {device["name"] for device in served if device.get("gamepad", {}).get("agent")}
    return all(device["pid"] for device in served) and {"gamepad1", "gamepad2"} <= agents


def check(said: dict[str, Any], shares: Sequence[Path]) -> None:
    """What the guest says it did, and what there is."""
    assert said["errors"] == []
    assert [device for device, keys in said["pressed"].items() if keys] == []
    assert len(said["pressed"]) >= 12
    for share in shares:
        wanted = said["files"][os.fspath(share)]
        there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in share.iterdir()}
        for other in (".ready", ".begin", ".end", ".done", "draft"):
            there.pop(other, None)
        assert there == wanted
        assert wanted
    for what in ("draws", "blocks to the host", "looks at events"):
        assert said["counts"][what] > 0


COUNT = 'touch ready; n=0; until [ -e end ]; do n=$((n + 1)); echo "$n" >>lines; done; head -c 4096 /dev/hwrng | wc -c'


@pytest.mark.by_hand
@pytest.mark.timeout(900)
def test_four_vms_at_once(tmp_path: Path) -> None:
    """Each has its own devices: one whose processes are killed again and again is no business of the others'."""
    names = [f"crowd{number}-{os.getpid()}" for number in range(4)]
    folders = [tmp_path / name for name in names]
    with contextlib.ExitStack() as stack:
        machines: list[subprocess.Popen[bytes]] = []
        for name, folder in zip(names, folders, strict=True):
            folder.mkdir()
            words = ("--memory", "512M", "--share", folder, "--", "sh", "-c", f"cd '{folder}' && {COUNT}")
            machines.append(stack.enter_context(running("run", "--name", name, *words, stdout=subprocess.PIPE)))
        for folder, machine in zip(folders, machines, strict=True):
            wait_for_file(folder / "ready", machine)
        everybody = [family(machine.pid) for machine in machines]
        step("kill all processes of the first one's devices, three times")
        for _ in range(3):
            before = (folders[0] / "lines").stat().st_size
            for device in devices(names[0]).values():
                if device["pid"]:
                    os.kill(device["pid"], signal.SIGKILL)
            eventually(lambda before=before: (folders[0] / "lines").stat().st_size > before, timeout=60)
        for name in names:
            subos("input", name, "move", 1, 2, check=0)
        for folder in folders:
            (folder / "end").touch()
        outputs = [machine.communicate(timeout=300)[0] for machine in machines]
        assert [machine.returncode for machine in machines] == [0] * 4
    for number, (name, folder, output) in enumerate(zip(names, folders, outputs, strict=True)):
        lines = (folder / "lines").read_text().split()
        assert lines == [str(count) for count in range(1, len(lines) + 1)]
        assert output == b"4096\n"
        wait_ended(everybody[number])
        assert_nothing_is_left(name)


def test_more_shares_than_there_is_room_for(tmp_path: Path) -> None:
    """Nothing is started for it."""
    words = []
    for number in range(200):
        (tmp_path / f"{number}").mkdir()
        words.append(f"--share={tmp_path / str(number)}")
    said = refused("run", *words, "--", "true")
    assert said.message.startswith("the VM has no room for all devices: ")
