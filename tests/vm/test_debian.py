"""A real Debian on a disk takes the agent, from the disk SUBOS and by cloud-init, and gives it back."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from subos_devices.packaging import deb
from subos_devices.supervisor import control
from subos_protocol import __version__
from support import debian
from support.command import COMMAND, assert_nothing_is_left, listed, refused, subos
from support.console import Console
from support.desktops import x_server
from support.steps import step
from support.waiting import eventually

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="syslinux boots PCs only"),
    pytest.mark.skipif(bool(debian.missing()), reason=f"not on this machine: {', '.join(debian.missing())}"),
]

TIMEOUT = 300.0  # seconds; 40 to boot under emulation on an idle machine, 15 to unpack a package
HIGHER = "99.0"
# What changes in any system as time goes by, and dpkg's own records.
CHANGES = (
    "/var/log/",
    "/var/cache/",
    "/var/lib/dpkg/",
    "/var/lib/systemd/",
    "/var/lib/apt/",
    "/var/tmp/",
    "/root/",
    "/tmp/",
)
RELEASES = ["bookworm", pytest.param("trixie", marks=pytest.mark.by_hand)]


@contextmanager
def booted(name: str, disk: Path, *flags: object) -> Iterator[tuple[Console, str]]:
    """A VM of that disk, the console with root's shell, and what the launcher said first."""
    words = ("run", "--name", name, "--image", disk, "--memory", "512M", *flags)
    pipe = subprocess.PIPE
    with subprocess.Popen([*COMMAND, *map(str, words)], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            console = Console(process, name, TIMEOUT)
            console.wait_for("login: ")
            assert process.stderr is not None
            said = process.stderr.readline().decode() if "--install-agent" in flags else ""
            console.type("root\n")
            console.wait_for("# ")
            console.type("stty -echo; PS1=; echo the shell is re''ady\n")
            console.wait_for("the shell is ready\r?\n")
            yield console, said
            console.type("poweroff\n")
            process.wait(TIMEOUT)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(30)


def agent_of(name: str) -> dict[str, object]:
    """What `status` says of the agent; waits for one."""
    eventually(lambda: control.ask(name, "status")["agent"], timeout=TIMEOUT)
    agent: dict[str, object] = listed()[name]["agent"]
    return agent


def has_release(name: str, release: str) -> bool:
    agent = control.ask(name, "status")["agent"]
    return bool(agent) and agent["release"] == release


def files(console: Console) -> set[str]:
    """Every path on the disk that is nobody's diary."""
    found = console.run("find / -xdev").splitlines()
    return {path for path in found if path.startswith("/") and not path.startswith(CHANGES)}


def exec_in(name: str, *words: str) -> str:
    return subos("exec", name, "--", *words, check=0, timeout=TIMEOUT).stdout.decode()


@pytest.mark.parametrize("release", RELEASES)
def test_the_agent_comes_from_the_disk_and_goes_without_a_trace(release: str, tmp_path: Path) -> None:
    name = f"deb-{release}"
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "from-host").write_text("the host was here\n")
    (shared / "higher.deb").write_bytes(deb.build(HIGHER).content)
    step("make the disk, or take it from the cache")
    disk = debian.disk(release, tmp_path / "disk.img")
    step("boot it")
    with booted(name, disk, "--install-agent") as (console, said):
        before = files(console)
        command = re.search(r"as root:  (.*)", said)
        assert command, said

        step("install the agent, as the launcher says")
        console.run(command[1])
        agent = agent_of(name)
        assert (agent["software"], agent["release"], agent["way"]) == ("subos-agent", __version__, "vsock")
        console.run("umount /mnt; systemctl is-enabled subos-agent; systemctl is-active subos-agent")

        step("a share is mounted as soon as it is added")
        added = subos("share", "add", name, f"{shared}:/srv/shared", check=0, timeout=TIMEOUT).stdout.decode()
        assert "at /srv/shared" in added
        assert "the host was here" in console.run("cat /srv/shared/from-host")

        step("commands are refused until the guest allows them")
        assert "for the host are off in this guest" in refused("exec", name, "--", "true").message
        console.run("subos-agent allow exec && systemctl restart subos-agent")
        eventually(lambda: subos("exec", name, "--", "true").returncode == 0, timeout=TIMEOUT)
        done = subos("exec", name, "--", "sh", "-c", "echo out; echo err >&2; exit 7", check=7, timeout=TIMEOUT)
        assert (done.stdout, done.stderr) == (b"out\n", b"err\n")

        step("an upgrade by a command of the host, and a downgrade by agent install, keep the configuration")
        configuration = exec_in(name, "cat", "/etc/subos/agent.conf")
        assert "exec = yes" in configuration
        exec_in(name, "dpkg", "-i", "/srv/shared/higher.deb")
        eventually(lambda: has_release(name, HIGHER), timeout=TIMEOUT)
        assert f"subos-agent {__version__}" in subos("agent", "install", name, check=0, timeout=TIMEOUT).stdout.decode()
        assert exec_in(name, "cat", "/etc/subos/agent.conf") == configuration
        assert exec_in(name, "dpkg-query", "-W", "-f", "${Version}", "subos-agent") == __version__

        step("a disk is plugged, and taken out")
        subos("agent", "install", "--disk", name, check=0, timeout=TIMEOUT)
        console.run("udevadm settle; ls /sys/block; test -e /sys/block/vdc/size")
        subos("agent", "eject", name, check=0, timeout=TIMEOUT)
        console.run("test ! -e /sys/block/vdc")

        step("remove the share, then purge the agent")
        subos("share", "remove", name, "/srv/shared", check=0, timeout=TIMEOUT)
        console.run("rmdir /srv/shared; ! grep virtiofs /proc/mounts")
        console.run("mount LABEL=SUBOS /mnt && sh /mnt/install.sh --remove && test -e /etc/subos/agent.conf")
        console.run("sh /mnt/install.sh --purge; umount /mnt")
        eventually(lambda: control.ask(name, "status")["agent"] is None)
        assert files(console) == before
    assert_nothing_is_left(name)


@pytest.mark.by_hand
def test_the_one_file_program_does_the_same(tmp_path: Path) -> None:
    name, disk = "zipapp", debian.disk("bookworm", tmp_path / "disk.img")
    with booted(name, disk, "--install-agent") as (console, _):
        before = files(console)
        console.run("mount LABEL=SUBOS /mnt && sh /mnt/install.sh --zipapp --allow-exec")
        assert agent_of(name)["release"] == __version__
        assert exec_in(name, "sh", "-c", "command -v subos-agent") == "/usr/local/bin/subos-agent\n"
        step("agent install keeps to it, and to the configuration")
        configuration = exec_in(name, "cat", "/etc/subos/agent.conf")
        exec_in(name, "rm", "/etc/udev/rules.d/60-subos-agent.rules")
        subos("agent", "install", name, check=0, timeout=TIMEOUT)
        assert exec_in(name, "cat", "/etc/subos/agent.conf") == configuration
        step("purge it")
        console.run("sh /mnt/install.sh --purge; umount /mnt")
        assert files(console) == before
    assert_nothing_is_left(name)


@pytest.mark.by_hand
@pytest.mark.parametrize("release", ["bookworm", "trixie"])
def test_cloud_init_installs_the_agent_at_the_first_boot(release: str, tmp_path: Path) -> None:
    name = f"cloud-{release}"
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "from-host").write_text("the host was here\n")
    disk = debian.disk(release, tmp_path / "disk.img", "cloud-init")
    with booted(name, disk, "--cloud-init", "--share", f"{shared}:code:/srv/code") as (console, _):
        assert agent_of(name)["release"] == __version__
        console.run("cloud-init status --wait || cat /var/log/cloud-init-output.log")
        assert "the host was here" in console.run("cat /srv/code/from-host")
        assert "for the host are off in this guest" in refused("exec", name, "--", "true").message
        assert console.run("cat /etc/hostname").strip() == "debian"


@pytest.mark.by_hand
@pytest.mark.parametrize("flag", ["--install-agent", "--cloud-init"])
@pytest.mark.parametrize("release", ["bookworm", "trixie"])
def test_the_clipboard_of_a_user_s_desktop(
    release: str, flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the disk is an X server without a screen, and a user who has the desktop to herself."""
    name, shared = f"desk-{release}", tmp_path / "shared"
    shared.mkdir(mode=0o777)
    shared.chmod(0o777)
    png = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 2048
    formats = {"UTF8_STRING": "words, déjà vu".encode(), "text/html": b"<b>words</b>", "image/png": png}
    disk = debian.disk(release, tmp_path / "disk.img", "xvfb", "xclip", *(["cloud-init"] if "cloud" in flag else []))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with x_server() as (host, _):
        monkeypatch.setenv("DISPLAY", host["DISPLAY"])
        with booted(name, disk, flag, "--share", f"{shared}:code:/srv/code") as (console, _):
            if flag == "--install-agent":
                console.run("mount LABEL=SUBOS /mnt && sh /mnt/install.sh; umount /mnt")
            assert agent_of(name)["release"] == __version__
            step("begin the user's desktop")
            console.run("until grep -q /srv/code /proc/mounts; do sleep 1; done")
            console.run("useradd -m ann; systemctl is-active systemd-logind || ! test -e /run/systemd/seats/seat0")
            console.run("Xvfb :5 -screen 0 64x64x24 -nolisten tcp -noreset >/dev/null 2>&1 & true")
            console.run("until [ -S /tmp/.X11-unix/X5 ]; do sleep 1; done")
            console.run("su ann -c 'DISPLAY=:5 subos-agent session --backend x11' >/tmp/session.log 2>&1 & true")
            for number, (target, data) in enumerate(formats.items()):
                file = shared / f"data{number}"
                file.write_bytes(data)
                step(f"{target} to the guest")
                subprocess.run(
                    ["xclip", "-selection", "clipboard", "-t", target, "-i", file],
                    env=host, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
                paste = f"timeout 10 xclip -o -selection clipboard -t {target} 2>/dev/null"
                console.run(
                    f"su ann -c 'export DISPLAY=:5; for turn in $(seq 60); do {paste} >/tmp/pasted; "
                    f"cmp -s /tmp/pasted /srv/code/data{number} && exit; sleep 1; done; exit 1' || "
                    "{ cat /tmp/session.log; false; }"
                )
                step(f"{target} to the host")
                file.write_bytes(data + b" and back")
                copy = f"xclip -selection clipboard -t {target} -i /srv/code/data{number} >/dev/null 2>&1"
                console.run(f"su ann -c 'DISPLAY=:5 {copy}'")
                eventually(
                    lambda target=target, data=data: pasted(host, target) == data + b" and back", timeout=TIMEOUT
                )
            step("what the user's guest writes is the host's, and the other way round")
            console.run("su ann -c 'echo from the guest >/srv/code/hers'")
            assert (shared / "hers").read_text() == "from the guest\n"
    assert_nothing_is_left(name)


def pasted(environment: dict[str, str], target: str) -> bytes | None:
    """What a program of the host pastes."""
    command = ["timeout", "20", "xclip", "-o", "-selection", "clipboard", "-t", target]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None
