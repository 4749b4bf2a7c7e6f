"""The control channel: the host has a command run in the guest and gets all that it printed.

Both directions, on a virtio-serial port named `org.subos.control`: one line of JSON (ASCII), then as
many raw bytes as the line says. A request is answered before the next one is read.

    → {"argv": ["cat"], "cwd": "/", "environment": null, "timeout": 10.0, "stdin": 3}\\n abc
    ← {"status": 0, "error": "", "stdout": 3, "stderr": 0}\\n abc

Strings that are not UTF-8 travel as Python's lone surrogates (`os.fsdecode`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Dict, List, Optional

from .errors import Malformed

PORT = "org.subos.control"
MAXIMUM_LINE = 1 << 22
"""Bytes: a request holds an argument vector and an environment, which Linux limits to 2 MiB."""
MAXIMUM_BYTES = 1 << 26
"""Of one input or output: whoever receives it holds it in memory."""
TIMEOUT = "timeout"
"""A reply's error: the command took too long, and was ended."""
TOO_MUCH = "too much output"
"""A reply's error: the command printed more than MAXIMUM_BYTES, which is dropped."""


@dataclass(frozen=True)
class Request:
    """`environment` None: the agent's own. `timeout` in seconds, None: as long as it takes."""

    argv: List[str]
    stdin: bytes = b""
    cwd: str = "/"
    environment: Optional[Dict[str, str]] = None
    timeout: Optional[float] = None

    def pack(self) -> bytes:
        head = {
            "argv": self.argv,
            "cwd": self.cwd,
            "environment": self.environment,
            "timeout": self.timeout,
            "stdin": len(self.stdin),
        }
        return _line(head) + self.stdin


@dataclass(frozen=True)
class RequestHead:
    """The first line of a request: `request` has no input yet, which is `stdin_size` bytes."""

    request: Request
    stdin_size: int

    @classmethod
    def unpack(cls, line: bytes) -> RequestHead:
        """Raises Malformed."""
        head = _object(line)
        argv, cwd = head.get("argv"), head.get("cwd")
        environment, timeout = head.get("environment"), head.get("timeout")
        if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
            raise Malformed("argv is not a list of words")
        if not isinstance(cwd, str):
            raise Malformed("cwd is not a path")
        if environment is not None and not (
            isinstance(environment, dict) and all(isinstance(value, str) for value in environment.values())
        ):
            raise Malformed("environment is not a table of words")
        if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float))):
            raise Malformed("timeout is not a number")
        return cls(Request(argv, b"", cwd, environment, timeout), _size(head, "stdin"))


@dataclass(frozen=True)
class Reply:
    """`status` is the exit status, or minus the number of the signal that ended the command.

    `error` says why there is no result: TIMEOUT, TOO_MUCH, or the reason why the command did not start.
    """

    status: int
    stdout: bytes = b""
    stderr: bytes = b""
    error: str = ""

    def pack(self) -> bytes:
        head = {
            "status": self.status,
            "error": self.error,
            "stdout": len(self.stdout),
            "stderr": len(self.stderr),
        }
        return _line(head) + self.stdout + self.stderr


@dataclass(frozen=True)
class ReplyHead:
    """The first line of a reply, which says how many bytes of output follow."""

    status: int
    error: str
    stdout_size: int
    stderr_size: int

    @classmethod
    def unpack(cls, line: bytes) -> ReplyHead:
        """Raises Malformed."""
        head = _object(line)
        status, error = head.get("status"), head.get("error")
        if isinstance(status, bool) or not isinstance(status, int) or not isinstance(error, str):
            raise Malformed("a reply without status or error")
        return cls(status, error, _size(head, "stdout"), _size(head, "stderr"))


def _line(head: Dict[str, Any]) -> bytes:
    return json.dumps(head, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


def _object(line: bytes) -> Dict[str, Any]:
    if len(line) > MAXIMUM_LINE or not line.endswith(b"\n"):
        raise Malformed("a line that does not end")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Malformed("not a line of JSON") from error
    if not isinstance(value, dict):
        raise Malformed("not a JSON object")
    return value


def _size(head: Dict[str, Any], name: str) -> int:
    size = head.get(name)
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= MAXIMUM_BYTES:
        raise Malformed(f"{name} is not a size")
    return size
