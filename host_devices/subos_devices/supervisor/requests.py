"""What has been asked of a supervisor and is not answered yet: of whichever one serves, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import SubosError, UserError
from .mirror import Mirror
from .supervisor_link import SupervisorLink


@dataclass
class _Request:
    body: Mapping[str, Any]
    name: str
    """Of the device that it is about; empty where it is about none."""
    answer: asyncio.Future[Any]


class Requests:
    """`devices` are those that a holder has: one that is added is served from its answer on, or gone; one that is gone
    need not be removed any more. `serving` says which supervisor can be asked, None while there is none."""

    def __init__(self, devices: dict[str, Mirror], serving: Callable[[], SupervisorLink | None]) -> None:
        self._devices = devices
        self._serving = serving
        self._waiting: dict[int, _Request] = {}
        self._asked = 0
        self._fault: SubosError | None = None

    async def ask(self, body: Mapping[str, Any], name: str = "") -> Any:
        """The answer, of whichever supervisor gives it. Raises SubosError."""
        request = self.note(body, name)
        link = self._serving()
        if self._fault is not None:
            self.finish(request.body["id"], self._fault)
        elif link is not None:
            self._send(link, request)
        # Whoever asks may give up; what is asked is done all the same, as a supervisor cannot take it back.
        return await asyncio.shield(request.answer)

    def note(self, body: Mapping[str, Any], name: str) -> _Request:
        """It is sent to the next supervisor that serves."""
        self._asked += 1
        request = _Request({**body, "id": self._asked}, name, asyncio.get_running_loop().create_future())
        self._waiting[self._asked] = request
        return request

    def under_way(self, name: str) -> list[asyncio.Future[Any]]:
        """The answers that are waited for about one device."""
        return [request.answer for request in self._waiting.values() if request.name == name]

    def ask_again(self, link: SupervisorLink) -> None:
        """What the last one has not answered."""
        for number, request in list(self._waiting.items()):
            if request.body["op"] == "remove" and request.name not in self._devices:
                self.finish(number, None)
            else:
                self._send(link, request)

    def removed(self, name: str) -> None:
        """A device is gone, whether that is answered or not: another one may have its name next."""
        for number, request in list(self._waiting.items()):
            if request.name == name and request.body["op"] == "remove":
                self.finish(number, None)

    def finish(self, number: int, result: object) -> None:
        """`result` may be an error."""
        request = self._waiting.pop(number, None)
        if request is None:
            return  # it is known already
        if request.body["op"] == "add" and request.name in self._devices:
            if isinstance(result, SubosError):
                self._devices.pop(request.name).close()
            else:
                self._devices[request.name].served = True
        if request.answer.cancelled():
            return
        if isinstance(result, SubosError):
            request.answer.set_exception(result)
            request.answer.exception()  # which nobody may wait for any more
        else:
            request.answer.set_result(result)

    def fail(self, error: SubosError) -> None:
        """Nobody answers any more, nor will."""
        self._fault = error
        for number in list(self._waiting):
            self.finish(number, error)

    def _send(self, link: SupervisorLink, request: _Request) -> None:
        fds = self._devices[request.name].own_fds() if request.body["op"] == "add" else []
        try:
            link.send(request.body, fds)
        except OSError as error:
            self.finish(request.body["id"], UserError(f"the supervisor cannot be asked: {error.strerror}"))
