"""The tests' own plugin: a lost VM is not a failed test, and still not a success."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import support.lost

CONFTEST = Path(__file__).parents[1] / "conftest.py"
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
RERUN = [
    word for word in tomllib.loads(PYPROJECT.read_text())["tool"]["pytest"]["ini_options"]["addopts"] if "rerun" in word
]
TESTS = """\
import pytest
from subos_devices.errors import GuestLost

@pytest.fixture
def guest():
    raise GuestLost("it did not boot")

def test_fine():
    pass

def test_lost():
    print("step, 1 s: shake it")
    raise GuestLost("the guest's kernel panicked: shaken", "the end of its console: ouch")

def test_lost_before_it_began(guest):
    pass
"""


AGAIN = """\
from subos_devices.errors import GuestLost

seen = []

def test_lost_by_a_known_fault_of_qemu():
    seen.append(1)
    if len(seen) == 1:
        raise GuestLost("QEMU had said: iotlb_to_section: Assertion failed")

def test_lost_otherwise():
    seen.append(2)
    if seen.count(2) == 1:
        raise GuestLost("the guest's kernel panicked")
"""


def run(tests: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """With the hooks, and the options that matter here, of this project's own run."""
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "test_vm.py").write_text(tests)
    words = ["-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(folder), "-v"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *words, *RERUN, "test_vm.py"],
        cwd=folder,
        env={"PYTHONPATH": str(Path(support.lost.__file__).parent.parent), "PATH": ""},
        capture_output=True,
        text=True,
    )


def test_what_qemu_itself_fails_at_is_tried_again(tmp_path: Path) -> None:
    done = run(AGAIN, tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 passed" in done.stdout.splitlines()[-1]
    assert "LOST test_vm.py::test_lost_by_a_known_fault_of_qemu (call, and run again): QEMU had said" in done.stdout
    assert "LOST test_vm.py::test_lost_otherwise (call): the guest's kernel panicked" in done.stdout
    alone = run(AGAIN.partition("def test_lost_otherwise")[0], tmp_path)
    assert alone.returncode == 0, alone.stdout + alone.stderr


def test_a_lost_vm_is_reported_as_lost(tmp_path: Path) -> None:
    done = run(TESTS, tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert "2 lost, 1 passed" in lines[-1] or "1 passed, 2 lost" in lines[-1]
    assert sum("LOST" in line for line in lines) == 4  # twice when it happens, twice in the summary
    assert (
        "LOST test_vm.py::test_lost (call): the guest's kernel panicked: shaken; the end of its console: ouch" in lines
    )
    assert "    step, 1 s: shake it" in lines
    assert "LOST test_vm.py::test_lost_before_it_began (setup): it did not boot" in lines
    assert "FAILED" not in done.stdout
