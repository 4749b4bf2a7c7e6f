"""The distribution, built as a person's pip builds it. pip fetches what building takes, as `./subos` has it do."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from subos_devices.packaging import media

ROOT = Path(__file__).resolve().parents[2]
CHOSEN = """
from subos_devices import fast
from subos_devices.vhost_user.ring import Virtqueue
print(Virtqueue.__module__, fast.reason())
"""
PACKED = """
import hashlib
from subos_devices.packaging import media
print(hashlib.sha256(media.seed()).hexdigest())
"""


def run(*command: str | Path, **environment: str) -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SUBOS_", "PYTHONPATH"))}
    done = subprocess.run(command, env=kept | environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "environment"),
    [
        ("compiled", {"SUBOS_BUILD_FAST": "1"}),
        ("no compiler", {"CC": "false"}),
    ],
)
def test_a_wheel_holds_what_could_be_compiled_and_works(name: str, environment: dict[str, str], tmp_path: Path) -> None:
    before = {path for path in ROOT.rglob("*.so") if ".venv" not in path.parts}
    said = run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-v", "--no-deps"),
        *("--wheel-dir", tmp_path, ROOT),
        **environment,
    )
    assert {path for path in ROOT.rglob("*.so") if ".venv" not in path.parts} == before, (
        "a wheel leaves the tree as it is"
    )
    assert said.count("the fast path was not compiled") == (name == "no compiler")
    (wheel,) = tmp_path.glob("*.whl")
    modules = [file for file in ZipFile(wheel).namelist() if file.endswith(".so")]
    assert bool(modules) == (name == "compiled")
    assert wheel.name.endswith("-none-any.whl") == (name != "compiled")

    venv.create(tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    built = run(python, "-c", PACKED, PYTHONSAFEPATH="1")
    assert built.strip() == hashlib.sha256(media.seed()).hexdigest(), "a wheel packs the agent as a clone does"
    chosen = run(python, "-c", CHOSEN)
    if name == "compiled":
        assert chosen.split()[0] == "subos_devices.vhost_user._ring"
    else:
        assert chosen.split()[0] == "subos_devices.vhost_user.virtqueue"
        assert "the fast path was not compiled" in chosen
