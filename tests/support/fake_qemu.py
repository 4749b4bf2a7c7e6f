"""QEMU's side of hot-plug without a VM: a QMP server that keeps books of chardevs and devices.

It connects a chardev to its socket and says a vhost-user request on it, as QEMU does; it refuses what QEMU refuses.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

GREETING = {"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 0}, "package": ""}, "capabilities": []}}
GET_FEATURES = b"\x01\0\0\0\x01\0\0\0\0\0\0\0"


class Refused(Exception):
    """QMP's error class, and what is wrong."""


class FakeQemu:
    """`devices` is the chardev, or the disk, of each plugged device, by id; `chardevs` a connection each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.chardevs: dict[str, socket.socket] = {}
        self.devices: dict[str, str] = {}
        self.disks: dict[str, bytes] = {}
        """What can be read from each block node, by name."""
        self.aborted = False
        """Whether a connection had gone before its device, as no QEMU likes it."""
        self.stubborn: set[str] = set()
        """Devices that the guest does not let go of."""
        self.before: dict[str, Callable[[], None]] = {}
        """What happens before a command is carried out."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> FakeQemu:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.die()
        self._thread.join()

    def die(self) -> None:
        if self._listener.fileno() >= 0:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for connection in self.chardevs.values():
            connection.close()

    def let_go(self, device: str) -> None:
        """The guest does so by itself, late: QEMU closes the connection and keeps the chardev."""
        self.chardevs[self.devices.pop(device)].shutdown(socket.SHUT_RDWR)

    def disconnect(self) -> None:
        """As if all back ends had gone."""
        for connection in self.chardevs.values():
            connection.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):  # a client that has gone
                self._converse(client)

    def _converse(self, client: socket.socket) -> None:
        def say(message: dict[str, Any]) -> None:
            client.sendall(json.dumps(message).encode() + b"\r\n")

        say(GREETING)
        text, decode = "", json.JSONDecoder().raw_decode
        while data := client.recv(65536):
            text += data.decode()
            while text := text.lstrip():
                try:
                    request, end = decode(text)  # no newline ends a request
                except ValueError:
                    break
                text, command = text[end:], request["execute"]
                try:
                    self.before.get(command, lambda: None)()
                    if self._listener.fileno() < 0:
                        return
                    answer = {"return": self._execute(command, request.get("arguments", {}), say)}
                except Refused as error:
                    answer = {"error": {"class": error.args[0], "desc": error.args[1]}}
                say({**answer, "id": request.get("id")})

    def _execute(self, command: str, arguments: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> Any:
        name = arguments.get("id", "")
        match command:
            case "query-memdev":
                return [{"share": True}]
            case "query-name":
                return {"name": "fake"}
            case "query-chardev":
                return [
                    {"label": label, "filename": "disconnected:unix:x" if gone(connection) else "unix:x"}
                    for label, connection in self.chardevs.items()
                ]
            case "chardev-add":
                if name in self.chardevs:
                    raise Refused("GenericError", f"duplicate property '{name}' in object (type 'container')")
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(arguments["backend"]["data"]["addr"]["data"]["path"])
                connection.sendall(GET_FEATURES)
                self.chardevs[name] = connection
            case "chardev-remove":
                if name not in self.chardevs:
                    raise Refused("GenericError", f"Chardev '{name}' not found")
                if name in self.devices.values():
                    raise Refused("GenericError", f"Chardev '{name}' is busy")
                self.chardevs.pop(name).close()
            case "blockdev-add":
                self.disks[arguments["node-name"]] = Path(arguments["file"]["filename"]).read_bytes()
            case "blockdev-del":
                if arguments["node-name"] in self.devices.values():
                    raise Refused("GenericError", f"Node {arguments['node-name']} is in use")
                del self.disks[arguments["node-name"]]
            case "query-named-block-nodes":
                return [{"node-name": node} for node in self.disks]
            case "device_add":
                self.devices[name] = arguments.get("chardev") or arguments["drive"]
            case "device_del":
                if name not in self.devices:
                    raise Refused("DeviceNotFound", f"Device '{name}' not found")
                if chardev := self.chardevs.get(self.devices[name]):
                    self.aborted |= gone(chardev)
                if name not in self.stubborn:
                    del self.devices[name]
                    stamp = {"seconds": 0, "microseconds": 0}
                    say({"event": "DEVICE_DELETED", "data": {"device": name}, "timestamp": stamp})
        return {}


def gone(connection: socket.socket) -> bool:
    """Whether the other end has closed."""
    try:
        while connection.recv(4096, socket.MSG_DONTWAIT):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
