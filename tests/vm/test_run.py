"""`subos-devices run`, as a person or a script runs it: streams, terminal, exit status, signals, lost VMs."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import termios
from pathlib import Path

import pytest

from subos_devices.launcher.kernel import find_kernel
from support.command import (
    assert_nothing_is_left,
    family,
    running,
    subos,
    wait_ended,
    wait_for_file,
    wait_for_vm,
)
from support.ordinary import OrdinaryUser
from support.steps import step
from support.terminal import terminal

pytestmark = pytest.mark.vm


def test_streams(tmp_path: Path) -> None:
    """Standard input and its end, output and errors apart, much output, environment, folder, exit status."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    big, stdin = os.urandom(20 << 20), os.urandom(300_001)
    (folder / "big file").write_bytes(big)
    shell = 'uname -r >&2; pwd >&2; echo "$GREETING" >&2; sha256sum >&2; cat "big file"; exit 7'
    done = subos(
        *("run", "--share", ".", "--", "sh", "-c", shell),
        check=7,
        stdin=stdin,
        cwd=folder,
        env={"GREETING": "it's  got 'quotes', $HOME and ünïcode"},
    )
    assert hashlib.sha256(done.stdout).hexdigest() == hashlib.sha256(big).hexdigest()
    kernel, where, greeting, digest = done.stderr.decode().splitlines()
    assert kernel == find_kernel().version
    assert where == str(folder)
    assert greeting == "it's  got 'quotes', $HOME and ünïcode"
    assert digest.split()[0] == hashlib.sha256(stdin).hexdigest()


def test_a_shell_on_the_terminal() -> None:
    with terminal("run", rows=33, columns=101) as screen:
        before = termios.tcgetattr(screen.slave)
        step("the shell's prompt")
        screen.wait_for("ready> ")
        assert termios.tcgetattr(screen.slave) != before  # raw: the guest's terminal does the echo
        step("the window's size")
        screen.type("stty size; tty\n")
        screen.wait_for(r"33 101\r\n/dev/ttyS1\r\n")
        screen.resize(44, 121)
        screen.type('until [ "$(stty size)" = "44 121" ]; do sleep 0.1; done; echo "resized $((40 + 2))"\n')
        screen.wait_for("resized 42")
        step("Ctrl-C is the guest's")
        screen.type("echo st''arted; sleep 1000\n")
        screen.wait_for("started")
        screen.type("\x03")
        screen.wait_for("ready> ")
        screen.type("echo status $?\n")
        screen.wait_for("status 130")
        step("exit 3")
        screen.type("exit 3\n")
        assert screen.process.wait(60) == 3
        assert termios.tcgetattr(screen.slave) == before


def test_a_guest_that_panics() -> None:
    done = subos("run", "--", "sh", "-c", "echo before; sync; echo c >/proc/sysrq-trigger; sleep 1000")
    assert done.returncode == 125
    assert done.stdout == b"before\n"
    reason = done.stderr.decode().splitlines()[0]
    assert reason.startswith("subos-devices: the VM was lost: the guest's kernel panicked: ")
    assert "sysrq" in reason


def test_a_configured_vm_whose_qemu_is_killed(tmp_path: Path) -> None:
    """A file says what the VM is like; a flag wins over it. Without its QEMU the VM is lost."""
    (tmp_path / "shared").mkdir()
    config = tmp_path / "vm.toml"
    config.write_text(
        'name = "configured"\ncpus = 3\nmemory = "700M"\nshare = ["shared:mine"]\nrng = false\nkeyboard = false\n'
    )
    shell = (
        "{ nproc; awk '/MemTotal/ { print $2 }' /proc/meminfo; } >shared/new && mv shared/new shared/seen; sleep 1000"
    )
    words = ("run", "--config", config, "--cpus", 1, "--", "sh", "-c", shell)
    with running(*words, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        status = wait_for_vm("configured", process)
        assert [device["name"] for device in status["devices"]] == ["subos-root", "mine", "mouse", "vsock"]
        wait_for_file(tmp_path / "shared" / "seen", process)
        cpus, memory = (tmp_path / "shared" / "seen").read_text().split()
        assert int(cpus) == 1
        assert 500 * 1024 < int(memory) < 700 * 1024
        step("kill QEMU")
        everybody = family(process.pid)
        os.kill(status["qemu"], signal.SIGKILL)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 125
    assert said.decode().splitlines()[0] == "subos-devices: the VM was lost: QEMU was ended by SIGKILL"
    wait_ended(everybody)
    assert_nothing_is_left("configured")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_launcher_that_is_asked_to_end(tmp_path: Path, number: signal.Signals, status: int) -> None:
    """Nothing of the VM is left: SIGINT while the guest runs a command, SIGTERM while it boots."""
    shell = f"touch {tmp_path}/up; sleep 1000"
    with running("run", "--name", "asked", "--share", tmp_path, "--", "sh", "-c", shell) as process:
        wait_for_vm("asked", process)
        if number == signal.SIGINT:
            wait_for_file(tmp_path / "up", process)
        everybody = family(process.pid)
        names = {Path(f"/proc/{member.pid}/comm").read_text().strip() for member in everybody}
        assert {"subos-zygote", "subos-supervis", "subos-fs", "subos-mouse", "subos-rng"} <= names
        step(f"{number.name} to process {process.pid}")
        process.send_signal(number)
        assert process.wait(60) == status
    wait_ended(everybody)
    assert_nothing_is_left("asked")


def test_a_launcher_that_is_killed(tmp_path: Path) -> None:
    """Everybody follows it, and the next VM of that name starts."""
    with running("run", "--name", "again", "--", "sleep", "1000") as process:
        wait_for_vm("again", process)
        everybody = family(process.pid)
        assert len(everybody) == 10  # itself, QEMU, supervisor, zygote, five workers, and the keeper of the root
        step(f"SIGKILL to process {process.pid}")
        process.kill()
        process.wait()
        wait_ended(everybody)
    step("the next one of that name")
    with running("run", "--name", "again", "--", "sleep", "1000") as process:
        wait_for_vm("again", process)
        process.terminate()
        assert process.wait(60) == 143
    assert_nothing_is_left("again")


# --- an ordinary user


@pytest.mark.skipif(os.geteuid() != 0, reason="these tests run as an ordinary user already")
def test_an_ordinary_user(ordinary: OrdinaryUser) -> None:
    """The issue's own example, and a file of that user's, by somebody who is not root."""
    work = ordinary.work
    shell = "uname -r; id -u; echo made in the guest >proof; touch /subos-test-new && echo layered; exit 7"
    done = ordinary.run_in_guest("--share", work, "--", "sh", "-c", shell)
    assert done.returncode == 7, done.stderr
    assert done.stdout.splitlines() == [find_kernel().version, "0", "layered"]
    assert (work / "proof").read_text() == "made in the guest\n"
    assert (work / "proof").stat().st_uid == ordinary.uid
    assert not Path("/subos-test-new").exists()
    assert list((ordinary.home / "runtime" / "subos").iterdir()) == []


# --- the demo


def test_the_demo() -> None:
    done = subos("demo", "--json", timeout=280)
    report = json.loads(done.stdout)
    assert [row for row in report["rows"] if not row["ok"]] == []
    assert done.returncode == 0
    assert report.keys() == {"ok", "boot_ms", "rows"}
    assert report["ok"] is True
    assert isinstance(report["boot_ms"], int)
    devices = {row["device"] for row in report["rows"]}
    kinds = {"fs", "mouse", "pointer", "keyboard", "touch", "gamepad", "rng", "vsock"}
    assert devices == kinds | {"supervisor", "agent", "clipboard"}
    for row in report["rows"]:
        assert row.keys() >= {"device", "check", "ok", "ms"}
        assert isinstance(row["ms"], int)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_demo_that_is_asked_to_end(tmp_path: Path, number: signal.Signals, status: int) -> None:
    """While its guest boots."""
    with running("demo", env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL) as process:
        name = f"vm-{process.pid}"
        wait_for_vm(name, process)
        assert [path.name for path in tmp_path.glob("subos-demo-*")]
        everybody = family(process.pid)
        process.send_signal(number)
        assert process.wait(60) == status
    wait_ended(everybody)
    assert_nothing_is_left(name)
    assert not list(tmp_path.iterdir())
