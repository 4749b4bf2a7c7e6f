"""The file system device under a real kernel: what programs in the guest expect, and what the host sees of it."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from support.guest import Guest
from support.inside.trees import tree
from support.steps import step
from support.waiting import eventually

pytestmark = pytest.mark.vm

CHECKS = (
    *("opening", "appending", "mapping", "big_file", "holes", "locks"),
    *("hard_links", "symlinks", "renaming", "unlinked_while_open", "long_names", "weird_names", "many_files"),
    *("fifos", "unix_sockets", "attributes", "modes_and_times"),
)


def assert_same_trees(guest: Guest, folder: Path) -> None:
    """The guest sees in `folder` what the host does: names, modes, owners, times, links, data, attributes."""
    step(f"compare what both sides see in {folder.name}")
    seen = json.loads(guest.inside("trees.py", str(folder)))
    there = tree(str(folder))
    assert seen.keys() == there.keys()
    assert {path: about for path, about in seen.items() if about != there[path]} == {}


@pytest.mark.parametrize("check", CHECKS)
def test_a_share_is_a_file_system(guest: Guest, folder: Path, check: str) -> None:
    step(f"{check}, in the guest")
    guest.inside("posix.py", check, str(folder))
    assert_same_trees(guest, folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change owners")
def test_owners(guest: Guest, folder: Path) -> None:
    step("change owners in the guest")
    guest.inside("posix.py", "owners", str(folder))
    assert (folder / "file").stat().st_uid == 1234
    assert_same_trees(guest, folder)


def test_a_read_only_share_refuses_writes(guest: Guest) -> None:
    (guest.read_only / "file").write_bytes(b"as the host wrote it")
    (guest.read_only / "folder").mkdir()
    (guest.read_only / "link").symlink_to("file")
    before = tree(str(guest.read_only))
    step("try every kind of change in the guest")
    guest.inside("posix.py", "nothing_may_change", str(guest.read_only))
    assert tree(str(guest.read_only)) == before
    assert_same_trees(guest, guest.read_only)


def test_the_guest_sees_what_the_host_makes(guest: Guest, folder: Path) -> None:
    step("make a thousand files on the host")
    for number in range(1000):
        (folder / f"file-{number}").write_bytes(os.urandom(number))
    (folder / "big").write_bytes(os.urandom(64 << 20))
    (folder / b"\xff\n".decode(errors="surrogateescape")).mkdir()
    (folder / "sub").mkdir()
    (folder / "sub" / "link").symlink_to("../file-1")
    assert_same_trees(guest, folder)


def test_changes_of_the_host_arrive(guest: Guest, folder: Path) -> None:
    """After its caches' second the guest sees names that the host made, moved and removed, and new data."""
    (folder / "stays").write_bytes(b"first")
    (folder / "goes").write_bytes(b"")
    (folder / "moves").write_bytes(b"moved")
    assert_same_trees(guest, folder)
    step("change them on the host")
    (folder / "made").mkdir()
    (folder / "goes").unlink()
    (folder / "moves").rename(folder / "made" / "moved")
    (folder / "stays").write_bytes(b"second, and longer")
    step("wait until the guest sees it")
    shell = "until [ -e made/moved ] && [ ! -e goes ] && [ ! -e moves ] && grep -q second stays; do sleep 0.1; done; ls"
    assert guest.check("sh", "-c", shell, cwd=str(folder)).split() == ["made", "stays"]
    assert_same_trees(guest, folder)


def test_changes_of_the_guest_arrive(guest: Guest, folder: Path) -> None:
    """The host sees each at once: nothing of it waits in the guest."""
    for change, names in (
        ("echo first >made", {"made"}),
        ("mkdir folder && mv made folder/moved && echo more >>folder/moved", {"folder"}),
        ("rm -r folder && ln -s nowhere link", {"link"}),
    ):
        step(change)
        guest.check("sh", "-c", change, cwd=str(folder))
        assert {path.name for path in folder.iterdir()} == names
        if "more" in change:
            assert (folder / "folder" / "moved").read_bytes() == b"first\nmore\n"


def test_what_was_just_written_is_not_newer_than_now(guest: Guest, folder: Path) -> None:
    """make would complain of a clock skew."""
    shell = "touch new && echo $(date +%s%N) $(stat -c %.9Y new | tr -d .)"
    now, modified = map(int, guest.check("sh", "-c", shell, cwd=str(folder)).split())
    assert modified < now < modified + 10**10


def test_statfs(guest: Guest, folder: Path) -> None:
    code = "import json, os, sys; s = os.statvfs(sys.argv[1]); print(json.dumps([s.f_frsize, s.f_blocks, s.f_namemax]))"
    seen = json.loads(guest.check(sys.executable, "-S", "-c", code, str(folder)))
    there = os.statvfs(folder)
    assert seen == [there.f_frsize, there.f_blocks, there.f_namemax]


# --- the root


def test_the_root_is_this_machine_s_own(guest: Guest) -> None:
    """Same programs, same libraries, and names that the host has."""
    program = Path(os.path.realpath(sys.executable))
    wanted = hashlib.sha256(program.read_bytes()).hexdigest()
    assert guest.check("sha256sum", str(program)).split()[0] == wanted
    assert guest.check("ls", "-A", "/usr").split() == sorted(os.listdir("/usr"))
    assert guest.check("cat", "/etc/os-release") == Path("/etc/os-release").read_text()


@pytest.fixture
def host_folder() -> Iterator[Path]:
    """A folder that the guest sees as a part of its root, and not through a share."""
    with TemporaryDirectory(prefix="subos-test-", dir="/var/tmp") as name:
        yield Path(name)


def test_what_the_guest_does_to_its_root_stays_there(guest: Guest, host_folder: Path) -> None:
    (host_folder / "file").write_bytes(b"the host's")
    (host_folder / "gone").write_bytes(b"still here")
    (host_folder / "sub").mkdir()
    before = tree(str(host_folder))
    mark = uuid.uuid4().hex
    step("write, remove, rename and link in the guest's root")
    shell = (
        f"echo {mark} >new && echo {mark} >>file && rm gone && mv sub moved && chmod 700 . && ln file hard && cat file"
    )
    assert guest.check("sh", "-c", shell, cwd=str(host_folder)) == f"the host's{mark}\n"
    assert guest.check("ls", str(host_folder)).split() == ["file", "hard", "moved", "new"]
    assert tree(str(host_folder)) == before


def test_files_of_the_host_s_that_are_new_are_seen_in_the_root(guest: Guest, host_folder: Path) -> None:
    guest.check("ls", str(host_folder))
    (host_folder / "late").write_bytes(b"late\n")
    eventually(lambda: guest.run(["cat", str(host_folder / "late")]).stdout == b"late\n")
