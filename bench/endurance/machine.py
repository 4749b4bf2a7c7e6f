"""A VM of ours under `ulimit -n`, and what its share's worker has open and in memory meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from peers import SUBOS_DEVICES, BenchError

INSIDE = Path(__file__).resolve().parent / "inside"
MOUNT_POINT = "/endurance"
TAG = "endurance"


@dataclass
class Watch:
    """Looks at a worker's descriptors, over and over."""

    pid: int
    most: int = 0
    looks: int = 0
    _end: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            while not self._end.wait(0.02):
                self.most = max(self.most, len(os.listdir(f"/proc/{self.pid}/fd")))
                self.looks += 1

    def close(self) -> None:
        self._end.set()
        self._thread.join()


class Machine:
    """`subos-devices run` with `folder` shared at MOUNT_POINT, running `command`; `limit` is its `ulimit -n`."""

    def __init__(
        self, folder: Path, command: list[str], limit: int, *, memory: str, environment: dict[str, str]
    ) -> None:
        self.name = f"endurance-{os.getpid()}"
        self._environment = {**os.environ, **environment}
        options = ["--name", self.name, "--memory", memory, "--share", f"{folder}:{TAG}:{MOUNT_POINT}:rw"]
        # A shell's ulimit sets both limits, so that nobody in there raises it again.
        shell = ["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(limit)]
        self.process = subprocess.Popen(
            [*shell, str(SUBOS_DEVICES), "run", *options, "--", *command],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def say(self, line: str) -> None:
        """A line of the command's input."""
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)

    def line(self) -> Any:
        """The next line that the command in the guest prints, of JSON."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise BenchError(f"the guest ended: exit status {self.process.wait()}")
        return json.loads(line)

    def share(self) -> dict[str, Any]:
        """What `status --json` says of the share."""
        said = subprocess.run(
            [SUBOS_DEVICES, "status", self.name, "--json"], env=self._environment, capture_output=True, text=True
        )
        if said.returncode:
            raise BenchError(f"status: {said.stderr.strip()}")
        [machine] = json.loads(said.stdout)
        [found] = [device for device in machine["devices"] if device["name"] == TAG]
        return {**found, **found["fs"]}

    def finish(self) -> None:
        """The command's input ends, and so does it. Raises BenchError for another exit status than 0."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        if status := self.process.wait(120):
            raise BenchError(f"the guest's command ended with status {status}")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)


@contextlib.contextmanager
def machine(
    folder: Path, command: list[str], limit: int, *, memory: str = "2G", environment: dict[str, str] | None = None
) -> Iterator[Machine]:
    started = Machine(folder, command, limit, memory=memory, environment=environment or {})
    try:
        yield started
    finally:
        started.close()


@contextlib.contextmanager
def scratch(where: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="subos-endurance-", dir=where, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def wait_ready(vm: Machine, timeout: float = 120) -> dict[str, Any]:
    """The share's status, as soon as there is one. Raises BenchError."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            found = vm.share()
        except BenchError:
            if vm.process.poll() is not None or time.monotonic() > deadline:
                raise
        else:
            if found["pid"] and found["driver"]:
                return found
        time.sleep(0.2)
