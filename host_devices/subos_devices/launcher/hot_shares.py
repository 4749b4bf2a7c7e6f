"""The shares of a VM that runs: what is mounted where, and how one is added and removed.

These are the operations share-add, share-remove and share-list of its control socket.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError
from ..supervisor.control import Handler
from ..vhost_user.device import Option
from .devices import share_device
from .mounts import GuestMounts, MountFailed
from .plugged import Plugged
from .shares import Share, Wanted, checked


class HotShares:
    """`shares` are there from the beginning, and `mounted` if the guest mounts them as it boots. Where `mounts` cannot
    do it, a person mounts them in the guest. `common` are the options of all shares, later ones too."""

    def __init__(
        self,
        plugged: Plugged,
        shares: Sequence[Share],
        mounts: GuestMounts | None = None,
        common: Mapping[str, Option] | None = None,
        mounted: bool = False,
    ) -> None:
        self._plugged = plugged
        self._shares = list(shares)
        self._mounts = mounts
        self._common = common
        self._mounted = {share.tag for share in shares} if mounted else set[str]()

    @property
    def lock(self) -> asyncio.Lock:
        """Held by whoever speaks to QEMU's monitor."""
        return self._plugged.lock

    def handlers(self) -> dict[str, Handler]:
        return {"share-add": self.add, "share-remove": self.remove, "share-list": self.list}

    def current(self) -> list[Share]:
        """Those that are plugged."""
        return [share for share in self._shares if share.tag in self._plugged.devices]

    def mark_mounted(self, devices: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The lines of `Supervisor.status`, each with where the guest has `mounted` it, as far as that is known."""
        places = {share.tag: self._mount_point(share) for share in self.current()}
        return [{**device, "mounted": places.get(device["name"])} for device in devices]

    async def mount_all(self) -> None:
        """Mounts what is not mounted yet: an agent has come. Raises MountFailed, with all the others mounted.

        Without the lock, which nobody is to hold while the guest takes its time: a share that is removed meanwhile
        cannot be mounted any more, and one that is mounted twice by the guest is mounted once.
        """
        failed: MountFailed | None = None
        for share in self.current():
            if self._mounts is None or not self._can_mount or share.tag in self._mounted:
                continue
            try:
                await self._mounts.mount(share)
            except MountFailed as error:
                failed = error
            else:
                if share in self.current():
                    self._mounted.add(share.tag)
        if failed is not None:
            raise failed

    @property
    def _can_mount(self) -> bool:
        return self._mounts is not None and self._mounts.can_mount()

    async def add(self, request: dict[str, Any]) -> dict[str, Any]:
        """The fields of `Wanted`: plugged and, where the guest is ours, mounted; or neither. Raises UserError."""
        path, tag, at = (str(request.get(name, "")) for name in ("path", "tag", "at"))
        wanted = Wanted(path, tag, at, bool(request.get("read_only")))
        async with self._plugged.lock:
            others = self.current()
            share = checked(wanted, others)
            self._check_hides_none(share, others)
            await self._plugged.add([share_device(share, self._common)])
            self._shares = [*others, share]
            self._mounted.discard(share.tag)
            if self._mounts is not None and self._can_mount:
                await self._mount(self._mounts, share)
        return self._said(share)

    async def _mount(self, mounts: GuestMounts, share: Share) -> None:
        try:
            await mounts.mount(share)
        except MountFailed as error:
            try:
                await self._plugged.remove([share.tag])
            except UserError as second:
                said = f"{error.message}; and its device stays plugged: {second.message}"
                raise MountFailed(said, f"try later: subos-devices share remove VM {share.tag}") from error
            raise
        self._mounted.add(share.tag)

    def _check_hides_none(self, share: Share, others: Sequence[Share]) -> None:
        if self._mounts is None or not self._can_mount:
            return
        for other in others:
            if self._mounts.place(share) in self._mounts.place(other).parents:
                raise UserError(
                    f"{share.path} would hide the share {other.tag}, which is mounted at {self._mounts.place(other)}",
                    "choose another place for it in the guest: PATH:/MOUNTPOINT",
                )

    async def remove(self, request: dict[str, Any]) -> dict[str, Any]:
        """`what`: a tag or a mount point; `path`: the same word as a path here; `force`: also where the guest uses it.

        Raises UserError.
        """
        async with self._plugged.lock:
            share = self._find(str(request.get("what", "")), str(request.get("path", "")))
            force = bool(request.get("force"))
            if self._mounts is not None and self._can_mount:
                try:
                    await self._mounts.unmount(share, lazy=force)
                except MountFailed:
                    if not force:
                        raise
                self._mounted.discard(share.tag)
            await self._plugged.remove([share.tag])
        return self._said(share)

    def _find(self, what: str, path: str) -> Share:
        shares = self.current()
        for found in (
            [share for share in shares if share.tag == what],
            [share for share in shares if path and os.path.realpath(path) == os.path.realpath(share.path)],
            [share for share in shares if str(share.mount_point) == os.path.normpath(what)],
        ):
            if len(found) == 1:
                return found[0]
            if found:
                tags = ", ".join(share.tag for share in found)
                raise UserError(f"{what} is shared more than once", f"name one by its tag: {tags}")
        there = ", ".join(f"{share.tag} ({share.path})" for share in shares)
        raise UserError(f"the VM has no share {what}", f"there is {there}" if there else "it has none at all")

    async def list(self, _request: dict[str, Any]) -> list[dict[str, Any]]:
        return [self._said(share) for share in self.current()]

    def _mount_point(self, share: Share) -> str | None:
        return str(self._mounts.place(share)) if self._mounts and share.tag in self._mounted else None

    def _said(self, share: Share) -> dict[str, Any]:
        """What `subos-devices share --json` prints of one."""
        return {
            "tag": share.tag,
            "path": str(share.path),
            "file": share.single,
            "read_only": share.read_only,
            "mounted": self._mount_point(share),
            "mount_command": share.mount_command(),
        }
