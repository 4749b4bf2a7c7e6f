"""`subos-devices restart-supervisor`, on VMs whose QEMU is a fake."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from subos_protocol import __version__
from support.command import family, refused, status_of, subos, wait_ended
from support.fake_qemu import FakeQemu
from support.processes import is_alive
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("folder")


def supervisor(name: str = "fake") -> int:
    """The pid of the one that serves."""
    return eventually(lambda: int(status_of(name)["supervisor"]["pid"] or 0))


def test_another_one_goes_on_and_the_devices_stay_plugged(folder: Path) -> None:
    with FakeQemu(folder / "qmp") as qemu:
        subos("attach", "--qmp", qemu.path, "--mouse", "--rng", check=0)
        before = status_of("fake")
        assert before["supervisor"] == {"pid": supervisor(), "version": __version__, "restarts": 0}
        assert Path(f"/proc/{supervisor()}/comm").read_text() == "subos-supervis\n"
        memory = before["memory"]
        assert all(1 << 20 < memory[part] < 256 << 20 for part in ("supervisor", "launcher", "zygote", "workers"))
        said = subos("restart-supervisor", "fake", check=0).stdout.decode()
        version = re.escape(__version__)
        pattern = rf"fake: supervisor (\d+) -> (\d+) \({version} -> {version}\), \d+ ms without one; the VM went on\n"
        found = re.fullmatch(pattern, said)
        assert found, said
        old, new = map(int, found.groups())
        assert (old, new) == (before["supervisor"]["pid"], supervisor())
        assert not is_alive(old)
        [done] = json.loads(subos("restart-supervisor", "--json", check=0).stdout)
        assert (done["vm"], done["old"], done["new"]) == ("fake", new, supervisor())
        os.kill(supervisor(), signal.SIGKILL)
        eventually(lambda: status_of("fake")["supervisor"]["restarts"] == 3)
        after = status_of("fake")
        assert [device["pid"] for device in after["devices"]] == [device["pid"] for device in before["devices"]]
        assert f"supervisor: process {supervisor()}, version {__version__}, restarted 3 times" in subos(
            "status", "fake", check=0
        ).stdout.decode().replace("\n", " ")
        subos("detach", "fake", "mouse", check=0)
        assert list(qemu.devices) == ["subos-rng"]
        everybody = family(after["pid"])
        subos("detach", "fake", check=0)
        wait_ended(everybody)
        assert not qemu.aborted


def test_a_version_that_does_not_load_changes_nothing(folder: Path) -> None:
    """What the launcher was started with is where the next one is loaded from."""
    package = folder / "new" / "subos_devices"
    with FakeQemu(folder / "qmp") as qemu:
        subos("attach", "--qmp", qemu.path, "--rng", check=0, env={"PYTHONPATH": str(folder / "new")})
        old = supervisor()
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise ImportError('half of it is missing')")
        message, hint = refused("restart-supervisor", "fake")
        assert message == "the next supervisor does not serve: ImportError: half of it is missing"
        assert "the one that serves goes on" in hint
        assert supervisor() == old
        shutil.rmtree(package)
        subos("restart-supervisor", "fake", check=0)
        assert supervisor() != old
        everybody = family(status_of("fake")["pid"])
        subos("detach", "fake", check=0)
        wait_ended(everybody)


def test_where_no_vm_runs(folder: Path) -> None:
    assert subos("restart-supervisor", check=0).stdout == b"no VM is running\n"
    assert json.loads(subos("restart-supervisor", "--json", check=0).stdout) == []
    assert refused("restart-supervisor", "fake").message == "no VM called 'fake' answers"
