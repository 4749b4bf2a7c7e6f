"""The mouse of a VM that runs: an absolute one, or a relative one for games. Each is a device, and the other goes.

This is the operation "mouse" of its control socket.
"""

from __future__ import annotations

from typing import Any

from ..errors import UserError
from ..supervisor.control import Handler
from .devices import MICE, input_device
from .plugged import Plugged

MODES = dict(zip(("absolute", "relative"), MICE, strict=True))


class HotMouse:
    """Of the VM whose devices `plugged` keeps."""

    def __init__(self, plugged: Plugged) -> None:
        self._plugged = plugged

    def handlers(self) -> dict[str, Handler]:
        return {"mouse": self.switch}

    async def switch(self, request: dict[str, Any]) -> str:
        """`mode`: absolute or relative. The new one is plugged before the old one goes, so that there is always one.

        Returns the device's name. Raises UserError.
        """
        wanted = MODES.get(str(request.get("mode")))
        if wanted is None:
            raise UserError(f"{request.get('mode')!r} is no mouse", f"there is {' and '.join(MODES)}")
        async with self._plugged.lock:
            if wanted not in self._plugged.devices:
                await self._plugged.add([input_device(wanted)])
            for other in MICE:
                if other != wanted and other in self._plugged.devices:
                    await self._remove(other)
        return wanted

    async def _remove(self, name: str) -> None:
        try:
            await self._plugged.remove([name])
        except UserError as error:
            raise UserError(
                f"the new mouse is there, and the old one still is: {error.message}",
                "does the guest run? Then try again",
            ) from error
