"""What a person is told who asks for what cannot be: one line, a hint, exit status 2, and nothing left behind."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from subos_devices import runtime
from subos_devices.launcher.qemu import this_architecture
from support.command import Refusal, family, refused, subos

QEMU = f"qemu-system-{this_architecture().qemu}"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runtime folder and cache of the test's own; afterwards no VM has a folder, and no process is left."""
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = family(os.getpid())
    yield
    assert list((tmp_path / "run").glob("*/*")) == []
    assert family(os.getpid()) == before


def fake_qemu(folder: Path, script: str) -> dict[str, str]:
    """An environment in which QEMU is this shell script."""
    folder.mkdir()
    program = folder / QEMU
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return {"PATH": str(folder)}


def test_no_qemu(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = refused("run", "--", "true", env={"PATH": str(tmp_path / "empty")})
    assert said.message == f"{QEMU} was not found"
    assert "install" in said.hint


def test_too_old_a_qemu(tmp_path: Path) -> None:
    path = fake_qemu(tmp_path / "bin", "echo 'QEMU emulator version 7.2.19 (Debian 1:7.2+dfsg-7)'")
    said = refused("run", "--", "true", env=path)
    assert said.message == f"QEMU 7.2.19 is too old ({tmp_path}/bin/{QEMU}): 8.2 or newer is needed"
    assert "backports" in said.hint


def test_a_qemu_that_does_not_run(tmp_path: Path) -> None:
    path = fake_qemu(tmp_path / "bin", "echo 'libfoo.so: cannot open' >&2; exit 127")
    said = refused("run", "--", "true", env=path)
    assert said.message == f"{tmp_path}/bin/{QEMU} does not work: libfoo.so: cannot open"


REQUESTS = {
    "a share that does not exist": (["run", "--share", "{0}/absent"], "the share {0}/absent does not exist"),
    "a share that is a device": (["run", "--share", "/dev/null"], "the share /dev/null is neither a folder nor a file"),
    "a tag twice": (["run", "--share", "{0}/one:tag", "--share", "{0}/two:tag"], "the tag tag is used twice"),
    "a folder twice": (
        ["run", "--share", "{0}/one", "--share", "{0}/one/."],
        "{0}/one is shared already, with the tag share0-one",
    ),
    "a tag of ours": (["run", "--share", "{0}/one:subos-root"], "the tag subos-root is one of ours"),
    "the root as a share": (["run", "--share", "/"], "/ is the guest's root already, and read-only"),
    "a kernel that does not exist": (["run", "--kernel", "{0}/absent"], "the kernel {0}/absent cannot be read: "),
    "a kernel that cannot be read": (["run", "--kernel", "{0}/one"], "the kernel {0}/one cannot be read: "),
    "a kernel that is none": (["run", "--kernel", "{0}/file"], "{0}/file is not a Linux kernel"),
    "modules without a kernel": (["run", "--modules", "{0}/one"], "--modules is of no use without --kernel"),
    "a size that is none": (["run", "--memory", "much"], "memory is 'much', which is no size"),
    "too little memory": (["run", "--memory", "1M"], "memory is 1 MiB, and must be at least"),
    "no processor": (["run", "--cpus", "0"], "cpus is 0, and must be at least 1"),
    "a name that is a path": (["run", "--name", "../up"], "'../up' cannot be a VM's name"),
    "an image that does not exist": (["run", "--image", "{0}/absent"], "the image {0}/absent cannot be read"),
    "an image that is none": (["run", "--image", "{0}/file"], "{0}/file is not a disk image"),
    "an image and a command": (["run", "--image", "{0}/file", "--", "true"], "a COMMAND needs the default guest"),
    "an image and a kernel": (["run", "--image", "{0}/file", "--kernel", "{0}/file"], "--image boots the disk's own"),
    "no configuration": (["run", "--config", "{0}/absent"], "the configuration {0}/absent cannot be read"),
    "an unknown key": (["run", "--config", "{0}/unknown.toml"], "{0}/unknown.toml: there is no setting 'memmory'"),
    "a value of the wrong kind": (["run", "--config", "{0}/kind.toml"], "{0}/kind.toml: cpus must be a whole number"),
    "no TOML": (["run", "--config", "{0}/broken.toml"], "the configuration {0}/broken.toml is not TOML"),
    "nothing to attach": (["attach", "--qmp", "{0}/file"], "nothing to attach"),
    "a VM that does not run": (["detach", "absent"], "no VM called 'absent' answers"),
    "a mouse that is not there": (["input", "absent", "click"], "no VM called 'absent' is running"),
    "a mouse of another kind": (
        ["input", "absent", "mouse", "trackball"],
        "a mouse is absolute or relative, not 'trackball'",
    ),
    "no gamepad of that name": (["run", "--gamepad", "atari"], "no gamepad is called 'atari'"),
    "more gamepads than there are": (["run", *["--gamepad=generic"] * 9], "9 gamepads are too many"),
    "a gamepad to serve that there is not": (
        ["serve", "gamepad", "--option", "profile=atari", "--socket-path", "{0}/sock"],
        "no gamepad is called 'atari'",
    ),
    "an unknown kind of device": (["serve", "teapot", "--socket-path", "{0}/sock"], "no device is called 'teapot'"),
    "a device in no module": (["serve", ":X", "--socket-path", "{0}/sock"], "the device ':X' cannot be loaded"),
    "a device in a file": (["serve", "./x.py:D", "--socket-path", "{0}/sock"], "the device './x.py:D' cannot be"),
    "a share called as another device": (["run", "--share", "{0}/one:mouse"], "two devices would be called 'mouse'"),
    "a share over the guest's own": (["run", "--share", "/proc"], "the share /proc would hide the guest's own /proc"),
    "nothing to serve": (["serve", "fs", "--socket-path", "{0}/sock"], "serve fs needs --shared-dir"),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS.keys())
def test_a_request_that_cannot_be_met(tmp_path: Path, request_: tuple[list[str], str]) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "file").write_text("text")
    (tmp_path / "unknown.toml").write_text('memmory = "2G"\n')
    (tmp_path / "kind.toml").write_text('cpus = "two"\n')
    (tmp_path / "broken.toml").write_text("cpus = = 2\n")
    words, wanted = request_
    said = refused(*(word.format(tmp_path) for word in words))
    assert said.message.startswith(wanted.format(tmp_path))
    assert said.hint
    assert not (tmp_path / "sock").exists()
    if "unknown.toml" in words[-1]:
        assert said.hint == "did you mean memory?"


def test_a_name_in_use(tmp_path: Path) -> None:
    """Whoever holds the name keeps all that is its own."""
    with runtime.claim("taken") as folder:
        (folder / "keep").write_text("")
        said: Refusal = refused("run", "--name", "taken", "--", "true")
        assert said.message == "a VM called 'taken' is running"
        assert "--name" in said.hint
        assert (folder / "keep").exists()


def test_a_socket_that_somebody_serves(tmp_path: Path) -> None:
    path = tmp_path / "rng.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert refused("serve", "rng", "--socket-path", path).message == f"somebody already serves {path}"
        assert path.exists()


def test_debug_shows_where_it_went_wrong_and_what_was_asked(tmp_path: Path) -> None:
    done = subos("--debug", "run", "--share", tmp_path / "not there", "--", "true")
    said = done.stderr.decode()
    assert done.returncode != 0
    assert "Traceback" in said
    assert f"command: subos-devices --debug run --share '{tmp_path}/not there' -- true" in said
