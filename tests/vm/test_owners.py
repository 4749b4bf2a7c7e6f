"""Owners, ACLs and attributes of a share under a real kernel, beside what this machine's own file system does."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from support.guest import INSIDE, Guest
from support.ordinary import OrdinaryUser
from support.steps import step

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can show how a file system does it, or be somebody else"),
]


@pytest.fixture
def beside(folder: Path) -> Iterator[Path]:
    """A folder on the share's own file system, and not shared."""
    with TemporaryDirectory(dir=folder.parent.parent) as name:
        yield Path(name)


def acls_here(folder: Path, *words: str) -> dict[str, Any]:
    """What this machine's own file system makes of ACLs in `folder`, where the program's other users may go."""
    folder.chmod(0o755)
    program = [sys.executable, str(INSIDE / "acls.py"), str(folder), *words]
    seen: dict[str, Any] = json.loads(subprocess.run(program, capture_output=True, check=True).stdout)
    return seen


def test_acls_are_those_of_the_host_s_file_system(guest: Guest, folder: Path, beside: Path) -> None:
    expected = acls_here(beside, "fifos")
    assert json.loads(guest.inside("acls.py", str(folder), "fifos")) == expected


def in_guest(user: OrdinaryUser, *words: str, options: tuple[str, ...]) -> str:
    """What a program of support/inside prints, in a guest that an ordinary user booted, on that user's folder."""
    done = user.run_in_guest("--share", user.work, *options, "--", user.python, "-S", *words)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture
def programs(ordinary: OrdinaryUser) -> Path:
    """The programs where the ordinary user's guest can read them."""
    shutil.copytree(INSIDE, ordinary.home / "inside", ignore=shutil.ignore_patterns("__pycache__"))
    return ordinary.home / "inside"


def test_an_ordinary_user_s_guest_owns_what_it_likes(ordinary: OrdinaryUser, programs: Path) -> None:
    options = ("--map", "ownership=xattr")
    step("own, chmod and mknod in the guest")
    in_guest(ordinary, str(programs / "owners.py"), "make", str(ordinary.work), options=options)
    step("look at it on the host")
    for path in ordinary.work.rglob("*"):
        there = path.lstat()
        assert (there.st_uid, there.st_gid) == (ordinary.uid, ordinary.uid), path
        assert stat.S_IFMT(there.st_mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK), path
        assert stat.S_ISLNK(there.st_mode) or not there.st_mode & 0o7000, path
    assert (ordinary.work / "null").read_bytes() == b""
    assert os.getxattr(ordinary.work / "null", "user.subos.stat") == b"0 0 20666 1:3"
    (ordinary.work / "host's").write_bytes(b"changed")
    step("look at it in another guest")
    in_guest(ordinary, str(programs / "owners.py"), "check", str(ordinary.work), options=options)


def test_an_ordinary_user_s_guest_has_acls(ordinary: OrdinaryUser, programs: Path, tmp_path: Path) -> None:
    """As on a file system of its own."""
    expected = acls_here(tmp_path, "fifos")
    options = ("--map", "ownership=xattr")
    program = str(programs / "acls.py")
    assert json.loads(in_guest(ordinary, program, str(ordinary.work), "fifos", options=options)) == expected


def test_an_ordinary_user_is_root_in_the_guest(ordinary: OrdinaryUser) -> None:
    """What is theirs shows as root's, and to give it to root changes nothing; to others it cannot be given."""
    (ordinary.work / "file").write_bytes(b"")
    os.chown(ordinary.work / "file", ordinary.uid, ordinary.uid)
    shell = "stat -c %u:%g file; touch new; chown 0:0 new; stat -c %u:%g new; chown 5 new 2>/dev/null || echo refused"
    maps = [word for kind in ("uid", "gid") for word in (f"--map-{kind}", f"0:{ordinary.uid}:1")]
    done = ordinary.run_in_guest("--share", ordinary.work, *maps, "--", "sh", "-c", shell)
    assert done.stdout.split() == ["0:0", "0:0", "refused"], done.stderr
    assert (ordinary.work / "new").stat().st_uid == ordinary.uid
