"""What POSIX and Linux promise of files, on a share and beside it on this machine's own file system: the corners that
file system test suites look into."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from support.guest import INSIDE, Guest
from support.inside.trees import tree
from support.steps import step
from support.waiting import eventually

pytestmark = pytest.mark.vm
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files for others")

DATA = (
    *("mapped_through_an_appending_handle", "append_taken_and_given", "four_append_at_once", "allocating", "seeking"),
    *("copying", "past_the_cache", "truncated_under_a_mapping", "too_big", "times", "open_without_a_name", "executing"),
)
NAMES = (
    *("without_a_name", "renaming", "places_in_a_folder", "numbers_of_dots", "one_makes_it"),
    *("a_wait_for_a_lock_is_interrupted", "limits"),
)
OTHERS = (
    *("suid_and_sgid", "chown_of_nothing", "capabilities", "a_folder_of_a_group", "made_by_another"),
    *("its_maker_writes_what_nobody_may", "a_sticky_folder", "trusted_attributes"),
)


@pytest.fixture
def beside(folder: Path) -> Iterator[Path]:
    """A folder on the share's own file system, and not shared."""
    with TemporaryDirectory(dir=folder.parent.parent) as name:
        Path(name).chmod(0o755)
        yield Path(name)


def seen(said: str | bytes) -> dict[str, Any]:
    """What the checks returned, once none failed."""
    results = json.loads(said)
    failed = "\n".join(f"{name}: {wrong}" for name, wrong, _ in results if wrong)
    assert not failed, failed
    return {name: value for name, _, value in results}


@pytest.mark.parametrize(
    ("program", "checks"),
    [
        pytest.param("data.py", DATA, id="data"),
        pytest.param("names.py", NAMES, id="names"),
        pytest.param("others.py", OTHERS, id="others", marks=as_root),
    ],
)
def test_a_share_does_what_the_host_s_file_system_does(
    guest: Guest, folder: Path, beside: Path, program: str, checks: tuple[str, ...]
) -> None:
    step(f"run {len(checks)} checks on this machine's own file system")
    command = [sys.executable, "-S", str(INSIDE / program), str(beside), *checks]
    expected = seen(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    step("run them in the guest")
    assert seen(guest.inside(program, str(folder), *checks)) == expected
    step("compare what both sides see of what is left")
    assert json.loads(guest.inside("trees.py", str(folder))) == tree(str(folder))


@pytest.mark.parametrize("kind", ["cached", "direct"])
def test_random_operations(guest: Guest, folder: Path, kind: str) -> None:
    said = guest.inside("fuzz.py", str(folder / "file"), kind, "1", "2000", timeout=120)
    assert said.strip() == hashlib.sha256((folder / "file").read_bytes()).hexdigest()


def test_a_database_of_two_processes(guest: Guest, folder: Path) -> None:
    guest.inside("database.py", str(folder / "data.db"), "50", timeout=120)
    db = sqlite3.connect(folder / "data.db")
    try:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT value, (SELECT count(*) FROM log) FROM counter").fetchone() == (100, 100)
    finally:
        db.close()


# --- what the host changes while the guest may still trust what it knew


def change(folder: Path, case: str) -> None:
    """The host's part of the cases of support/inside/stale.py."""

    def replace(name: str) -> None:
        (folder / "temporary").write_bytes(b"new")
        (folder / "temporary").rename(folder / name)

    match case:
        case "removed_folder":
            (folder / "removed").rmdir()
        case "removed_folder_mkdir":
            (folder / "gone").rmdir()
        case "replaced_folder":
            (folder / "folder" / "file").unlink()
            (folder / "folder").rmdir()
            (folder / "folder").mkdir()
            (folder / "folder" / "file").write_bytes(b"new")
        case "replaced_file":
            replace("replaced")
        case "removed_file":
            (folder / "unlinked").unlink()
        case "still_open":
            replace("open")
        case "written_file":
            (folder / "written").write_bytes(b"new")
        case "grown_file":
            (folder / "grown").write_bytes(b"new and longer")


STALE = {
    "removed_folder": ["ENOENT", "done", "done"],
    "removed_folder_mkdir": ["ESTALE", "done"],  # Linux does not look the path up again for mkdir; ext4 says ENOENT
    "own_removed_folder": ["ENOENT"],
    "replaced_folder": ["done", "new", "file", "new"],
    "replaced_file": ["new"],
    "removed_file": ["ENOENT"],
    "still_open": ["old", "old"],
    "written_file": ["new"],
    "grown_file": ["new and longer"],
}


def test_what_the_host_changes_is_met_at_once(guest: Guest, folder: Path) -> None:
    """Names and attributes are good for a second, but who opens or makes something meets what is there now."""
    running = guest.begin(guest.inside_command("stale.py", str(folder)))
    for case in [case for case in STALE if case != "own_removed_folder"]:
        step(f"the host's part of {case}")
        eventually(lambda case=case: running.done() or (folder / f"turn-{case}").exists())  # type: ignore[misc]
        change(folder, case)
        (folder / f"done-{case}").touch()
    done = guest.finish(running)
    assert done.status == 0, done.stdout + done.stderr
    assert dict(json.loads(done.stdout)) == STALE
