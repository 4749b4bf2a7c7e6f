"""The supervisor's own program: a child of the launcher, which is its *holder* and starts the next one when it dies.

Both say JSON objects with descriptors to each other (packets.py). The holder:

    {"op": "take over", "sandbox": …, "models": …, "level": …, "devices": n,
     "zygote": {"pid": n, "kinds": […], "used": bool}}       beside it the zygote's channel; n of these follow:
    {"op": "device", "spec": …, "record": …, "held": [names]}  its corridor (entrance.py), the spec's descriptors, held
    {"op": "add", "id": n, "spec": …}                          its corridor, the spec's descriptors
    {"op": "remove", "id": n, "name": …}    {"op": "status", "id": n}
    {"op": "zygote", "pid": n, …}           another one, in place of one that has died; its channel
    {"op": "ping"}                          {"op": "close"}: remove all, and end

and we:

    {"op": "ready", "format": FORMAT, "version": …}    what is needed is loaded; or {"op": "failed", "why": …}
    {"op": "taken"}                                    over: all devices are served on
    {"op": "answer", "id": n, "result": …}             or "error": [message, hint]
    {"op": "note", "name": …, "record": …, "held": [names], "sent": [names]}       the Ledger's; descriptors of `sent`
    {"op": "forget", "name": …}
    {"op": "log", "level": n, "message": …}            one that the socket has no room for is lost
    {"op": "pong"}

FORMAT is also that of what is said here. What is said on one socket is heard in order: a note is with the holder before
an answer that depends on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from subos_protocol import __version__

from .. import registry
from ..errors import SubosError
from ..processes import die_with_parent, set_name
from ..vhost_user.device import DeviceSpec
from .ledger import FORMAT, Held, Record, children
from .packets import Inbox, Message, packets, send, send_whole, widen
from .parenting import shed
from .process_models import Models
from .sandbox.policies import Choice
from .supervisor import Supervisor
from .zygote import Zygote

NAME = "subos-supervis"  # the kernel keeps 15 bytes
TRACE = logging.Formatter("%(message)s")
MAX_MESSAGE = 8192  # characters of a line in the log: one packet, also where each is written as \\uXXXX

log = logging.getLogger("subos")


def live() -> None:
    """The supervisor's life. Its arguments are the number of its socket, its parent's pid, and the kinds of devices
    that it is going to serve."""
    control, parent, kinds = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), sys.argv[3:]
    die_with_parent(parent)
    set_name(NAME)
    shed(control)
    widen(control)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for kind in kinds:
        with contextlib.suppress(SubosError):  # whoever wants it hears why
            registry.load(kind)
    holder = _Holder(control)
    logging.basicConfig(handlers=[_Told(holder)], level=logging.WARNING)
    status = 1
    try:
        asyncio.run(_serve(holder))
        status = 0
    except EOFError:
        pass  # the holder is gone, and so are we
    except BaseException:
        log.exception("a fault of ours ended the supervisor")
    os._exit(status)  # no thread that still waits for a disk holds it up


async def _serve(holder: _Holder) -> None:
    """Raises EOFError."""
    holder.listen()
    holder.tell({"op": "ready", "format": FORMAT, "version": __version__})
    order = await holder.hear()
    taken = [await holder.hear() for _ in range(order.body["devices"])]
    if not order.complete or not all(each.complete for each in taken):
        raise OSError("there is no room for all descriptors")
    log.setLevel(order.body["level"])
    body, held = order.body, [_Taken.of(each) for each in taken]
    pid, kinds, used = (body["zygote"][name] for name in ("pid", "kinds", "used"))
    zygote = Zygote(pid, socket.socket(fileno=order.fds[0]), tuple(kinds), Choice(*body["sandbox"]))
    zygote.awaits_another = True
    if used:
        zygote.succeed(children([each.held for each in held]))
    notes = _Notes(holder, {each.spec.name: set(each.held.fds) for each in held})
    async with Supervisor(zygote, Models.of_plain(body["models"]), notes, own_zygote=False) as supervisor:
        for device in held:
            supervisor.restore(device.spec, device.listener, device.held)
        holder.tell({"op": "taken"})
        await _obey(holder, supervisor)


async def _obey(holder: _Holder, supervisor: Supervisor) -> None:
    """Does what the holder asks, until it wants the end."""
    tasks: set[asyncio.Task[None]] = set()
    while True:
        message = await holder.hear()
        match message.body["op"]:
            case "close":
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                return
            case "ping":
                holder.tell({"op": "pong"})
            case "zygote":
                supervisor.replace_zygote(message.body["pid"], socket.socket(fileno=message.fds[0]))
            case _:
                task = asyncio.ensure_future(_answer(holder, supervisor, message))
                tasks.add(task)
                task.add_done_callback(tasks.discard)


async def _answer(holder: _Holder, supervisor: Supervisor, message: Message) -> None:
    answer: dict[str, Any] = {"op": "answer", "id": message.body["id"]}
    try:
        answer["result"] = await _do(supervisor, message)
    except SubosError as error:
        answer["error"] = [error.message, error.hint]
    except Exception as error:  # who asked is answered whatever happens
        log.exception("a fault of ours at the request %s", message.body["op"])
        answer["error"] = [f"a fault of ours: {type(error).__name__}: {error}", "the VM runs on; please report this"]
    holder.tell(answer)


async def _do(supervisor: Supervisor, message: Message) -> Any:
    body = message.body
    match body["op"]:
        case "add":
            if not message.complete:
                message.close()
                raise SubosError("the supervisor has no room for the device's descriptors")
            spec, listener, _ = _spec(message)
            await supervisor.add(spec, listener)
        case "remove":
            await supervisor.remove(body["name"])
        case "status":
            return await supervisor.status_and_memory()
    return None


def _spec(message: Message) -> tuple[DeviceSpec, socket.socket, Sequence[int]]:
    """What `plain` has sent, and the descriptors that come after it."""
    kind, name, options, names = message.body["spec"]
    listener, fds = message.fds[0], message.fds[1:]
    named = dict(zip(names, fds, strict=False))
    return DeviceSpec(kind, name, options, named), socket.socket(fileno=listener), fds[len(names) :]


class _Taken:
    """A device that another supervisor has served."""

    def __init__(self, spec: DeviceSpec, listener: socket.socket, held: Held) -> None:
        self.spec = spec
        self.listener = listener
        self.held = held

    @classmethod
    def of(cls, message: Message) -> _Taken:
        spec, listener, rest = _spec(message)
        return cls(spec, listener, Held(message.body["record"], dict(zip(message.body["held"], rest, strict=True))))


class _Holder:
    """Our end of the socket: what is told waits for room, but for the log; what is heard waits for nobody."""

    def __init__(self, control: socket.socket) -> None:
        self._socket = control
        self._inbox = Inbox(control)
        self._one_at_a_time = threading.Lock()
        self._readable = asyncio.Event()

    def listen(self) -> None:
        asyncio.get_running_loop().add_reader(self._socket, self._readable.set)

    def tell(self, body: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        try:
            with self._one_at_a_time:
                send_whole(self._socket, body, fds)
        except OSError:
            os._exit(1)  # nobody is there, and what we go on to do nobody would know

    def log(self, level: int, message: str) -> None:
        """From any thread."""
        body = {"op": "log", "level": level, "message": message[:MAX_MESSAGE]}
        with self._one_at_a_time, contextlib.suppress(OSError):
            for packet in packets(body):
                send(self._socket, packet, socket.MSG_DONTWAIT)

    async def hear(self) -> Message:
        """Raises EOFError."""
        while (message := self._inbox.receive()) is None:
            self._readable.clear()
            await self._readable.wait()
        return message


class _Notes:
    """The Ledger. `noted` has the names of the descriptors that the holder has, by device."""

    def __init__(self, holder: _Holder, noted: dict[str, set[str]]) -> None:
        self._holder = holder
        self._noted = noted

    def note(self, name: str, record: Record, fds: Mapping[str, int], renewed: Collection[str]) -> None:
        noted = self._noted.get(name, set())
        self._noted[name] = set(fds)
        sent = [each for each in fds if each in renewed or each not in noted]
        body = {"op": "note", "name": name, "record": record, "held": list(fds), "sent": sent}
        self._holder.tell(body, [fds[each] for each in sent])

    def forget(self, name: str) -> None:
        self._noted.pop(name, None)
        self._holder.tell({"op": "forget", "name": name})


class _Told(logging.Handler):
    """The log is the launcher's."""

    def __init__(self, holder: _Holder) -> None:
        super().__init__()
        self._holder = holder

    def emit(self, record: logging.LogRecord) -> None:
        self._holder.log(record.levelno, TRACE.format(record))
