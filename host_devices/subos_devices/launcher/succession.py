"""A VM's supervisor is replaced by one of the version that is installed now."""

from __future__ import annotations

from typing import Any

from ..supervisor.control import Handler
from ..supervisor.holder import Holder


def handlers(holder: Holder) -> dict[str, Handler]:
    """What the control socket answers."""

    async def restart(_request: dict[str, Any]) -> dict[str, Any]:
        return (await holder.restart())._asdict()

    return {"restart-supervisor": restart}
