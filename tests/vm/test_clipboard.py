"""The clipboard between the host's desktop and the guest's: X servers on both sides, and a wlroots compositor in the
guest; and who is killed in the middle of a transfer."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from subos_devices.launcher.control import agent_command
from support.command import subos
from support.desktops import x_server
from support.guest import Guest
from support.steps import step
from support.waiting import eventually

pytestmark = pytest.mark.vm

MIB = 1 << 20
X = "DISPLAY=:5"
PATIENCE = 60.0  # programs take seconds to start in the guest
TEXT, HTML, PNG = "UTF8_STRING", "text/html", "image/png"


class Desktops:
    """A host's X server, `host` its environment, and a guest whose session is up."""

    def __init__(self, guest: Guest, host: dict[str, str], folder: Path) -> None:
        self.guest = guest
        self.host = host
        self.folder = folder
        self.name = guest.vm.plan.name

    def inside(self, script: str) -> bytes:
        """What a shell prints in the guest."""
        return self.guest.check("sh", "-c", script, timeout=PATIENCE).encode(errors="surrogateescape")

    def begin_x(self) -> None:
        self.inside(
            "rm -f /tmp/x; mkfifo /tmp/x; Xvfb :5 -displayfd 3 -screen 0 64x64x24 -nolisten tcp -noreset "
            "3>/tmp/x >/dev/null 2>&1 & echo $! >/tmp/x.pid; read display </tmp/x"
        )

    def begin_session(self, environment: str = X, backend: str = "x11") -> None:
        command, variables = agent_command("session", "--backend", backend)
        words = shlex.join([f"{name}={value}" for name, value in variables.items()] + command)
        self.inside(f"env {environment} {words} >/tmp/session.log 2>&1 & echo $! >/tmp/session.pid")

    def copy_in_guest(self, data: bytes, target: str = TEXT) -> None:
        (self.folder / "copied").write_bytes(data)
        self.inside(f"{X} xclip -selection clipboard -t {target} -i {self.folder}/copied >/dev/null 2>&1")

    def copy_on_host(self, data: bytes, target: str = TEXT) -> None:
        (self.folder / "copied here").write_bytes(data)
        subprocess.run(
            ["xclip", "-selection", "clipboard", "-t", target, "-i", str(self.folder / "copied here")],
            env=self.host, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def paste_on_host(self, target: str = TEXT) -> bytes | None:
        try:
            done = subprocess.run(
                ["xclip", "-o", "-selection", "clipboard", "-t", target],
                env=self.host, check=False, capture_output=True, timeout=20,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return None
        return done.stdout if done.returncode == 0 else None

    def paste_in_guest(self, data: bytes, paste: str) -> None:
        """Waits until a program of the guest pastes this."""
        file = self.folder / "pasted"
        script = (
            f"for turn in $(seq 20); do {paste} >{file} 2>/dev/null; cmp -s {file} {self.folder}/expected && exit; "
        )
        (self.folder / "expected").write_bytes(data)
        self.inside(f"{script} sleep 0.5; done; exit 1")

    def arrives_on_host(self, data: bytes, target: str = TEXT) -> None:
        eventually(lambda: self.paste_on_host(target) == data, timeout=PATIENCE)

    def arrives_in_guest(self, data: bytes, target: str = TEXT) -> None:
        self.paste_in_guest(data, f"{X} timeout 10 xclip -o -selection clipboard -t {target}")

    def both_ways(self, what: bytes) -> None:
        """A copy of each side is pasted on the other."""
        self.copy_in_guest(b"from the guest: " + what)
        self.arrives_on_host(b"from the guest: " + what)
        self.copy_on_host(b"from the host: " + what)
        self.arrives_in_guest(b"from the host: " + what)


@pytest.fixture(scope="module")
def desktops(guest_keeper: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desktops]:
    with x_server() as (host, _), pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISPLAY", host["DISPLAY"])
        patch.delenv("WAYLAND_DISPLAY", raising=False)
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        guest = guest_keeper.get()
        folder = guest.share / "clipboard"
        folder.mkdir()
        made = Desktops(guest, host, folder)
        made.begin_x()
        made.begin_session()
        yield made
        for pid in host_processes():
            os.kill(pid, signal.SIGKILL)
        guest.run(["sh", "-c", "kill $(cat /tmp/session.pid /tmp/x.pid)"])


def host_processes() -> list[int]:
    """The host's clipboard processes of this test's VMs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"agent.clipboard.process" in (path.parent / "cmdline").read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_text_html_and_images_both_ways(desktops: Desktops) -> None:
    image = os.urandom(MIB)
    step("from the guest")
    for data, target in (("grüße\r\n\n".encode(), TEXT), (b"<b>bold</b>", HTML), (image, PNG)):
        desktops.copy_in_guest(data, target)
        desktops.arrives_on_host(data, target)
    step("and by the command")
    assert subos("clipboard", desktops.name, "get", "--type", PNG, check=0).stdout == image
    step("from the host")
    for data, target in (("hällo\n".encode(), TEXT), (b"<i>it</i>", HTML), (image, PNG)):
        desktops.copy_on_host(data, target)
        desktops.arrives_in_guest(data, target)
    step("and by the command")
    subos("clipboard", desktops.name, "set", stdin=b"from a script", check=0)
    desktops.arrives_in_guest(b"from a script")


@pytest.mark.parametrize("part", ["session", "agent", "vsock worker", "X server"])
def test_a_part_is_killed_in_the_middle(desktops: Desktops, part: str) -> None:
    guest = desktops.guest
    desktops.copy_in_guest(os.urandom(100 * MIB), PNG)
    eventually(lambda: b"image/png" in subos("clipboard", desktops.name, "formats").stdout, timeout=PATIENCE)
    command = [sys.executable, "-m", "subos_devices.cli", "clipboard", desktops.name, "get", "--type", PNG]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as getting:
        assert getting.stdout is not None
        assert len(getting.stdout.read(2 * MIB)) == 2 * MIB
        step(f"kill the {part}")
        if part == "vsock worker":
            os.kill(guest.worker("vsock"), signal.SIGKILL)
        elif part == "agent":
            serving = guest.run(["pgrep", "-f", "subos_agent serve --"]).stdout.decode().split()
            guest.check("kill", "-KILL", *serving)
        else:
            guest.check("sh", "-c", f"kill -9 $(cat /tmp/{'x' if part == 'X server' else 'session'}.pid)")
        began = time.monotonic()
        rest, said = getting.communicate(timeout=PATIENCE)
        assert time.monotonic() - began < PATIENCE
    if part == "vsock worker" and getting.returncode == 0:
        assert len(rest) == 98 * MIB, "a worker that dies costs its streams, or nothing"
    else:
        assert getting.returncode != 0
        assert said.startswith(b"subos-devices: ")
        assert len(said.splitlines()) <= 2
    step("the next copies")
    if part == "X server":
        desktops.begin_x()
    if part == "session":
        desktops.begin_session()
    desktops.both_ways(part.encode())


def test_a_wlroots_compositor_in_the_guest(desktops: Desktops) -> None:
    run = "/tmp/wl"
    environment = f"XDG_RUNTIME_DIR={run} WAYLAND_DISPLAY=wayland-1"
    nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups"
    sway = f"env HOME={run} XDG_RUNTIME_DIR={run} WLR_BACKENDS=headless WLR_LIBINPUT_NO_DEVICES=1 WLR_RENDERER=pixman"
    desktops.inside(
        f"kill $(cat /tmp/session.pid); mkdir {run}; printf 'xwayland disable\nswaybg_command -\n' >{run}/config;"
        f"chown -R 65534:65534 {run}; chmod 700 {run};"
        f"{nobody} {sway} sway --config {run}/config >/tmp/sway.log 2>&1 & echo $! >/tmp/sway.pid;"
        f"for turn in $(seq 200); do test -S {run}/wayland-1 && exit; sleep 0.1; done; cat /tmp/sway.log; exit 1"
    )
    try:
        desktops.begin_session(environment, "wayland")
        step("from the host")
        desktops.copy_on_host("nach Wayland: ä\r\n".encode())
        desktops.paste_in_guest("nach Wayland: ä\r\n".encode(), f"env {environment} timeout 10 wl-paste -n")
        step("from the guest")
        data = os.urandom(MIB)
        (desktops.folder / "copied").write_bytes(data)
        desktops.inside(f"env {environment} wl-copy --type image/png <{desktops.folder}/copied >/dev/null 2>&1")
        desktops.arrives_on_host(data, PNG)
    finally:
        desktops.guest.run(
            ["sh", "-c", "cat /tmp/session.log /tmp/sway.log; kill $(cat /tmp/session.pid /tmp/sway.pid)"]
        )
        desktops.begin_session()
