"""The demo's checks of vsock and of the agent's channel."""

from __future__ import annotations

import hashlib
import secrets

from ..agent.caller import connected
from . import echo
from .scene import Scene, same

MIB = 1 << 20
PORT = 5000


async def echoes(scene: Scene) -> str:
    """A program of the guest sends back what a program of the host sends."""
    await echo.listen(scene, PORT)
    data = secrets.token_bytes(MIB)
    async with echo.stream(scene, PORT) as stream:
        back = await stream.echoed(data)
    same(hashlib.sha256(back).hexdigest(), hashlib.sha256(data).hexdigest(), "the hash of what came back")
    return "1 MiB, hashes equal"


async def runs_a_command(scene: Scene) -> str:
    """With its input, its output and its exit status, as `subos-devices exec` does it."""
    head = {"op": "exec", "argv": ["sh", "-c", "tr a-z A-Z; uname -n >&2; exit 7"]}
    output, errors = b"", b""
    async with connected(scene.vm.plan.name) as peer, peer.call(head) as stream:
        await stream.send(b"from the host")
        stream.end()
        while (message := await stream.receive()) is not None:
            if isinstance(message.content, bytes) and message.part == 1:
                output += message.content
            elif isinstance(message.content, bytes):
                errors += message.content
        same((await stream.result()).get("status"), 7, "the exit status")
    same(output, b"FROM THE HOST", "the output")
    same(errors.decode().strip(), scene.vm.plan.name, "the guest's name")
    way = (scene.vm.agent.status() or {}).get("way")
    return f"input, output and exit status passed, over {way}"
