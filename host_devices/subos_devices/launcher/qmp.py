"""QMP, QEMU's control protocol: the only module that knows the library `qemu.qmp`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from qemu.qmp import ExecuteError, QMPClient, QMPError, SocketAddrT
from qemu.qmp.events import EventListener

from subos_devices.errors import UserError

# The library tells on its logger what we tell the person in one line.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)

Event = Mapping[str, Any]


class QmpError(UserError):
    """QEMU refused a command: `kind` is QMP's error class."""

    def __init__(self, message: str, kind: str = "GenericError", hint: str = "") -> None:
        super().__init__(message, hint)
        self.kind = kind


class Qmp:
    """A connection to a QEMU. One client at a time is served by QEMU's socket."""

    def __init__(self, client: QMPClient) -> None:
        self._client = client

    @classmethod
    async def connect(cls, address: Path, timeout: float = 10) -> Qmp:
        """Raises UserError: no such socket, nobody there, somebody else there (timeout), no QMP."""
        client = QMPClient("subos")
        target: SocketAddrT = str(address)
        try:
            await asyncio.wait_for(client.connect(target), timeout)
        except TimeoutError:
            raise UserError(
                f"{address} does not answer as a QMP socket",
                "is it QMP (-qmp unix:…)? QEMU serves one client at a time: is another connected?",
            ) from None
        except (QMPError, OSError) as error:
            reason = str(error.__cause__ or error).partition("\n")[0]
            raise UserError(
                f"{address} is no QMP socket that answers: {reason}",
                "start QEMU with -qmp unix:PATH,server=on,wait=off, and give that PATH",
            ) from error
        return cls(client)

    async def execute(self, command: str, /, **arguments: object) -> Any:
        """The command's return value. Arguments go by QMP's own names. Raises QmpError."""
        try:
            return await self._client.execute(command, arguments or None)
        except ExecuteError as error:
            raise QmpError(f"QEMU refused {command}: {error}", error.error_class) from error
        except QMPError as error:
            raise QmpError(f"QEMU went away during {command}", "Disconnected") from error

    async def wait_for(
        self, act: Callable[[], Awaitable[Any]], name: str, matches: Callable[[Event], bool], timeout: float
    ) -> Event:
        """Listens for the event `name`, then runs `act`: an event that follows at once is not lost.

        Returns the event's data. Raises TimeoutError, QmpError.
        """
        listener = EventListener(name, event_filter=lambda event: matches(event.get("data", {})))  # type: ignore[arg-type]
        with self._client.listen(listener):
            await act()
            event = await asyncio.wait_for(listener.get(), timeout)
        data: Event = event.get("data", {})  # type: ignore[assignment]
        return data

    async def close(self) -> None:
        with suppress(QMPError, OSError, EOFError):  # QEMU may be quicker.
            await self._client.disconnect()


@asynccontextmanager
async def connected(address: Path, timeout: float = 10) -> AsyncIterator[Qmp]:
    """A Qmp for a `with` block."""
    qmp = await Qmp.connect(address, timeout)
    try:
        yield qmp
    finally:
        await qmp.close()
