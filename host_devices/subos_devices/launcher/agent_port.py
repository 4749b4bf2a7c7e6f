"""The agent's virtio-serial port in a QEMU that runs already: for VMs without shared memory, and guests without vsock.

It brings a virtio-serial controller of its own, since nobody knows the ports of one that is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

from ..agent.hub import Hub
from ..runtime import listen
from . import hotplug
from .qmp import Qmp, QmpError

CHARDEV = "subos-agent-port"
CONTROLLER = "subos-agent-serial"
PORT = "subos-agent"
NAME = "org.subos.agent"
SOCKET = "agent-port.sock"
CONNECT_SECONDS = 5.0


class AgentPort:
    """`gone` is called when QEMU has closed the port: it has ended."""

    def __init__(self, hub: Hub, folder: Path, gone: Callable[[], None]) -> None:
        self._hub = hub
        self._path = folder / SOCKET
        self._gone = gone
        self._tasks: set[asyncio.Task[None]] = set()
        self.plugged = False

    async def plug(self, monitor: Qmp) -> None:
        """Raises UserError; nothing stays plugged then."""
        await self._clear(monitor)
        with listen(self._path) as listener:
            try:
                address = {"type": "unix", "data": {"path": str(self._path)}}
                backend = {"type": "socket", "data": {"addr": address, "server": False}}
                await monitor.execute("chardev-add", id=CHARDEV, backend=backend)
                listener.setblocking(False)
                async with asyncio.timeout(CONNECT_SECONDS):
                    port, _ = await asyncio.get_running_loop().sock_accept(listener)
                self._follow(port)
                await hotplug.add_device(monitor, {"driver": "virtio-serial-pci", "id": CONTROLLER})
                await monitor.execute(
                    "device_add",
                    **{
                        "driver": "virtserialport",
                        "id": PORT,
                        "bus": f"{CONTROLLER}.0",
                        "chardev": CHARDEV,
                        "name": NAME,
                    },
                )
            except BaseException:
                await self._clear(monitor)
                raise
            finally:
                self._path.unlink(missing_ok=True)
        self.plugged = True

    def _follow(self, port: socket.socket) -> None:
        port.setblocking(False)

        async def follow() -> None:
            with port:
                await self._hub.serve_port(port)
            self.plugged = False
            self._gone()

        task = asyncio.ensure_future(follow())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def unplug(self, monitor: Qmp) -> None:
        """Raises UserError where the guest does not let go."""
        self.plugged = False
        await self._clear(monitor)

    async def _clear(self, monitor: Qmp) -> None:
        """Takes out what is there, of ours or of one before us that was killed."""
        for device in (PORT, CONTROLLER):
            await hotplug.delete_device(monitor, device, "is a guest running? Try again, or restart the VM")
        with contextlib.suppress(QmpError):  # there is none
            await monitor.execute("chardev-remove", id=CHARDEV)

    async def aclose(self) -> None:
        """Ends what follows the port."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
