"""A device that the supervisor serves itself, on its event loop: for a debugger, or where no process is to be had."""

from __future__ import annotations

import asyncio
import logging

from .. import registry
from ..errors import SubosError
from ..vhost_user.counters import Counters
from ..vhost_user.worker import DeviceWorker, failed, where
from .sandbox.report import INLINE
from .zygote import Wanted

log = logging.getLogger("subos")


class InlineWorker:
    """Serves what is `wanted`, all of which becomes its own, until its control socket closes, or `close`. A device that
    fails ends alone, as if its process had died."""

    def __init__(self, wanted: Wanted) -> None:
        self._loop = asyncio.get_running_loop()
        self._wanted = wanted
        self._closed = False
        self._alarm: asyncio.Handle | None = None
        self._worker: DeviceWorker | None = None
        spec, control = wanted.spec, wanted.control
        try:
            registry.load(spec.kind).prepare(spec)
            counters = Counters(wanted.counters)
            self._worker = DeviceWorker(registry.build(spec), control, counters, wanted.respawned, INLINE)
            if self._worker.begin():
                self._loop.add_reader(self._worker.fileno(), self._turn)
                self._set_alarm()
                return
        except SubosError as error:
            control.send(failed(error))
        except (Exception, SystemExit) as error:
            self._fail(error)
        self.close()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        worker, self._worker = self._worker, None
        if self._alarm is not None:
            self._alarm.cancel()
        if worker is not None:
            self._loop.remove_reader(worker.fileno())
            try:
                worker.release()
            except (Exception, SystemExit) as error:
                self._fail(error)
        self._wanted.close()

    def _turn(self) -> None:
        if self._worker is None:
            return
        try:
            self._worker.turn(0)
        except (Exception, SystemExit) as error:  # the end of a process, if it had one
            self._fail(error)
            self.close()
            return
        if self._worker.running:
            self._set_alarm()
        else:
            self.close()

    def _set_alarm(self) -> None:
        """Has `_turn` called when the worker's time has come."""
        assert self._worker is not None
        if self._alarm is not None:
            self._alarm.cancel()
        timeout = self._worker.timeout
        self._alarm = None if timeout < 0 else self._loop.call_later(timeout, self._turn)

    def _fail(self, error: BaseException) -> None:
        log.error("%s: %s", self._wanted.spec.name, where(error))
