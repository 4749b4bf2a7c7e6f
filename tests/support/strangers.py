"""A device as somebody else would write one: two queues, a configuration space, an option."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import signal
import socket
import time

from subos_devices.errors import UserError
from subos_devices.vhost_user.device import Device, DeviceSpec, Worker
from subos_devices.vhost_user.virtqueue import Virtqueue, Words
from subos_protocol.virtio import DeviceId


class Reverser(Device):
    """Queue 0 answers with the request's bytes reversed, at once; queue 1 keeps requests until it has `batch` of them.

    A request of b"crash" is a bug in this device.
    """

    device_id = DeviceId.CONSOLE
    num_queues = 2
    has_config = True

    def __init__(self, spec: DeviceSpec) -> None:
        super().__init__(spec)
        try:
            self.batch = int(spec.options.get("batch") or 1)
        except ValueError:
            raise UserError("batch is no number", "batch=3") from None
        self.space = bytearray(b"reverser" + bytes(8))

    def config(self) -> bytes:
        return bytes(self.space)

    def set_config(self, offset: int, data: bytes) -> None:
        if data == b"crash":
            raise RuntimeError("a bug in this device")
        self.space[offset : offset + len(data)] = data

    def start(self, worker: Worker) -> None:
        self.kept: list[tuple[int, int]] = []

    def process(self, queue: Virtqueue) -> None:
        if queue.index == 0:
            queue.drain(lambda words: self.answer(queue, words))
            return
        while chain := queue.pop():
            self.kept.append((chain.head, reverse(chain.readable, chain.writable)))
        if len(self.kept) >= self.batch:
            for head, written in self.kept:
                queue.push(head, written)
            self.kept.clear()
            queue.signal()

    def answer(self, queue: Virtqueue, words: Words) -> int:
        return reverse(*queue.split(words))

    def queue_stopped(self, queue: Virtqueue) -> None:
        if queue.index == 1:
            self.kept.clear()


class Sleeper(Device):
    """Takes 20 ms for each request."""

    device_id = DeviceId.CONSOLE

    def process(self, queue: Virtqueue) -> None:
        def serve(words: Words) -> int:
            time.sleep(0.02)
            return reverse(*queue.split(words))

        queue.drain(serve)


class Inquisitive(Device):
    """Says what it finds in its process: the answer to a request is the JSON of what the request asks for. One of these
    takes a system call that no device needs."""

    device_id = DeviceId.CONSOLE

    def process(self, queue: Virtqueue) -> None:
        def serve(words: Words) -> int:
            readable, writable = queue.split(words)
            answer = json.dumps(self.find(bytes(readable[0]).decode())).encode()
            writable[0][: len(answer)] = answer
            return len(answer)

        queue.drain(serve)

    def find(self, what: str) -> object:
        match what:
            case "environment":
                return dict(os.environ)
            case "pid":
                return os.getpid()
            case "signal":
                os.kill(os.getppid(), 0)
        return None


class Tired(Inquisitive):
    """Takes its time, or all time that there is: over a request, or after it."""

    device_id = DeviceId.CONSOLE
    limit = 1.0

    def start(self, worker: Worker) -> None:
        self.worker = worker

    def find(self, what: str) -> object:
        match what:
            case "doze":
                time.sleep(1)
            case "fall asleep":
                self.worker.alarm(0.0, sleep)
            case "hog":
                return len([bytearray(16 << 20) for _ in range(64)])
        return super().find(what)


def sleep() -> None:
    while True:
        time.sleep(1)


class Keeping(Inquisitive):
    """Its workers share a counter, and the descriptor of an eventfd whose first value is 7; each opens one more, which
    nobody needs."""

    keeps = True

    def __init__(self, spec: DeviceSpec) -> None:
        super().__init__(spec)
        if spec.options.get("unbuildable"):
            raise UserError("there is nothing to build it of")

    @classmethod
    def keep(cls, spec: DeviceSpec) -> memoryview:
        if spec.options.get("unwilling"):
            raise UserError("nothing can be kept here", "keep less")
        return memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")

    @classmethod
    def kept_descriptors(cls, kept: memoryview) -> list[int]:
        return [kept[DESCRIPTOR]] if kept[DESCRIPTOR] else []

    def start(self, worker: Worker) -> None:
        self.kept: memoryview = worker.kept
        self.respawned = worker.respawned
        os.eventfd(0)
        if not self.kept[DESCRIPTOR]:
            self.kept[DESCRIPTOR] = os.eventfd(7)
        if self.kept[POISON]:
            raise RuntimeError("what was kept is poison")

    def find(self, what: str) -> object:
        match what:
            case "count":
                self.kept[COUNT] += 1
                return self.kept[COUNT]
            case "respawned":
                return self.respawned
            case "eventfd":
                value = os.eventfd_read(self.kept[DESCRIPTOR])
                os.eventfd_write(self.kept[DESCRIPTOR], value)
                return value
            case "poison":
                self.kept[POISON] = 1
                raise RuntimeError("from now on all fail")
            case "leave":
                raise SystemExit
            case "sleep":
                sleep()
            case "close all":
                os.closerange(3, 1 << 20)
            case "shut all down":
                for fd in range(3, 32):
                    with contextlib.suppress(OSError):
                        socket.socket(fileno=os.dup(fd)).shutdown(socket.SHUT_RDWR)
                sleep()
        return super().find(what)


COUNT, DESCRIPTOR, POISON = range(3)  # words of what it keeps


class Slow(Device):
    """Never finishes starting."""

    device_id = DeviceId.CONSOLE

    def start(self, worker: Worker) -> None:
        signal.pause()

    def process(self, queue: Virtqueue) -> None:
        raise AssertionError("never started")


def reverse(readable: list[memoryview], writable: list[memoryview]) -> int:
    data = b"".join(readable)
    if data == b"crash":
        raise RuntimeError("a bug in this device")
    if data == b"exit":
        raise SystemExit
    answer, written = data[::-1], 0
    for buffer in writable:
        part = answer[written : written + len(buffer)]
        buffer[: len(part)] = part
        written += len(part)
    return written


class Unwilling(Device):
    """Cannot be started."""

    device_id = DeviceId.CONSOLE

    def start(self, worker: Worker) -> None:
        raise UserError("the device's file is not there", "make it")

    def process(self, queue: Virtqueue) -> None:
        raise AssertionError("never started")


class Tardy(Reverser):
    """Is started once the pipe `gate` can be read."""

    def start(self, worker: Worker) -> None:
        super().start(worker)
        select.select([self.spec.fds["gate"]], [], [])
