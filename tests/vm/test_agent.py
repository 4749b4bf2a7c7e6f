"""The agent in a booted guest, through the real commands: exec, cp, share add, status; its death, and a wrong clock."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import tarfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from subos_protocol import __version__
from support.command import COMMAND, refused, running, status_of, subos
from support.guest import Guest
from support.steps import step
from support.terminal import terminal
from support.waiting import eventually

pytestmark = pytest.mark.vm


@pytest.fixture
def name(guest: Guest) -> str:
    return guest.vm.plan.name


def agents(guest: Guest) -> set[int]:
    """The processes that serve the agent channel in the guest."""
    found = guest.run(["pgrep", "-f", "subos_agent serve --"]).stdout.split()
    return set(map(int, found))


def test_exec_streams_status_variables_folder_and_user(guest: Guest, name: str) -> None:
    data = os.urandom(300_001)
    script = "sha256sum; echo $A; pwd; id -un; echo oops >&2; exit 7"
    options = ("-i", "--user", "nobody", "--cwd", "/var/tmp", "--env", "A=it's ü")
    done = subos("exec", *options, name, "--", "sh", "-c", script, stdin=data, check=7)
    assert done.stdout.decode().splitlines() == [
        f"{hashlib.sha256(data).hexdigest()}  -",
        "it's ü",
        "/var/tmp",
        "nobody",
    ]
    assert done.stderr == b"oops\n"
    step("it is the guest's, and without -i nothing is read")
    done = subos("exec", name, "--", "sh", "-c", "cat; hostname; kill -9 $$", stdin=b"not for it", check=128 + 9)
    assert done.stdout.decode() == f"{name}\n"


def test_exec_moves_much_both_ways(guest: Guest, name: str) -> None:
    data = os.urandom(1 << 20) * 8
    assert subos("exec", "-i", name, "--", "cat", stdin=data, check=0).stdout == data


def test_exec_says_why_not(guest: Guest, name: str) -> None:
    for words, said in (
        ((name, "--", "no-such-program"), "cannot run no-such-program: No such file or directory"),
        (("--user", "no-such-user", name, "--", "true"), "there is no user 'no-such-user' in the guest"),
        (("--cwd", "/no/where", name, "--", "true"), "cannot run true in /no/where: No such file or directory"),
        (("-t", name, "--", "true"), "-t wants a terminal, and this is none"),
        (("no-such-vm", "--", "true"), "no VM called 'no-such-vm' answers"),
        (("--env", "A", name, "--", "true"), "--env A is no variable"),
    ):
        assert refused("exec", *words).message == said
    assert "at most 65536" in refused("exec", name, "--", "true", "x" * 100_000).message


def test_exec_on_a_terminal(guest: Guest, name: str) -> None:
    with terminal("exec", "-it", "--env", "PS1=ready> ", name, "--", "sh", rows=33, columns=101) as screen:
        before = termios.tcgetattr(screen.slave)
        screen.wait_for("ready> ")
        assert termios.tcgetattr(screen.slave) != before  # raw: the guest's terminal does the echo
        screen.type("stty size; tty\n")
        screen.wait_for(r"33 101\r\n/dev/pts/\d+\r\n")
        screen.resize(44, 121)
        screen.type('until [ "$(stty size)" = "44 121" ]; do sleep 0.1; done; echo "resized $((40 + 2))"\n')
        screen.wait_for("resized 42")
        step("Ctrl-C is the guest's")
        screen.type("echo st''arted; sleep 1000\n")
        screen.wait_for("started")
        time.sleep(0.5)
        screen.type("\x03")
        screen.wait_for("ready> ")
        screen.type("exit 3\n")
        assert screen.process.wait(60) == 3
        assert termios.tcgetattr(screen.slave) == before


def test_exec_ends_with_its_terminal(guest: Guest, name: str) -> None:
    """By the escape, which is for guests that hang; nothing of it runs on."""
    with terminal("exec", "-it", name, "--", "sh", "-c", "echo on; sleep 4242", rows=24, columns=80) as screen:
        before = termios.tcgetattr(screen.slave)
        screen.wait_for("on\r\n")
        time.sleep(0.5)
        assert termios.tcgetattr(screen.slave) != before
        screen.type("\x1d\x1d\x1d")
        assert screen.process.wait(20) == 128 + signal.SIGTERM
        assert termios.tcgetattr(screen.slave) == before
    eventually(lambda: guest.run(["pgrep", "-f", "sleep 4242"]).status == 1, timeout=20)


def test_signals_go_to_the_command(guest: Guest, name: str) -> None:
    script = "trap 'echo got it; exit 5' INT; echo on; while :; do sleep 0.1; done"
    with running("exec", name, "--", "sh", "-c", script, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b"got it\n"
        assert process.wait(20) == 5


def test_copies_there_and_back(guest: Guest, name: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "big").write_bytes(os.urandom(5 << 20))
    (tree / "sub" / "program").write_text("#!/bin/sh\necho ran\n")
    (tree / "sub" / "program").chmod(0o750)
    (tree / "sub" / "link").symlink_to("../big")
    with (tree / "sparse").open("wb") as file:
        file.seek(5 << 30)
        file.write(b"end")
    if os.geteuid() == 0:
        os.chown(tree / "sub" / "program", 1234, 4321)
    step("into the guest")
    assert subos("cp", tree, f"{name}:/var/tmp/copied", check=0).stdout == b""
    assert guest.check("/var/tmp/copied/sub/program") == "ran\n"
    assert guest.check("stat", "-c", "%a %s %F", "/var/tmp/copied/sub/program").startswith("750 19 ")
    assert guest.check("stat", "-c", "%s", "/var/tmp/copied/sparse") == f"{(5 << 30) + 3}\n"
    assert guest.check("readlink", "/var/tmp/copied/sub/link") == "../big\n"
    digest = hashlib.sha256((tree / "big").read_bytes()).hexdigest()
    assert guest.check("sha256sum", "/var/tmp/copied/big").split()[0] == digest
    if os.geteuid() == 0:
        assert guest.check("stat", "-c", "%u %g", "/var/tmp/copied/sub/program") == "1234 4321\n"
    step("into a folder that is there, and several")
    guest.check("mkdir", "-p", "/var/tmp/there")
    subos("cp", tree / "sub", tree / "big", f"{name}:/var/tmp/there", check=0)
    assert guest.check("ls", "/var/tmp/there").split() == ["big", "sub"]
    assert "does not exist" in subos("cp", tree / "big", tree / "sub", f"{name}:/no/where").stderr.decode()
    step("out of it")
    subos("cp", f"{name}:/var/tmp/copied", tmp_path / "back", check=0)
    assert (tmp_path / "back/sparse").stat().st_blocks < 4096
    for path in ("big", "sub/program"):
        assert (tmp_path / "back" / path).read_bytes() == (tree / path).read_bytes()
        for one in (tree, tmp_path / "back"):
            info, other = (one / path).stat(), (tree / path).stat()
            assert (info.st_mode, info.st_mtime_ns, info.st_uid) == (other.st_mode, other.st_mtime_ns, other.st_uid)
    step("as tar archives")
    archive = subos("cp", f"{name}:/var/tmp/copied/sub", "-", check=0).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert tar.getnames() == ["sub", "sub/link", "sub/program"]
    guest.check("mkdir", "-p", "/var/tmp/from-tar")
    subos("cp", "-", f"{name}:/var/tmp/from-tar", stdin=archive, check=0)
    assert guest.check("/var/tmp/from-tar/sub/program") == "ran\n"
    step("what is not there")
    assert refused("cp", f"{name}:/no/where", tmp_path).message == "/no/where: No such file or directory"
    guest.check("rm", "-rf", "/var/tmp/copied", "/var/tmp/there", "/var/tmp/from-tar")


def test_a_guest_whose_disk_is_full(guest: Guest, name: str, tmp_path: Path) -> None:
    guest.check("sh", "-c", "mkdir -p /mnt/small && mount -t tmpfs -o size=4m small /mnt/small")
    try:
        (tmp_path / "much").write_bytes(bytes(8 << 20))
        done = subos("cp", tmp_path / "much", f"{name}:/mnt/small", check=1)
        assert "/mnt/small" in done.stderr.decode()
        assert "No space left" in done.stderr.decode() or "is full" in done.stderr.decode()
        assert guest.check("ls", "-A", "/mnt/small") == ""
    finally:
        guest.check("umount", "/mnt/small")


def test_what_a_guest_sends_stays_in_its_place(guest: Guest, name: str, tmp_path: Path) -> None:
    """Links that lead out are copied as links, and nothing is written through them. What hostile senders can do more
    is tried where it does no harm: tests/unit/desktop/test_trees.py."""
    guest.check(
        *("sh", "-c"),
        "mkdir -p /var/tmp/evil/b && cd /var/tmp/evil && ln -s / a && ln -s /etc/passwd b/passwd && echo x >b/file",
    )

    there, outside = tmp_path / "there", tmp_path / "outside"
    (there / "evil").mkdir(parents=True)
    outside.mkdir()
    (there / "evil" / "b").symlink_to(outside)
    done = subos("cp", f"{name}:/var/tmp/evil", there, check=1)
    assert b"b is there already, and is not a folder" in done.stderr
    assert os.listdir(outside) == []
    subos("cp", f"{name}:/var/tmp/evil", tmp_path / "fresh", check=0)
    assert os.readlink(tmp_path / "fresh/a") == "/"
    assert (tmp_path / "fresh/b/file").read_text() == "x\n"
    guest.check("rm", "-rf", "/var/tmp/evil")


def test_status_shows_the_agent_and_its_guest(guest: Guest, name: str) -> None:
    step("as a table")
    shown = subos("status", name, check=0).stdout.decode()
    assert f"agent: subos-agent {__version__}, over " in shown
    step("as JSON")
    status = status_of(name)
    assert status["agent"]["current"] is True
    assert "exec" in status["agent"]["capabilities"]
    assert status["guest"]["hostname"] == name
    assert status["guest"]["kernel"] == guest.check("uname", "-r").strip()


def test_the_doctor_inside(guest: Guest, name: str) -> None:
    said = json.loads(subos("exec", name, "--", *agent_words(guest), "doctor", "--json").stdout)
    found = {finding["name"]: finding for finding in said["findings"]}
    assert found["virtio-serial"]["ok"]
    assert found["mount"]["ok"]
    assert found["Python"]["ok"]


def agent_words(guest: Guest) -> list[str]:
    """The agent's own command, as the guest runs it."""
    pid = next(iter(agents(guest)))
    environment = guest.check("cat", f"/proc/{pid}/environ").split("\0")
    argv = guest.check("cat", f"/proc/{pid}/cmdline").split("\0")
    path = next(word for word in environment if word.startswith("PYTHONPATH="))
    return ["env", path, *argv[: argv.index("subos_agent") + 1]]


@contextlib.contextmanager
def killed_agent(guest: Guest) -> Iterator[None]:
    """The agent is killed, and another one is there when the block begins."""
    before = agents(guest)
    assert len(before) == 1
    guest.check("kill", "-KILL", *map(str, before))
    eventually(lambda: agents(guest) and not agents(guest) & before, timeout=30)
    yield


def test_an_agent_that_is_killed(guest: Guest, name: str, tmp_path: Path) -> None:
    """What was under way fails, in one line; the next one takes its place."""
    words = [*COMMAND, "exec", name, "--", "sh", "-c", "echo on; sleep 1000"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"on\n"
        with killed_agent(guest):
            assert process.wait(30) == 1
            said = process.stderr.read().decode()
            assert said.startswith("subos-devices: ")
            assert len(said.splitlines()) == 1
    step("the next one works")
    assert subos("exec", name, "--", "echo", "hello", check=0).stdout == b"hello\n"
    (tmp_path / "file").write_text("shared\n")
    subos("share", "add", name, f"{tmp_path}:after:/srv/after", check=0)
    assert guest.check("cat", "/srv/after/file") == "shared\n"
    subos("share", "remove", name, "after", check=0)
    guest.check("pkill", "-f", "sleep 1000")


def test_a_wrong_clock_is_set_when_an_agent_comes(guest: Guest) -> None:
    guest.check("date", "-s", "@1000000000")
    assert int(guest.check("date", "+%s")) < 1_100_000_000
    with killed_agent(guest):
        eventually(lambda: abs(float(guest.check("date", "+%s.%N")) - time.time()) < 1.5, timeout=20)


def test_requests_at_the_same_time(guest: Guest, name: str) -> None:
    def one(number: int) -> bytes:
        return subos("exec", name, "--", "sh", "-c", f"sleep 0.{number}; echo {number}", check=0).stdout

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(8))) == [b"%d\n" % number for number in range(8)]
