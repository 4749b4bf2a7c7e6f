"""What a VM has for its guest's agent: the hub, and those who work over it. `run` and `attach` have the same."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..agent import clock
from ..agent.clipboard.driver import ClipboardDriver
from ..agent.file_events import FileEvents
from ..agent.gamepads import Gamepads
from ..agent.hub import BOOT_PATIENCE, PATIENCE, Hub
from ..agent.worker_channels import WorkerChannels
from .devices import FILE_EVENTS, GAMEPAD
from .hot_shares import HotShares


@dataclass(frozen=True)
class GuestSide:
    hub: Hub
    channels: Mapping[str, WorkerChannels]
    """Of workers, by what devices call them."""
    gamepads: Gamepads
    """One of them."""

    def serves(self, shares: HotShares) -> None:
        """Every agent that comes gets the time, the shares, and what happens in them; and the gamepads."""
        self.hub.welcome += [clock.follow, lambda _peer: shares.mount_all()]
        self.hub.welcome += [channels.follow for channels in self.channels.values()]


@contextlib.asynccontextmanager
async def guest_side(
    folder: Path, name: str, clipboard: Sequence[str] = (), *, has_agent: bool = False
) -> AsyncIterator[GuestSide]:
    """For the VM `name`, in its folder; `clipboard` are its rules. `has_agent`: the guest starts one by itself."""
    async with contextlib.AsyncExitStack() as stack:
        gamepads = Gamepads()
        channels: dict[str, WorkerChannels] = {FILE_EVENTS: FileEvents(), GAMEPAD: gamepads}
        for each in channels.values():
            stack.callback(each.close_all)
        hub = await stack.enter_async_context(Hub(folder, patience=BOOT_PATIENCE if has_agent else PATIENCE))
        driver = ClipboardDriver(hub, name, clipboard)
        driver.join()
        stack.push_async_callback(driver.close)
        yield GuestSide(hub, channels, gamepads)
