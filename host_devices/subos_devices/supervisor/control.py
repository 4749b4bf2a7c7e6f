"""The control socket of a running VM: one JSON object a line in, one out.

    → {"op": "status"}
    ← {"ok": true, "result": {…}}   or   {"ok": false, "message": "…", "hint": "…"}

Only the VM's owner can reach it (it lies in a folder of mode 0700).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import SubosError, UserError
from ..runtime import listen, vm_folder

SOCKET = "control.sock"
TIMEOUT = 30.0  # seconds that a client waits for an answer
MAX_LINE = 1 << 20  # bytes

log = logging.getLogger("subos")

Handler = Callable[[dict[str, Any]], Awaitable[Any]]


@contextlib.asynccontextmanager
async def serve(folder: Path, handlers: Mapping[str, Handler]) -> AsyncIterator[None]:
    """Answers requests in `folder` until the block is left. A handler gets the request and returns the result."""
    conversations: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(await _answer(line, handlers) + b"\n")
                await writer.drain()
        except (ValueError, ConnectionError):
            pass  # a line that is too long, or a client that has gone
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(converse(reader, writer))
        conversations.add(task)
        task.add_done_callback(conversations.discard)

    server = await asyncio.start_unix_server(accept, sock=listen(folder / SOCKET), limit=MAX_LINE)
    try:
        yield
    finally:
        server.close()
        for task in conversations:
            task.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)


async def _answer(line: bytes, handlers: Mapping[str, Handler]) -> bytes:
    try:
        request = json.loads(line)
        operation = request["op"]
        handler = handlers[operation]
    except (ValueError, TypeError, KeyError, RecursionError):
        return _refusal("no such request", f"there are {', '.join(handlers)}")
    try:
        return json.dumps({"ok": True, "result": await handler(request)}).encode()
    except SubosError as error:
        return _refusal(error.message, error.hint)
    except Exception as error:  # the client is answered whatever happens, and the VM runs on
        log.exception("a fault of ours at the request %s", operation)
        return _refusal(f"a fault of ours: {type(error).__name__}: {error}", "the VM runs on; please report this")


def _refusal(message: str, hint: str) -> bytes:
    return json.dumps({"ok": False, "message": message, "hint": hint}).encode()


def ask(name: str, operation: str, *, timeout: float | None = TIMEOUT, **fields: object) -> Any:
    """The result of one request to the VM `name`. Raises UserError where it does not run, or says no.

    `timeout` is in seconds; None is for requests that wait for the guest, each of whose devices may take a while.
    """
    path = vm_folder(name) / SOCKET
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout)
        try:
            client.connect(os.fspath(path))
            client.sendall(json.dumps({"op": operation, **fields}).encode() + b"\n")
            with client.makefile("rb") as lines:
                answer = json.loads(lines.readline())
        except (OSError, ValueError) as error:
            raise UserError(f"no VM called {name!r} answers", "subos-devices status lists the VMs that run") from error
    if not answer["ok"]:
        raise UserError(answer["message"], answer.get("hint", ""))
    return answer["result"]
