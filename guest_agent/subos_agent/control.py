"""The guest's end of the control channel (subos_protocol.control): runs commands, one at a time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import BinaryIO, Optional

from subos_protocol.control import MAXIMUM_BYTES, MAXIMUM_LINE, PORT, TIMEOUT, TOO_MUCH, Reply, Request, RequestHead
from subos_protocol.errors import Malformed

VIRTIO_PORTS = Path("/sys/class/virtio-ports")


def find_port(name: str = PORT, ports: Path = VIRTIO_PORTS) -> str:
    """The device file of a virtio-serial port (udev would link it, but may not run).

    Raises LookupError.
    """
    for folder in sorted(ports.glob("*")):
        try:
            if (folder / "name").read_text().strip() == name:
                return f"/dev/{folder.name}"
        except OSError:
            continue
    raise LookupError(f"this machine has no virtio port {name}")


def serve(port: str) -> None:
    """Answers requests on the port until the host closes it. Raises OSError if it cannot be opened."""
    with open(port, "r+b", buffering=0) as raw, open(raw.fileno(), "rb", closefd=False) as requests:
        answer_all(requests, raw)


def answer_all(requests: BinaryIO, replies: BinaryIO) -> None:
    """Reads requests until the end of the stream. A malformed one ends it: what follows has no meaning."""
    while True:
        line = requests.readline(MAXIMUM_LINE)
        if not line:
            return
        try:
            head = RequestHead.unpack(line)
        except Malformed as error:
            _write(replies, Reply(-1, error=f"malformed request: {error}").pack())
            return
        stdin = requests.read(head.stdin_size)
        if len(stdin) < head.stdin_size:
            return
        _write(replies, run(head.request, stdin).pack())


def run(request: Request, stdin: bytes) -> Reply:
    """Runs a command in a session of its own, of which nothing outlives the timeout."""
    try:
        process = subprocess.Popen(
            request.argv,
            cwd=request.cwd,
            env=request.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return Reply(127, error=f"cannot run {request.argv[0]!r}: {error}")
    failure = ""
    try:
        stdout, stderr = process.communicate(stdin, timeout=request.timeout)
    except subprocess.TimeoutExpired:
        failure = TIMEOUT
        _kill_session(process.pid)
        stdout, stderr = process.communicate()
    if max(len(stdout), len(stderr)) > MAXIMUM_BYTES:
        return Reply(process.returncode, error=failure or TOO_MUCH)
    return Reply(process.returncode, stdout, stderr, failure)


def _kill_session(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _write(stream: BinaryIO, data: bytes) -> None:
    """Writes all of it: a port takes a part at a time."""
    view = memoryview(data)
    while view:
        written: Optional[int] = stream.write(view[: 1 << 16])
        view = view[written or 0 :]
