"""A guest in a guest: the outer one has a pad, as a host has, and its game runs in the inner one."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from support.command import subos
from support.guest import INSIDE

pytestmark = [pytest.mark.vm, pytest.mark.by_hand]


@pytest.mark.timeout(2000)
def test_a_pad_drives_a_game_two_machines_away_and_rumbles(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    shutil.copytree(INSIDE, programs)
    host = [sys.executable, str(programs / "nested_host.py")]
    done = subos("run", "--memory", "3G", "--share", programs, "--", *host, check=0, timeout=1900)
    seen = json.loads(done.stdout)
    assert seen["said"] == ["ready", "pressed", "released"], done.stderr.decode()
    assert [next(iter(message)) for message in seen["felt"][:2]] == ["upload", "play"]
    assert seen["felt"][0]["upload"]["strong"] == 49152
    assert seen["status"] == 0
