"""The supervisor's end of a keeper: the process that one device's workers are made by, so that what they hold outlives
them. See keeper_process.py.

A worker shares the keeper's descriptors, so what is heard here may be a hostile one's words, and what is said here may
be heard by it alone. Therefore the zygote has the last word: it kills the keeper, and with it whatever it has made.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from ..vhost_user.device import DeviceSpec
from ..vhost_user.worker import MAX_PACKET, QUESTIONS
from .keeper_process import BIRTH, KILL, PATIENCE, REBIRTH
from .link import PACKETS_AT_ONCE
from .process_models import Model
from .zygote import OnEnd, OnPid, Wanted, Zygote


class Keeper:
    """Asks `zygote` for one, once the one before (`after`) has ended: a worker that has made away with its keeper's
    descriptors lives until then, and no two may touch a ring. `adopted` are the pid and the channel of one that another
    supervisor had asked for. `on_failure` gets what a keeper says that cannot make a worker; `on_gone` is called once,
    when it has ended by itself, and `on_birth` when its pid is known."""

    def __init__(
        self,
        zygote: Zygote,
        spec: DeviceSpec,
        counters: int,
        *,
        after: Keeper | None = None,
        adopted: tuple[int, socket.socket] | None = None,
        on_failure: Callable[[dict[str, Any]], None],
        on_gone: Callable[[], None],
        on_birth: Callable[[], None] = lambda: None,
    ) -> None:
        self.pid = 0  # told by the zygote a little later
        self._zygote = zygote
        self.alive = True
        self._doomed = False
        self._on_failure = on_failure
        self._on_gone = on_gone
        self._on_birth = on_birth
        self._on_end: OnEnd = lambda _status: None
        self._unborn: list[OnPid] = []
        self._is_over = False
        self._next: Callable[[], None] = lambda: None
        self._loop = asyncio.get_running_loop()
        if adopted:
            self.pid, self._channel = adopted
            theirs = self._channel
        else:
            self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.setblocking(False)
        self._loop.add_reader(self._channel, self.hear)
        self._wanted = Wanted(spec, theirs, counters, on_pid=self._born, on_end=lambda _status: self._over())
        if adopted:
            self._is_over = not zygote.adopt(self.pid, self._wanted)
        elif after is None or after._is_over:
            self._ask()
        else:
            after._next = self._ask

    def _ask(self) -> None:
        with self._wanted.control:
            if self.alive:
                with contextlib.suppress(OSError):  # a zygote that has died: the channel closes
                    self._zygote.spawn([self._wanted], Model(), keeper=True)
                    return
        self._over()

    def _born(self, pid: int) -> None:
        self.pid = pid
        for on_pid in self._unborn:
            on_pid(0)
        self._unborn.clear()
        if not pid:
            self._over()
        elif self._doomed:
            self.kill_all()
        else:
            self._on_birth()

    def adopt(self, on_end: OnEnd) -> None:
        """It has a worker that another supervisor had asked for."""
        self._on_end = on_end

    def fileno(self) -> int:
        return self._channel.fileno()

    def _over(self) -> None:
        """There is no process, nor will there be one."""
        self._is_over = True
        self._next()

    def spawn(self, wanted: Wanted) -> None:
        """Asks for a worker. It has the keeper's counters, and of the spec's descriptors only that for its questions is
        its own. `on_pid` hears of no number: the keeper knows it in its own namespace only. Raises OSError when the
        keeper is gone."""
        self._on_end = wanted.on_end
        questions = [wanted.spec.fds[QUESTIONS]] if QUESTIONS in wanted.spec.fds else []
        command = REBIRTH if wanted.respawned else BIRTH
        socket.send_fds(self._channel, [command], [wanted.control.fileno(), *questions])
        if self.pid:
            wanted.on_pid(0)
        else:
            self._unborn.append(wanted.on_pid)

    def kill(self, pid: int) -> None:
        """Kills its worker, whatever the pid."""
        with contextlib.suppress(OSError):
            self._channel.send(KILL)

    def kill_all(self) -> None:
        """Ends the keeper and its worker. What it keeps is lost."""
        self._doomed = True
        if self.pid and not self._is_over:
            self._zygote.kill(self.pid)

    def close(self) -> None:
        """Lets it end, once its worker has. One that does not is killed."""
        if self.alive:
            self.alive = False
            self._loop.remove_reader(self._channel)
            with contextlib.suppress(OSError):
                self._channel.shutdown(socket.SHUT_RDWR)  # whoever else has a copy of it
            self._channel.close()
            self._wanted.control.close()  # if nobody was asked yet
            self._loop.call_later(2 * PATIENCE, self.kill_all)

    def hear(self) -> bool:
        """Takes in what it has said, without waiting. False once it is gone."""
        for _ in range(PACKETS_AT_ONCE):
            if not self.alive:
                break
            try:
                data = self._channel.recv(MAX_PACKET)
            except BlockingIOError:
                break
            except ConnectionResetError:  # it has left something unread: what it said before comes next
                continue
            except ConnectionError:
                data = b""
            if not data:
                self.kill_all()  # it may have lost its channel only
                self.close()
                self._on_gone()
                break
            try:
                message = json.loads(data)
                operation = message["op"]
                status = int(message["status"]) if operation == "exited" else 0
            except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
                self.kill_all()  # somebody else's words
                break
            if operation == "exited":
                self._on_end(status)
            elif operation == "failed":
                self._on_failure(message)
        return self.alive


class Keepers:
    """Those of one device, one after the other. What is heard of them is as with `Keeper`."""

    def __init__(
        self,
        zygote: Zygote,
        spec: DeviceSpec,
        counters: int,
        *,
        on_failure: Callable[[dict[str, Any]], None],
        on_gone: Callable[[], None],
        on_birth: Callable[[], None] = lambda: None,
    ) -> None:
        self._last: Keeper | None = None
        self._make = partial(Keeper, zygote, spec, counters, on_failure=on_failure, on_gone=on_gone, on_birth=on_birth)

    def adopt(self, pid: int, channel: socket.socket) -> Keeper:
        """The first one is another supervisor's."""
        self._last = self._make(adopted=(pid, channel))
        return self._last

    @property
    def pid(self) -> int | None:
        return self._last.pid if self._last and self._last.alive else None

    @property
    def descriptors(self) -> dict[str, int]:
        """The end here of what leads to the last one."""
        return {"keeper": self._last.fileno()} if self._last and self._last.alive and self._last.pid else {}

    def next(self) -> Keeper:
        """Who makes the next worker: the last one, if it lives."""
        if self._last is None or not self._last.hear():
            self._last = self._make(after=self._last)
        return self._last

    def hear(self) -> None:
        if self._last is not None:
            self._last.hear()

    def close(self) -> None:
        """As `Keeper.close`; the next one begins with nothing."""
        if self._last is not None:
            self._last.close()
