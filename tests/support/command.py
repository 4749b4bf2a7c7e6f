"""Runs `subos-devices` as a person does: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from subos_devices import runtime
from subos_devices.errors import GuestLost, UserError
from subos_devices.supervisor import control

from .waiting import eventually

COMMAND = (sys.executable, "-m", "subos_devices.cli")
TIMEOUT = 120.0  # seconds; a VM is up in 6 under emulation on an idle machine
LAST_WORDS = 5.0  # seconds in which one that has lost its VM says so
MOST_SAID = 20_000  # bytes of its standard error that are shown


def subos(
    *words: object,
    check: int | None = None,
    stdin: bytes = b"",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
    command: tuple[str, ...] = COMMAND,
) -> subprocess.CompletedProcess[bytes]:
    """Runs it to its end. With `check` any other exit status fails the test; a VM that was lost raises GuestLost."""
    done = subprocess.run(
        [*command, *map(str, words)],
        input=stdin,
        capture_output=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        timeout=timeout,
        check=False,
    )
    if check is not None and done.returncode != check:
        said = done.stderr.decode(errors="replace")
        if done.returncode == GuestLost.exit_code:
            raise GuestLost(said.strip())
        raise AssertionError(f"subos-devices {' '.join(map(str, words))}: exit status {done.returncode}\n{said}")
    return done


class Refusal(NamedTuple):
    """What a person is told: one line, and a hint."""

    message: str
    hint: str


def refused(*words: object, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Refusal:
    """The words with which it ends with status 2. Anything else fails the test."""
    done = subos(*words, check=2, env=env, cwd=cwd)
    assert done.stdout == b""
    lines = done.stderr.decode().splitlines()
    assert len(lines) in (1, 2), f"not one line and a hint: {lines}"
    assert lines[0].startswith("subos-devices: ")
    assert not lines[1:] or lines[1].startswith("  hint: ")
    return Refusal(lines[0].removeprefix("subos-devices: "), lines[1].removeprefix("  hint: ") if lines[1:] else "")


# --- a VM that runs meanwhile


class Process(NamedTuple):
    """A process that is not mistaken for a later one of the same number: `born` is in clock ticks since boot."""

    pid: int
    born: int

    @property
    def ended(self) -> bool:
        """A zombie has ended: who should reap it is not of our making."""
        found = _stat(self.pid)
        return found is None or found.born != self.born or found.state in "ZX"


class _Stat(NamedTuple):
    parent: int
    born: int
    state: str


def _stat(pid: int) -> _Stat | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return _Stat(parent=int(fields[1]), born=int(fields[19]), state=fields[0])


def family(pid: int) -> set[Process]:
    """A process and all its descendants."""
    stats = {int(path.name): found for path in Path("/proc").glob("[0-9]*") if (found := _stat(int(path.name)))}
    members = {pid}
    while more := {child for child, found in stats.items() if found.parent in members} - members:
        members |= more
    return {Process(member, stats[member].born) for member in members if member in stats}


def wait_ended(processes: set[Process]) -> None:
    """Raises AssertionError for those that live on."""
    eventually(lambda: all(process.ended for process in processes), timeout=20)


@contextmanager
def running(*words: object, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """`subos-devices` in the background; whatever happens, it ends with the block. Where the block fails as the VM of a
    `run` is lost, GuestLost says why. What goes to its standard error comes to ours, at the end."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*COMMAND, *map(str, words)], stdin=subprocess.DEVNULL, **{"stderr": errors, **options}
        )
        try:
            yield process
        except Exception as error:
            with suppress(subprocess.TimeoutExpired):  # it says why once all has ended
                process.wait(LAST_WORDS)
            if words[0] == "run" and process.returncode == GuestLost.exit_code:
                raise GuestLost(f"{error}; {_tail(errors)}") from error
            raise
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            sys.stderr.write(_tail(errors))


def _tail(file: IO[bytes]) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - MOST_SAID))
    return file.read().decode(errors="replace")


def wait_for_vm(name: str, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The VM's status as soon as it has one: QEMU runs then, and the guest boots. Raises GuestLost."""
    deadline = time.monotonic() + TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        try:
            status: dict[str, Any] = control.ask(name, "status")
        except UserError:
            time.sleep(0.02)
        else:
            return status
    raise GuestLost(f"{name} did not start: exit status {process.poll()}")


def wait_for_file(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Until the guest has made a file on a share. Raises GuestLost."""
    deadline = time.monotonic() + TIMEOUT
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise GuestLost(f"the guest did not come so far as to make {path.name}; status {process.poll()}")
        time.sleep(0.02)


def listed() -> dict[str, dict[str, Any]]:
    """What `status --json` says of each VM, by name."""
    return {machine["name"]: machine for machine in json.loads(subos("status", "--json", check=0).stdout)}


def status_of(name: str) -> dict[str, Any]:
    """What `status --json` says of a VM that runs."""
    return listed()[name]


def assert_nothing_is_left(name: str) -> None:
    """Of a VM that has ended: no folder, no socket, no place in the list."""
    assert not runtime.vm_folder(name).exists()
    assert name not in listed()
