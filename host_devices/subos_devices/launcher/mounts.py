"""Mounts shares in a guest, by its agent (subos_agent/mounts.py).

The guest is hostile: what it answers is believed only so far as that it says so.
"""

from __future__ import annotations

from pathlib import Path

from ..agent.hub import AgentError, Hub
from ..errors import UserError
from .shares import Share

TIMEOUT = 30.0
FOLDER = Path("/mnt")
"""Where guests with a root of their own get shares for which nobody has said a place."""


class MountFailed(UserError):
    """The guest has not done it, or does not say that it has."""


class GuestMounts:
    """`own_root`: a guest that boots a disk. It may have no agent, and what lies at our paths there is its own."""

    def __init__(self, hub: Hub, *, own_root: bool = False) -> None:
        self._hub = hub
        self._own_root = own_root

    def can_mount(self) -> bool:
        """Whether there is an agent, or will be."""
        peer = self._hub.peer
        return not self._own_root or (
            peer is not None and peer.hello is not None and "mount" in peer.hello.capabilities
        )

    def place(self, share: Share) -> Path:
        """Where the guest is to see the share."""
        if self._own_root and share.at is None:
            return FOLDER / (share.path.name if share.single else share.tag)
        return share.mount_point

    async def mount(self, share: Share) -> None:
        """Mounts a share whose device was plugged; it may be mounted already. Raises MountFailed."""
        try:
            await self._ask("mount", share, read_only=share.read_only)
        except UserError as error:
            raise MountFailed(
                f"the guest could not mount {share.tag} at {self.place(share)}: {error.message}",
                "choose another place for it in the guest: PATH:/MOUNTPOINT",
            ) from error

    async def unmount(self, share: Share, *, lazy: bool = False) -> None:
        """Takes all mounts of a share away; `lazy`: also where it is in use. Raises MountFailed."""
        try:
            await self._ask("unmount", share, lazy=lazy)
        except UserError as error:
            raise MountFailed(
                f"the guest could not unmount {share.tag}: {error.message}",
                "is a program of the guest in it? End that, or take it away all the same with --force",
            ) from error

    async def _ask(self, operation: str, share: Share, **fields: bool) -> None:
        """Raises UserError in the guest's own words."""
        name = share.path.name if share.single else ""
        head = {"op": operation, "tag": share.tag, "path": str(self.place(share)), "name": name, **fields}
        try:
            await self._hub.ask(head, timeout=TIMEOUT)
        except AgentError as error:
            raise UserError(error.message, error.hint) from error
