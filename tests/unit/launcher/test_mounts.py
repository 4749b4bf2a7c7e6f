"""Requests to mount: their lines, as guest/boot's own shell functions read them, and what a hostile guest answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subos_devices.launcher import mounts
from subos_devices.launcher.initramfs import find_busybox, guest_script
from subos_devices.launcher.mounts import GuestMounts, MountFailed, escape, request
from subos_devices.launcher.shares import Share

SHARE = Share(Path("/srv/src"), "src", at=Path("/a b"))


def test_requests_are_lines() -> None:
    assert request(3, "mount", SHARE, "rw") == b"\n3 mount src /a\\0040b rw \n"
    single = Share(Path("/srv/50%\n"), "f", True, Path("/root/x\\y"), single=True)
    assert request(4, "unmount", single, "lazy") == b"\n4 unmount f /root/x\\0134y lazy 50\\0045\\0012\n"
    assert escape("/\udcff\u00e9'*") == "/\\0377\\0303\\0251\\0047\\0052"


NAMES = st.lists(st.integers(1, 255), min_size=1, max_size=12).map(lambda codes: os.fsdecode(bytes(codes)))


@settings(max_examples=30, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=8))
@pytest.mark.parametrize("shell", ["sh", "busybox"])
def test_any_name_arrives(shell: str, names: list[str]) -> None:
    program = [str(find_busybox()), "sh"] if shell == "busybox" else ["sh"]
    functions = guest_functions() + 'while read -r word; do unescape "$word"; printf \'%s\\0\' "$text"; done'
    lines = "".join(f"{escape(name)}\n" for name in names)
    done = subprocess.run([*program, "-c", functions], input=lines.encode(), capture_output=True, check=True)
    assert done.stdout.split(b"\0")[:-1] == [os.fsencode(name) for name in names]


# --- against the guest's own functions


def guest_functions() -> str:
    """What guest/boot defines before it does anything."""
    return guest_script("boot").decode().partition(". $folder/description")[0]


@contextlib.contextmanager
def guest(folder: Path) -> Iterator[socket.socket]:
    """A shell that serves mounts as the guest does; what it would mount is written to `folder`/log.

    The device "late" is there at the second attempt only, and "odd" cannot be mounted. /proc/mounts is `folder`/mounts.
    """
    (folder / "log").touch()
    (folder / "mounts").touch()
    script = guest_functions().replace("/proc/mounts", "$folder/mounts")
    script += f"""
folder={folder}
PATH={os.environ["PATH"]}
mount() {{
	printf '[%s]' mount "$@" >>$folder/log
	case $5 in
	late) ! mkdir $folder/late 2>/dev/null || {{ echo 'mount: mounting late failed: Invalid argument'; return 1; }} ;;
	odd) printf 'mount: \\033[31m no\\n such *\\n'; return 1 ;;
	esac
}}
umount() {{
	printf '[%s]' umount "$@" >>$folder/log
	case "$*" in "/busy here") echo "umount: can't unmount /busy here: Resource busy" && return 1 ;; esac
}}
serve_mounts 7<&0 >/dev/null
"""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        process = subprocess.Popen([str(find_busybox()), "sh", "-c", script], stdin=theirs)
        try:
            yield ours
        finally:
            ours.close()
            theirs.close()
            assert process.wait(10) == 0


def ask(port: socket.socket, *requests: Callable[[GuestMounts], Awaitable[None]]) -> None:
    async def main() -> None:
        there = GuestMounts(port)
        for each in requests:
            await each(there)

    asyncio.run(main())


def test_a_share_is_mounted_and_unmounted(tmp_path: Path) -> None:
    place = tmp_path / "a *\n"
    share = Share(Path("/srv"), "src", True, place)
    with guest(tmp_path) as port:
        ask(port, lambda there: there.mount(share))
        assert place.is_dir()
        other = "other /x virtiofs rw 0 0\nsrc /y tmpfs rw 0 0\n"
        shown = "".join(f"\\{code:03o}" if chr(code) in " \n" else chr(code) for code in os.fsencode(place))
        (tmp_path / "mounts").write_text(f"{other}src {shown} virtiofs ro 0 0\nsrc /second virtiofs ro 0 0\n")
        ask(port, lambda there: there.unmount(share))
        ask(port, lambda there: there.unmount(share, lazy=True))
    assert (tmp_path / "log").read_text() == (
        f"[mount][-t][virtiofs][-o][ro][src][{place}]"
        f"[umount][/second][umount][{place}][umount][-l][/second][umount][-l][{place}]"
    )


def test_a_device_may_come_late(tmp_path: Path) -> None:
    with guest(tmp_path) as port:
        ask(port, lambda there: there.mount(Share(tmp_path / "x", "late")))
    assert (tmp_path / "log").read_text() == 2 * f"[mount][-t][virtiofs][-o][rw][late][{tmp_path}/x]"


def test_what_the_guest_cannot_do_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "mounts").write_text("src /busy\\040here virtiofs rw 0 0\n")
    with guest(tmp_path) as port:
        with pytest.raises(MountFailed, match=r"could not mount odd at .*: mount: \?\[31m no such \*$"):
            ask(port, lambda there: there.mount(Share(tmp_path / "x", "odd")))
        with pytest.raises(MountFailed, match=r"could not mount src at .*: mkdir: .*exists"):
            ask(port, lambda there: there.mount(Share(tmp_path / "file", "src")))
        (tmp_path / "mounts").write_text("src /busy\\040here virtiofs rw 0 0\n")
        with pytest.raises(MountFailed, match=r"could not unmount src: .*/busy here: Resource busy") as caught:
            ask(port, lambda there: there.unmount(SHARE))
        assert "--force" in caught.value.hint
        ask(port, lambda there: there.unmount(SHARE, lazy=True))


def test_a_file_becomes_a_link(tmp_path: Path) -> None:
    link = tmp_path / "etc/a b"
    share = Share(Path("/srv/the file"), "f", at=link, single=True)
    with guest(tmp_path) as port:
        link.parent.mkdir()
        link.write_text("what was there before")
        ask(port, lambda there: there.mount(share))
        assert os.readlink(link) == f"{tmp_path}/shares/f/the file"
        assert (tmp_path / "shares/f").is_dir()
        ask(port, lambda there: there.unmount(share))
        assert not os.path.lexists(link)
        assert not (tmp_path / "shares/f").exists()
        link.mkdir()
        with pytest.raises(MountFailed, match="/etc/a b is a folder"):
            ask(port, lambda there: there.mount(share))


# --- against a guest that means ill


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"1 failed \x1b]0;x\x07 no\n", r"\?\]0;x\? no$"),
        (b"1 failed\n", r": failed$"),
        (b"1 \n", r": it does not say why$"),
        (b"1 ok?\n", r": ok\?$"),
        (b"1 " + b"x" * 3000 + b"\n", r": x{300}…$"),
        (b"2 ok\n0 ok\nok\n\n1 failed late\n", r": late$"),
        (b"x" * 100_000 + b"\n1 failed long\n", r": long$"),
    ],
)
def test_only_ok_is_believed(ends: tuple[socket.socket, socket.socket], answer: bytes, said: str) -> None:
    ours, theirs = ends

    async def main() -> None:
        sending = asyncio.create_task(asyncio.to_thread(theirs.sendall, answer))
        try:
            await GuestMounts(ours).mount(SHARE)
        finally:
            await sending

    with pytest.raises(MountFailed, match=said):
        asyncio.run(main())


@pytest.mark.parametrize("flood", [b"", b"\n" * 4096, b"x" * 4096, b"7 ok\n" * 800])
def test_a_guest_that_does_not_answer(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, flood: bytes
) -> None:
    """Nor does what it says instead take turns or memory; and its late answer is not that to the next request."""
    monkeypatch.setattr(mounts, "TIMEOUT", 0.3)
    ours, theirs = ends
    theirs.setblocking(False)

    async def main() -> None:
        there = GuestMounts(ours)

        async def send() -> None:
            while flood:
                await asyncio.get_running_loop().sock_sendall(theirs, flood)
                assert len(there._heard) <= 3 * mounts.MAX_LINE

        sending = asyncio.create_task(send())
        with pytest.raises(MountFailed, match=r"did not answer within 0\.3 s"):
            await there.mount(SHARE)
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending
        monkeypatch.setattr(mounts, "TIMEOUT", 20)
        await asyncio.get_running_loop().sock_sendall(theirs, b"\n1 ok\n2 failed as it should\n")
        with pytest.raises(MountFailed, match="as it should"):
            await there.mount(SHARE)

    asyncio.run(main())


def test_a_guest_that_reads_nothing(ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "TIMEOUT", 0.1)
    ours, _ = ends
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(bytes(65536))
    with pytest.raises(MountFailed, match="did not answer"):
        ask(ours, lambda there: there.mount(SHARE))


def test_a_vm_that_ends(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.close()
    with pytest.raises(MountFailed, match="the VM has ended"):
        ask(ours, lambda there: there.mount(SHARE))
