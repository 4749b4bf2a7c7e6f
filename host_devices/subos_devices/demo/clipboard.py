"""The demo's checks of the clipboard: real X servers on both sides, and other programs than ours that copy and paste.

On this side the X server is one of the demo's own, without a screen: nobody's clipboard is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import struct
import zlib
from collections.abc import AsyncIterator

from ..launcher.control import agent_command
from .scene import CheckFailed, Scene, eventually, in_guest, same

DISPLAY = ":7"  # in the guest
TEXT, HTML, PNG = "UTF8_STRING", "text/html", "image/png"
READY = "/run/subos-demo-session"


@contextlib.asynccontextmanager
async def own_display() -> AsyncIterator[None]:
    """An X server for this process and those that it starts, while the block runs; none where it is not installed."""
    before = {name: os.environ.pop(name, None) for name in ("DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY")}
    server = shutil.which("Xvfb")
    try:
        if server is None:
            yield
            return
        read_end, write_end = os.pipe()
        with open(read_end, "rb") as number:
            process = await asyncio.create_subprocess_exec(
                *(server, "-displayfd", str(write_end), "-screen", "0", "640x480x24", "-nolisten", "tcp"),
                pass_fds=[write_end],
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
            os.close(write_end)
            try:
                os.environ["DISPLAY"] = f":{(await asyncio.to_thread(number.readline)).decode().strip()}"
                yield
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                await process.wait()
    finally:
        os.environ.pop("DISPLAY", None)
        os.environ.update({name: value for name, value in before.items() if value is not None})


async def text_to_guest(scene: Scene) -> str:
    return await _to_guest(scene, TEXT, f"from the host: ä {secrets.token_hex(4)}\n".encode())


async def text_from_guest(scene: Scene) -> str:
    return await _from_guest(scene, TEXT, f"from the guest: ß {secrets.token_hex(4)}\n".encode())


async def html(scene: Scene) -> str:
    there = await _to_guest(scene, HTML, f"<p>from the <b>host</b> {secrets.token_hex(4)}</p>".encode())
    back = await _from_guest(scene, HTML, f"<p>from the <i>guest</i> {secrets.token_hex(4)}</p>".encode())
    return f"{there}; {back}"


async def image(scene: Scene) -> str:
    there = await _to_guest(scene, PNG, _png(200, 100))
    back = await _from_guest(scene, PNG, _png(100, 200))
    return f"{there}; {back}"


async def _to_guest(scene: Scene, target: str, data: bytes) -> str:
    await _session(scene)
    await _copy_here(target, data)
    seen = await _pasted(scene, target, data, there=True)
    same(seen, data, "what was pasted in the guest")
    return f"{len(data)} bytes of {_name(target)} to the guest"


async def _from_guest(scene: Scene, target: str, data: bytes) -> str:
    await _session(scene)
    copy = f"cat >/run/subos-demo-copy; DISPLAY={DISPLAY} setsid xclip -selection clipboard -target {target} "
    copy += "-in /run/subos-demo-copy >/dev/null 2>&1"
    await in_guest(scene, "sh", "-c", copy, stdin=data)
    seen = await _pasted(scene, target, data, there=False)
    same(seen, data, "what was pasted on the host")
    return f"{len(data)} bytes of {_name(target)} from the guest"


def _name(target: str) -> str:
    return "text" if target == TEXT else target


async def _pasted(scene: Scene, target: str, data: bytes, *, there: bool) -> bytes:
    """What a program pastes on one side, once that is `data`, or at last."""
    seen = b""

    async def arrived() -> bool:
        nonlocal seen
        seen = await (_paste_there(scene, target) if there else _paste_here(target))
        return seen == data

    with contextlib.suppress(CheckFailed):
        await eventually(arrived, "the clipboard")
    return seen


async def _session(scene: Scene) -> None:
    """An X server in the guest, and the agent's part of a user's session in it."""
    if shutil.which("Xvfb") is None or shutil.which("xclip") is None:
        raise CheckFailed("Xvfb and xclip are not installed here: installers/host.sh xserver does that")
    argv, variables = agent_command("session", "--backend", "x11")
    shell = (
        f"[ -s {READY} ] || {{ Xvfb {DISPLAY} -screen 0 640x480x24 -nolisten tcp >/dev/null 2>&1 </dev/null & "
        f"until [ -e /tmp/.X11-unix/X{DISPLAY[1:]} ]; do sleep 0.1; done; "
        f'DISPLAY={DISPLAY} "$@" >{READY} 2>&1 </dev/null & until [ -s {READY} ]; do sleep 0.1; done; }}; cat {READY}'
    )
    said = await in_guest(scene, "env", *(f"{k}={v}" for k, v in variables.items()), "sh", "-c", shell, "sh", *argv)
    if "shared" not in said:
        raise CheckFailed(f"the session in the guest says {said.strip()}")


async def _copy_here(target: str, data: bytes) -> None:
    # It goes on in the background, and holds the selection there until another program takes it.
    process = await asyncio.create_subprocess_exec(
        *("xclip", "-selection", "clipboard", "-target", target, "-in"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    await process.communicate(data)


async def _paste_here(target: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *("timeout", "10", "xclip", "-selection", "clipboard", "-target", target, "-out"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    return (await process.communicate())[0]


async def _paste_there(scene: Scene, target: str) -> bytes:
    words = ("timeout", "10", "xclip", "-display", DISPLAY, "-selection", "clipboard", "-target", target, "-out")
    return (await scene.guest.run(words, timeout=30)).stdout


def _png(width: int, height: int) -> bytes:
    """An image of coloured noise (PNG 1.2: 8 bits, RGB)."""
    rows = b"".join(b"\0" + os.urandom(3 * width) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)
