"""The guests' sides: each `ask` is one request, and returns when its device has answered."""

from __future__ import annotations

import os
import socket
import struct
from abc import ABC, abstractmethod
from pathlib import Path

from peers import BenchError
from subos_devices.input.client import DriverConnection
from subos_devices.testing import DriverQueue, FrontEnd
from subos_devices.testing.fuse import FuseClient
from subos_protocol.fuse_opcodes import FuseOpcode
from subos_protocol.input_codes import Abs, Ev, Key, Syn
from subos_protocol.virtio_input import virtio_input_event
from subos_protocol.vsock import Op
from support.vsock_driver import Driver

QEMU_QUEUE = 4  # descriptors of an input device's queue
EVENT = struct.Struct("<HHi")
SYN = virtio_input_event(Ev.EV_SYN, Syn.SYN_REPORT, 0)
PORT = 5000
CREATED = 160  # bytes: an entry and its attributes
ROOT = 1  # FUSE's node id of it


class Guest(ABC):
    """One device's front end. `folder` is where its sockets lie."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.lost = ""
        """What of the guest's a worker has not taken over from the last one."""
        self.vm = FrontEnd.connect(folder / f"{name}.vhost.sock", timeout=20)

    @abstractmethod
    def ask(self) -> None: ...

    def close(self) -> None:
        self.vm.close()


class Rng(Guest):
    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name, folder)
        self.queue = self.vm.queue(0, 64)

    def ask(self) -> None:
        [data] = self.queue.request(writable=[64])
        if len(data) != 64:
            raise BenchError(f"{len(data)} random bytes instead of 64")


class Input(Guest):
    """A request is an event of a host driver that is new; the answer, that the guest has it. `code` is sent with each
    of `values` in turn, none of which is what the device rests at."""

    def __init__(self, name: str, folder: Path, type_: int, code: int, values: tuple[int, int]) -> None:
        super().__init__(name, folder)
        self.events: DriverQueue = self.vm.queue(0, QEMU_QUEUE)
        self.vm.queue(1, QEMU_QUEUE)
        self.type, self.code, self.values = type_, code, values
        for _ in range(QEMU_QUEUE):
            self.events.add(writable=[EVENT.size])
        self.events.kick()

    def ask(self) -> None:
        wanted = (self.type, self.code, self.values[0])
        self.values = self.values[::-1]
        with DriverConnection(self.folder / f"{self.name}.driver.sock") as driver:
            driver.send([virtio_input_event(*wanted), SYN])
            self.until(wanted)
        if self.type == Ev.EV_KEY:
            self.until((self.type, self.code, 0))  # the driver has gone

    def until(self, wanted: tuple[int, int, int]) -> None:
        while True:
            [data] = self.events.wait().buffers
            self.events.add(writable=[EVENT.size])
            self.events.kick()
            if EVENT.unpack(data) == wanted:
                return


class Vsock(Guest):
    """A request is a connection to a program of the host; the answer, that it is open. It stays open, so that the next
    worker has one to reset."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name, folder)
        self.driver = Driver(self.vm)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{folder / 'vsock.sock'}_{PORT}")
        self.listener.listen()
        self.port = 40000
        self.accepted: list[socket.socket] = []

    def ask(self) -> None:
        self.port += 1
        self.driver.send(Op.REQUEST, self.port, PORT)
        while (packet := self.driver.next()).op != Op.RESPONSE:
            if packet.op != Op.RST or packet.dst_port == self.port:
                raise BenchError(f"a vsock connection was answered by {packet}")
        if packet.dst_port != self.port:
            raise BenchError(f"another connection than {self.port} was answered: {packet}")
        for old in self.accepted:
            old.close()
        self.accepted = [self.listener.accept()[0]]

    def close(self) -> None:
        for sock in (*self.accepted, self.listener):
            sock.close()
        super().close()


class Fs(Guest):
    """A guest that knows `inodes` files; a request is for the attributes of one of them."""

    def __init__(self, name: str, folder: Path, inodes: int) -> None:
        share = folder / "share"
        for number in range(inodes):
            (share / f"{number % 100}").mkdir(exist_ok=True)
            (share / f"{number % 100}/{number}").touch()
        super().__init__(name, folder)
        self.client = FuseClient(self.vm.queue(1, 128))
        self.client.init()
        self.nodes = {}
        folders = {name: self.lookup(ROOT, name) for name in os.listdir(share)}
        for number in range(inodes):
            node = self.lookup(folders[f"{number % 100}"], str(number))
            self.nodes[node] = os.stat(share / f"{number % 100}/{number}").st_ino
        self.asked = 0

    def lookup(self, parent: int, name: str) -> int:
        reply = self.client.request(FuseOpcode.FUSE_LOOKUP, parent, os.fsencode(name) + b"\0", reply=CREATED)
        return int.from_bytes(reply[:8], "little")

    def ask(self) -> None:
        """An error is an answer too, of a worker that does not know what the last one knew."""
        self.asked += 1
        node, inode = list(self.nodes.items())[self.asked % len(self.nodes)]
        try:
            reply = self.client.request(FuseOpcode.FUSE_GETATTR, node, bytes(16), reply=104)
        except OSError as error:
            self.lost = str(error)
            return
        if int.from_bytes(reply[16:24], "little") != inode:
            raise BenchError("an inode that the guest knew is another one")


def guest(name: str, folder: Path, inodes: int) -> Guest:
    """The front end of the device `name` of supervisor.py."""
    match name:
        case "rng":
            return Rng(name, folder)
        case "vsock":
            return Vsock(name, folder)
        case "fs":
            return Fs(name, folder, inodes)
        case "mouse":
            return Input(name, folder, Ev.EV_ABS, Abs.ABS_X, (1000, 2000))
        case "keyboard":
            return Input(name, folder, Ev.EV_KEY, Key.KEY_A, (1, 1))
        case "gamepad1":
            return Input(name, folder, Ev.EV_KEY, Key.BTN_SOUTH, (1, 1))
    raise BenchError(f"no device is called {name}")
