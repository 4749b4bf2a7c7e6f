"""The demo's checks of vsock and of the agent's channel."""

from __future__ import annotations

import asyncio
import hashlib
import secrets

from ..agent.caller import connected
from ..launcher.devices import vsock_path
from .scene import CheckFailed, Scene, begin, same

MIB = 1 << 20
PORT = 5000
ECHO = f"""
import socket
listener = socket.socket(socket.AF_VSOCK)
listener.bind((socket.VMADDR_CID_ANY, {PORT}))
listener.listen()
print("listening", flush=True)
client, _ = listener.accept()
while data := client.recv(1 << 16):
    client.sendall(data)
client.close()
"""


async def echo(scene: Scene) -> str:
    """A program of the guest sends back what a program of the host sends."""
    await begin(scene, "/run/subos-demo-echo", ECHO)
    reader, writer = await asyncio.open_unix_connection(vsock_path(scene.vm.folder))
    try:
        writer.write(b"CONNECT %d\n" % PORT)
        if not (answer := await reader.readline()).startswith(b"OK "):
            raise CheckFailed(f"the device answered {answer!r}")
        data = secrets.token_bytes(MIB)
        writer.write(data)
        back = await asyncio.wait_for(reader.readexactly(MIB), 20)
    finally:
        writer.close()
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
