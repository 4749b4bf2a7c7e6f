"""File events: what the host changes, as programs in the guest hear and see it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.guest import CACHES, INSIDE, Guest
from support.inside.probe import all_paths, probe
from support.inside.trees import tree
from support.steps import step
from support.waiting import eventually

pytestmark = pytest.mark.vm

Heard = list[tuple[str, list[str], int, str]]
"""What inotify told: the path that was watched, what happened, the cookie, the name in it."""
WRITTEN = ["MODIFY", "CLOSE_WRITE"]


@pytest.fixture(params=["auto", *CACHES])
def place(guest: Guest, request: pytest.FixtureRequest) -> Path:
    """A fresh folder on a share of each cache mode."""
    return fresh(guest, request.param, request.node.name)


@pytest.fixture
def always(guest: Guest, request: pytest.FixtureRequest) -> Path:
    """A fresh folder on the share of which the guest believes everything for a day."""
    return fresh(guest, "always", request.node.name)


def fresh(guest: Guest, mode: str, name: str) -> Path:
    guest.wait_for_agent()
    path = (guest.share if mode == "auto" else guest.caches[mode]) / re.sub(r"\W+", "-", name).strip("-")
    path.mkdir()
    return path


@contextlib.contextmanager
def watching(guest: Guest, *paths: Path, recursive: bool = False) -> Iterator[Heard]:
    """Within it, somebody in the guest watches. The list is filled at the end of the block."""
    output = guest.share / f"heard-{time.monotonic_ns()}"
    options = ["-r"] if recursive else []
    begun = guest.begin(guest.inside_command("watcher.py", str(output), *options, *map(str, paths)), timeout=400)
    eventually(lambda: output.exists() and output.read_text(), timeout=120)
    heard: Heard = []
    yield heard
    end(paths[0])
    done = guest.finish(begun)
    assert done.status == 0, done.stderr
    for line in output.read_text().splitlines()[1:]:
        path, happened, cookie, name = json.loads(line)
        if name != "end":
            heard.append((path, happened, cookie, name))


def end(folder: Path) -> None:
    """What the programs in the guest wait for, once all that was done before has arrived."""
    (folder / "end").touch()


def host(*argv: str, cwd: Path) -> None:
    subprocess.run(argv, cwd=cwd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def of(heard: Heard, name: str) -> list[str]:
    """All that happened to a name. What came several times in a row is there once: a writer's writes may be told of one
    by one, or all together."""
    words = [word for _path, happened, _cookie, there in heard if there == name for word in happened]
    return [word for word, _ in itertools.groupby(words)]


def lines(path: Path, count: int) -> list[Any]:
    """What a program in the guest has written, once there are so many lines."""

    def look() -> list[str]:
        there = path.read_text().splitlines() if path.exists() else []
        return there if len(there) >= count else []

    return [json.loads(line) for line in eventually(look, timeout=60)]


def test_every_kind_of_change_is_told(guest: Guest, place: Path) -> None:
    for name in ("old", "gone", "before", "covered", "touched"):
        (place / name).write_text("as it was\n")
    (place / "folder").mkdir()
    (place / "moving").mkdir()
    with watching(guest, place, place / "gone", place / "covered") as heard:
        step("change everything on the host")
        host("sh", "-c", "echo new >new", cwd=place)
        host("sh", "-c", "echo more >>old", cwd=place)
        host("chmod", "600", "touched", cwd=place)
        host("rm", "gone", cwd=place)
        host("mv", "before", "after", cwd=place)
        host("sh", "-c", "echo temporary >temporary; mv temporary covered", cwd=place)
        host("mkdir", "made", cwd=place)
        host("ln", "-s", "somewhere", "link", cwd=place)
        host("ln", "old", "second", cwd=place)
        host("mkfifo", "fifo", cwd=place)
        host("mv", "moving", "moved", cwd=place)
        host("rmdir", "folder", cwd=place)
    step("look at what was heard")
    assert of(heard, "new") == ["CREATE", *WRITTEN]
    assert of(heard, "old")[:2] == WRITTEN
    assert of(heard, "touched") == ["ATTRIB"]
    assert of(heard, "gone") == ["DELETE"]
    assert of(heard, "before") == ["MOVED_FROM"]
    assert of(heard, "after") == ["MOVED_TO"]
    assert of(heard, "temporary") == ["CREATE", *WRITTEN, "MOVED_FROM"]
    assert of(heard, "covered") == ["MOVED_TO"]
    assert of(heard, "made") == of(heard, "link") == of(heard, "second") == of(heard, "fifo") == ["CREATE"]
    assert of(heard, "moving") == ["MOVED_FROM"]
    assert of(heard, "moved") == ["MOVED_TO"]
    assert of(heard, "folder") == ["DELETE"]
    cookies = {name: cookie for _path, happened, cookie, name in heard if "MOVED" in "".join(happened)}
    assert cookies["before"] == cookies["after"] != cookies["temporary"] == cookies["covered"]
    for name in ("gone", "covered"):
        themselves = [word for path, happened, _, _ in heard if path == str(place / name) for word in happened]
        assert themselves[-2:] == ["DELETE_SELF", "IGNORED"]
    step("and at what is there")
    seen = json.loads(guest.inside("trees.py", str(place)))
    assert seen == json.loads(json.dumps(tree(str(place))))


def test_what_is_told_can_be_read(guest: Guest, place: Path) -> None:
    file, output = place / "file", guest.share / f"read-{time.monotonic_ns()}"
    file.write_text("0000 first")
    os.utime(file, (1, 1))
    begun = guest.begin(guest.inside_command("reader.py", str(output), str(file)), timeout=120)
    assert lines(output, 1)[0][:4] == ["0000 first", "0000 first", "0000", 10]
    writer = "import sys; file = open(sys.argv[1], 'r+b'); file.write(sys.argv[2].encode()); file.truncate()"
    expected = "0000 first"
    for text in ("1111 fir5t", "2222 longer than it was", "3333"):
        step(f"write {text!r}")
        before = len(lines(output, 1))
        host(sys.executable, "-S", "-c", writer, str(file), text, cwd=place)
        expected = text
        eventually(lambda before=before, text=text: text == lines(output, before + 1)[-1][0], timeout=30)
    step("change its mode")
    before = len(lines(output, 1))
    host("chmod", "640", "file", cwd=place)
    eventually(lambda: len(lines(output, before + 1)) and lines(output, 1)[-1][4] == 0o640, timeout=30)
    end(place)
    assert guest.finish(begun).status == 0
    by_name, by_descriptor, mapped, size, mode, written = lines(output, 1)[-1]
    assert (by_name, by_descriptor, mapped, size, mode) == (expected, expected, expected[:4], len(expected), 0o640)
    assert written == file.stat().st_mtime_ns


def test_a_file_that_stays_open_is_told_of_at_each_write(guest: Guest, always: Path) -> None:
    (always / "log").write_text("")
    with watching(guest, always) as heard, open(always / "log", "ab", buffering=0) as log:
        writer = "import os, time\nfor _ in range(5): os.write(1, b'line\\n'); time.sleep(0.3)"
        subprocess.run([sys.executable, "-S", "-c", writer], stdout=log, check=True)
    assert [happened for _path, happened, _cookie, name in heard if name == "log"].count(["MODIFY"]) >= 4
    assert guest.check("cat", str(always / "log")) == 5 * "line\n"


def test_a_read_only_share(guest: Guest) -> None:
    guest.wait_for_agent()
    folder = guest.read_only / "followed"
    folder.mkdir()
    with watching(guest, folder) as heard:
        host("sh", "-c", "echo new >new; mv new file; chmod 600 file; rm file", cwd=folder)
    assert of(heard, "new")[:1] == ["CREATE"]
    assert of(heard, "file")[-1:] == ["DELETE"]
    assert guest.run(["touch", str(folder / "by-guest")]).status != 0
    shutil.rmtree(folder)  # others look at what is in this share
    assert "ro" in guest.check("findmnt", "-no", "OPTIONS", str(guest.read_only)).split(",")


def test_the_guest_s_own_changes_are_told_once(guest: Guest, place: Path) -> None:
    script = "cd $1; echo a >a; echo b >>a; mv a b; chmod 600 b; mkdir c; rmdir c; rm b; touch end"
    output = guest.share / f"heard-{time.monotonic_ns()}"
    watcher = shlex.join(guest.inside_command("watcher.py", str(output), str(place)))
    step("change things in the guest")
    until = f"until [ -s {shlex.quote(str(output))} ]; do sleep 0.1; done"
    guest.check("sh", "-c", f"{watcher} & {until}; ({script}); wait", "sh", str(place))
    heard = [json.loads(line) for line in output.read_text().splitlines()[1:]]
    assert of(heard, "a") == ["CREATE", *WRITTEN, *WRITTEN, "MOVED_FROM"]
    assert of(heard, "b") == ["MOVED_TO", "ATTRIB", "DELETE"]
    assert of(heard, "c") == ["CREATE", "DELETE"]
    time.sleep(0.5)
    assert len(output.read_text().splitlines()) == len(heard) + 1


def test_names_of_any_bytes(guest: Guest, always: Path) -> None:
    names = [
        b"with space",
        b'quo"te',
        b"back\\slash",
        b"new\nline",
        b"\xff\xfe",
        "ü".encode(),
        b"n" * 255,
        b"-rf",
        b"%s",
    ]
    with watching(guest, always) as heard:
        for name in names:
            host("sh", "-c", ': >"$1"', "sh", os.fsdecode(name), cwd=always)
        host("mkdir", "ö\udcff", cwd=always)
    for name in [*map(os.fsdecode, names), "ö\udcff"]:
        assert of(heard, name)[:1] == ["CREATE"], name


@pytest.mark.timeout(600)
def test_a_thousand_files_are_checked_out(guest: Guest, always: Path) -> None:
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@e", "-c", "gc.auto=0"]
    step("make a repository with two branches")
    host(*git, "init", "-q", "-b", "one", ".", cwd=always)
    for branch in ("one", "two"):
        if branch == "two":
            host(*git, "checkout", "-q", "-b", branch, cwd=always)
        for number in range(1000):
            path = always / f"folder{number % 20}" / f"file{number}"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{branch} {number}\n")
        host(*git, "add", ".", cwd=always)
        host(*git, "commit", "-q", "-m", branch, cwd=always)
    before = json.loads(guest.inside("trees.py", str(always), timeout=120))
    assert before["folder7/file7"]["size"] == len("two 7\n")
    with watching(guest, always, recursive=True) as heard:
        step("check out the other one")
        host(*git, "checkout", "-q", "one", cwd=always)
    told: dict[str, list[str]] = {}
    for _path, happened, _cookie, name in heard:
        told.setdefault(name, []).extend(happened)
    lost = [number for number in range(1000) if not {"MODIFY", "CLOSE_WRITE"} <= {*told.get(f"file{number}", [])}]
    assert lost == []
    step("compare what both sides see")
    paths = [str(path.relative_to(always)) for path in always.glob("folder*/*")]
    assert len(paths) == 1000
    seen = guest.run(guest.inside_command("probe.py", str(always), "-"), stdin=json.dumps(paths).encode(), timeout=120)
    assert json.loads(seen.stdout) == json.loads(json.dumps(probe(str(always), paths)))
    assert json.loads(guest.inside("trees.py", str(always), timeout=120)) == json.loads(json.dumps(tree(str(always))))


def assert_same(guest: Guest, folder: Path) -> None:
    """Each path that may be there, looked at on its own, and then the whole tree, is the same on both sides."""

    def differences() -> dict[str, Any]:
        here = json.loads(json.dumps(probe(str(folder), all_paths())))
        there = json.loads(guest.inside("probe.py", str(folder), timeout=120))
        return {path: (here[path], there[path]) for path in here if here[path] != there[path]}

    begun, differs = time.monotonic(), differences()
    while differs and time.monotonic() < begun + 20:  # the last changes may be under way
        time.sleep(0.5)
        differs = differences()
    assert not differs, json.dumps(dict(list(differs.items())[:4]), indent=1)
    assert json.loads(guest.inside("trees.py", str(folder), timeout=120)) == json.loads(json.dumps(tree(str(folder))))


def change(folder: Path, seconds: float, seed: int, pause: float = 0.002) -> None:
    """Random changes on the host."""
    program = [sys.executable, "-S", str(INSIDE / "changes.py"), str(folder), str(seconds), str(seed), str(pause)]
    subprocess.run(program, check=True, stdout=subprocess.DEVNULL)


def test_both_sides_change_things_at_once(guest: Guest, place: Path) -> None:
    seed = time.time_ns() % 1000
    step(f"random changes on both sides, seed {seed}")
    command = guest.inside_command("changes.py", str(place), "4", str(seed), "0")
    begun = guest.begin(command, timeout=120)
    change(place, 4, seed + 1, pause=0.01)
    done = guest.finish(begun)
    assert done.status == 0, done.stderr.decode()
    assert int(done.stdout) >= 5
    assert_same(guest, place)


@pytest.mark.by_hand
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", ["auto", "always"])
def test_both_sides_change_things_for_ten_minutes(guest: Guest, mode: str) -> None:
    folder, seed = fresh(guest, mode, f"ten-minutes-{mode}"), time.time_ns() % 1000
    for minute in range(10):
        step(f"random changes on both sides, minute {minute + 1}, seed {seed + 2 * minute}")
        command = guest.inside_command("changes.py", str(folder), "60", str(seed + 2 * minute), "0")
        begun = guest.begin(command, timeout=200)
        change(folder, 60, seed + 2 * minute + 1, pause=0.01)
        done = guest.finish(begun)
        assert done.status == 0, done.stderr.decode()
        assert_same(guest, folder)


def test_what_the_guest_has_cached_for_a_day_is_known_at_once(guest: Guest, always: Path) -> None:
    seed = time.time_ns() % 1000
    step(f"random changes on the host, seed {seed}")
    change(always, 1, seed)
    guest.inside("probe.py", str(always), timeout=120)  # all of it is cached now, missing names too
    change(always, 2, seed + 1)
    assert_same(guest, always)


# --- when changes were missed


def agent(guest: Guest) -> str:
    """The agent's process in the guest."""
    return guest.check("sh", "-c", "grep -lz '^serve$' /proc/[0-9]*/cmdline | grep -o '[0-9]*' | head -1").strip()


def test_an_agent_that_stands_still(guest: Guest, always: Path) -> None:
    change(always, 0.5, 1)
    guest.inside("probe.py", str(always), timeout=120)
    stopped = agent(guest)
    guest.check("kill", "-STOP", stopped)
    try:
        step("more changes than are kept for it")
        many = "import os\nfor n in range(40000): os.close(os.open('z', os.O_CREAT | os.O_WRONLY)); os.unlink('z')"
        host(sys.executable, "-S", "-c", many, cwd=always)
        change(always, 1, 2)
    finally:
        guest.check("kill", "-CONT", stopped)
    assert_same(guest, always)


def test_an_agent_that_is_killed(guest: Guest, always: Path) -> None:
    change(always, 0.5, 3)
    guest.inside("probe.py", str(always), timeout=120)
    changing = subprocess.Popen(
        [sys.executable, "-S", str(INSIDE / "changes.py"), str(always), "2", "4", "0"], stdout=subprocess.DEVNULL
    )
    step("kill the agent in the midst of changes")
    killed = agent(guest)
    guest.check("kill", "-9", killed)
    assert changing.wait() == 0
    change(always, 0.5, 5)
    step("wait for the next one")
    eventually(lambda: agent(guest) not in ("", killed), timeout=60)
    guest.wait_for_agent()
    assert_same(guest, always)


def test_a_worker_that_is_killed(guest: Guest) -> None:
    """What it served is lost to the guest until it is mounted again; then everything is told as before."""
    guest.wait_for_agent()
    share, tag = guest.caches["never"], "never"
    before = guest.worker(tag)
    os.kill(before, signal.SIGKILL)
    eventually(lambda: guest.worker(tag) not in (0, before))
    guest.check("sh", "-c", f"umount -l {share}; mount -t virtiofs {tag} {share}")
    folder = share / "after"
    folder.mkdir()
    with watching(guest, folder) as heard:
        host("sh", "-c", "echo new >new", cwd=folder)
    assert of(heard, "new") == ["CREATE", *WRITTEN]


def told(guest: Guest, place: Path) -> int:
    """How many of the host's changes the guest has been told of, on the share that the place is on."""
    return int(guest.status(guest.device_of(place.parent.name))["fs"]["changes_told"])


def test_a_file_does_not_shrink_where_the_host_makes_links_to_it(guest: Guest, place: Path) -> None:
    """The guest's kernel takes in unseen how long a file is that comes with a new name, whatever was written since."""
    links, before = 300, told(guest, place)
    begun = guest.begin(guest.inside_command("appender.py", str(place)), timeout=120)
    eventually((place / "file").exists, timeout=60)
    for number in range(links):
        os.link(place / "file", place / f"link {number}")
        time.sleep(0.01)
    end(place)
    done = guest.finish(begun)
    assert done.status == 0, done.stderr.decode()
    assert int(done.stdout) > 10
    eventually(lambda: told(guest, place) - before > links / 10, timeout=60)
    eventually(lambda: guest.check("stat", "-c", "%h", str(place / "file")).strip() == str(links + 1), timeout=60)
