"""Shares at places of one's choice, of single files, and shares that come and go while the guest runs."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from subos_devices.launcher.kernel import find_kernel
from support.command import (
    assert_nothing_is_left,
    family,
    refused,
    running,
    status_of,
    subos,
    wait_ended,
    wait_for_file,
    wait_for_vm,
)
from support.guest import Guest
from support.hand_made import booted
from support.steps import step
from support.waiting import eventually

from .test_attach import MACHINES, plugged

pytestmark = pytest.mark.vm


def shares(name: str) -> dict[str, dict[str, Any]]:
    """What `share list` says, by tag."""
    return {share["tag"]: share for share in json.loads(subos("share", "list", name, "--json", check=0).stdout)}


@pytest.fixture
def name(guest: Guest) -> Iterator[str]:
    """The running guest's name; what a failed test has added goes out again."""
    name = guest.vm.plan.name
    before = shares(name)
    yield name
    for tag in shares(name).keys() - before.keys():
        subos("share", "remove", "--force", name, tag, check=0)
    assert shares(name) == before


def test_a_share_comes_and_goes(guest: Guest, name: str, tmp_path: Path) -> None:
    shared, place = tmp_path / "a folder", "/srv/a 'place'\n"
    shared.mkdir()
    (shared / "from-host").write_text("the host was here\n")
    step("add it: it is there at once")
    said = subos("share", "add", name, f"a folder:hot:{place}", cwd=tmp_path, check=0).stdout.decode()
    assert said == f"{shared} is shared with {name}, at /srv/a 'place'? (tag hot)\n"
    assert guest.check("cat", f"{place}/from-host") == "the host was here\n"
    step("change it on both sides")
    guest.check("sh", "-c", "echo the guest was here >from-guest", cwd=place)
    assert (shared / "from-guest").read_text() == "the guest was here\n"
    (shared / "from-host").write_text("again\n")
    guest.check("sh", "-c", "until grep -q again from-host; do sleep 0.1; done", cwd=place)
    step("list it")
    said_of_it = shares(name)["hot"]
    assert (said_of_it["path"], said_of_it["mounted"], said_of_it["read_only"]) == (str(shared), place, False)
    assert {device["name"]: device["mounted"] for device in status_of(name)["devices"]}["hot"] == place
    step("the same again is refused")
    assert "with the tag hot" in refused("share", "add", name, f"{shared}:{place}").message
    everybody = {process for process in family(status_of(name)["pid"]) if process.pid == guest.worker("hot")}
    assert len(everybody) == 1
    step("remove it: it is gone")
    subos("share", "remove", name, shared, check=0)
    assert guest.run(["cat", f"{place}/from-host"]).status == 1
    assert "hot" not in guest.check("cat", "/proc/mounts")
    wait_ended(everybody)
    assert (shared / "from-guest").read_text() == "the guest was here\n"
    step("and it can come back, read-only")
    subos("share", "add", name, f"{shared}:hot:{place}:ro", check=0)
    assert guest.check("cat", f"{place}/from-guest") == "the guest was here\n"
    assert b"Read-only file system" in guest.run(["touch", f"{place}/new"]).stderr


def test_a_share_of_the_boot_can_be_removed(guest: Guest, name: str) -> None:
    """It has a slot of its own, so it is not there for good."""
    before = shares(name)["readonly"]
    (guest.read_only / "known").write_text("known\n")
    subos("share", "remove", name, "readonly", check=0)
    assert guest.run(["grep", "-q", "^readonly ", "/proc/mounts"]).status == 1
    subos("share", "add", name, f"{guest.read_only}:readonly:ro", check=0)
    assert guest.check("cat", str(guest.read_only / "known")) == "known\n"
    (guest.read_only / "known").unlink()
    assert shares(name)["readonly"] == before


def test_a_share_in_use_is_removed_only_by_force(guest: Guest, name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("open\n")
    subos("share", "add", name, f"{tmp_path}:busy:/srv/busy", check=0)
    step("a program of the guest holds a file")
    hold = "exec 3</srv/busy/file; echo held >/srv/busy/held; until [ -e /tmp/let-go ]; do sleep 0.1; done; cat <&3"
    guest.check("sh", "-c", 'rm -f /tmp/let-go; (sh -c "$1" >/tmp/said 2>&1 &)', "sh", hold)
    eventually(lambda: (tmp_path / "held").exists(), timeout=20)
    said = refused("share", "remove", name, "busy")
    assert said.message.startswith("the guest could not unmount busy: ")
    assert "--force" in said.hint
    step("nothing has changed")
    assert shares(name)["busy"]["mounted"] == "/srv/busy"
    assert guest.check("cat", "/srv/busy/file") == "open\n"
    step("by force")
    subos("share", "remove", "--force", name, "busy", check=0)
    assert "busy" not in shares(name)
    assert guest.run(["cat", "/srv/busy/file"]).status == 1
    step("the program meets errors, and the guest runs on")
    guest.check("sh", "-c", "touch /tmp/let-go; until grep -q . /tmp/said; do sleep 0.1; done; cat /tmp/said")
    assert guest.check("echo", "still", "here") == "still here\n"


def test_what_the_guest_cannot_mount_goes_out_again(guest: Guest, name: str, tmp_path: Path) -> None:
    guest.check("touch", "/srv/a-file")
    before = len(status_of(name)["devices"])
    said = refused("share", "add", name, f"{tmp_path}:/srv/a-file")
    assert said.message.startswith("the guest could not mount share")
    assert "Not a directory" in said.message
    assert len(status_of(name)["devices"]) == before


def test_there_is_room_for_eight_and_the_ninth_is_told(guest: Guest, name: str, tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "file").write_text(f"{number}\n")
    for number in range(8):
        subos("share", "add", name, f"{tmp_path / str(number)}:/srv/{number}", check=0)
    assert guest.check("sh", "-c", "cat /srv/[0-9]/file").split() == [str(number) for number in range(8)]
    assert refused("share", "add", name, tmp_path / "8").message.startswith("the VM has 0 free slots")


def test_one_file(guest: Guest, name: str, tmp_path: Path) -> None:
    """Needs the file system's option `only`."""
    notes, place = tmp_path / "my notes", "/srv/notes"
    notes.write_text("the host's\n")
    (tmp_path / "secret").write_text("not shared\n")
    subos("share", "add", name, f"{notes}:notes:{place}", check=0)
    step("read and written on both sides")
    assert guest.check("cat", place) == "the host's\n"
    guest.check("sh", "-c", f"echo the guest\\'s >>{place}")
    assert notes.read_text() == "the host's\nthe guest's\n"
    step("nothing beside it is seen")
    assert guest.check("ls", "-A", "/run/subos/shares/notes") == "my notes\n"
    assert guest.run(["cat", "/run/subos/shares/notes/secret"]).status == 1
    assert guest.run(["touch", "/run/subos/shares/notes/new"]).status == 1
    step("another file takes its place on the host, as editors do it")
    (tmp_path / "new").write_text("replaced\n")
    (tmp_path / "new").rename(notes)
    guest.check("sh", "-c", f"until grep -q replaced {place}; do sleep 0.1; done")
    step("remove it")
    subos("share", "remove", name, place, check=0)
    assert guest.run(["ls", "-d", place]).status != 0


def test_places_at_boot(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "file").write_text("shared\n")
    shell = "cat /work/file && ! touch /work/new && ls -d /work/new"
    done = subos("run", "--share", f"{tmp_path}/src:/work:ro", "--", "sh", "-c", shell)
    assert (done.returncode, done.stdout) == (2, b"shared\n")
    assert b"Read-only file system" in done.stderr


def test_one_file_at_boot(tmp_path: Path) -> None:
    """Needs the file system's option `only`. Its own place is a file of the root already."""
    (tmp_path / "notes").write_text("shared\n")
    shell = f"cat {tmp_path}/notes; echo more >>{tmp_path}/notes; cat /root/x/notes"
    words = (
        "run",
        "--share",
        tmp_path / "notes",
        "--share",
        f"{tmp_path}/notes:/root/x/notes",
        "--",
        "sh",
        "-c",
        shell,
    )
    assert subos(*words, check=0).stdout == b"shared\nshared\nmore\n"
    assert (tmp_path / "notes").read_text() == "shared\nmore\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_vm_that_ends_takes_added_shares_along(tmp_path: Path, number: signal.Signals) -> None:
    base, more = tmp_path / "base", tmp_path / "more"
    for each in (base, more):
        each.mkdir()
    shell = f"until [ -e {more}/go ]; do sleep 0.1; done; touch {more}/seen; sleep 1000"
    with running("run", "--name", "ending", "--share", base, "--", "sh", "-c", shell) as process:
        wait_for_vm("ending", process)
        step("added while it boots, it waits until the guest is there")
        subos("share", "add", "ending", more, check=0)
        (more / "go").touch()
        wait_for_file(more / "seen", process)
        everybody = family(process.pid)
        process.send_signal(number)
        process.wait(30)
        wait_ended(everybody)
    if number == signal.SIGKILL:
        subos("run", "--name", "ending", "--share", f"{more}:/work", "--", "true", check=0)  # it cleans up
    assert_nothing_is_left("ending")


@pytest.mark.parametrize("machine", MACHINES)
def test_an_attached_vm_is_told_how_to_mount(tmp_path: Path, machine: str) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for each in (first, second):
        each.mkdir()
        (each / "file").write_text(f"{each.name}\n")
    with booted(tmp_path, find_kernel(), MACHINES[machine]) as vm:
        subos("attach", "--qmp", vm.qmp, "--share", f"{first}:first", check=0)
        everybody = family(status_of("hand-made")["pid"])
        said = subos("share", "add", "hand-made", f"{second}:second:/mnt:ro", check=0).stdout.decode()
        command = said.splitlines()[1].removeprefix("  in the guest: ")
        assert command == "mount -t virtiofs -o ro second /mnt"
        vm.run(f"until {command} 2>/dev/null; do sleep 0.1; done")
        assert vm.run("cat /mnt/file") == "second\n"
        assert {tag: share["mounted"] for tag, share in shares("hand-made").items()} == {"first": None, "second": None}
        vm.run("umount /mnt")
        for tag in ("second", "first"):
            subos("share", "remove", "hand-made", tag, check=0)
            vm.run(f"! mount -t virtiofs {tag} /mnt 2>/dev/null && echo gone")
        wait_ended(everybody)
        assert plugged(vm.qmp) == []
        assert_nothing_is_left("hand-made")
        assert vm.run("echo still here") == "still here\n"


def test_an_image_is_told_how_to_mount(tmp_path: Path) -> None:
    """The disk is empty: nobody is there to mount anything."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    with running("run", "--name", "empty", "--image", disk, "--no-mouse") as process:
        wait_for_vm("empty", process)
        said = subos("share", "add", "empty", f"{tmp_path}:code", check=0).stdout.decode()
        assert said.endswith("  in the guest: mount -t virtiofs code /mnt\n")
        assert shares("empty")["code"]["mounted"] is None
        everybody = family(process.pid)
        process.send_signal(signal.SIGINT)
        process.wait(30)
        wait_ended(everybody)
    assert_nothing_is_left("empty")
