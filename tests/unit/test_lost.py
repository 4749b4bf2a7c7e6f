"""The tests' own plugin: a lost VM is not a failed test, and still not a success."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import support.lost

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


def test_a_lost_vm_is_reported_as_lost(tmp_path: Path) -> None:
    (tmp_path / "test_vm.py").write_text(TESTS)
    words = ["-p", "support.lost", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(tmp_path), "-v"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "test_vm.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(support.lost.__file__).parent.parent), "PATH": ""},
        capture_output=True,
        text=True,
    )
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
