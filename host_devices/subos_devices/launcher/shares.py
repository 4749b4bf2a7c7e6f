"""`--share PATH[:TAG][:ro]`: a folder of this machine that the guest sees under the same path."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from subos_devices.errors import UserError

ROOT_TAG = "subos-root"
TAG_SIZE = 36
"""Bytes in virtio_fs_config.tag (virtio specification 1.3, section 5.11.4)."""

GUESTS_OWN = ("/dev", "/proc", "/sys", "/run/subos")
"""What the guest mounts or makes itself, and cannot boot without."""

_TAG = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Share:
    """`path` is absolute, and where the guest mounts it; `tag` names the device to the guest."""

    path: Path
    tag: str
    read_only: bool = False


def parse_shares(texts: Iterable[str]) -> list[Share]:
    """Raises UserError: no folder, a bad tag, a tag or a path used twice."""
    shares: list[Share] = []
    for text in texts:
        share = _parse(text, len(shares))
        for other in shares:
            if other.tag == share.tag:
                raise UserError(f"the tag {share.tag} is used twice", "give each share its own: --share PATH:TAG")
            if other.path == share.path:
                raise UserError(f"{share.path} is shared twice", "leave one of them out")
        shares.append(share)
    return shares


def _parse(text: str, index: int) -> Share:
    path, tag, read_only = text, "", False
    # From the right, and only as far as needed: a path may hold colons itself.
    if not Path(path).is_dir() and path.endswith((":ro", ":rw")):
        path, _, access = path.rpartition(":")
        read_only = access == "ro"
    if not Path(path).is_dir() and ":" in path:
        path, _, tag = path.rpartition(":")
    folder = Path(path)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"the share {path} {what}", "--share wants PATH[:TAG][:ro]")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"the share {path} cannot be read by you", "name a folder that you may list")
    absolute = Path(os.path.abspath(folder))
    resolved = absolute.resolve()  # the guest has the same symlinks: to mount on /var/run is to mount on /run
    if resolved == Path("/"):
        raise UserError("/ is the guest's root already, and read-only", "share the folder that you want to write")
    for own in map(Path, GUESTS_OWN):
        if resolved in (own, *own.parents):
            raise UserError(f"the share {path} would hide the guest's own {own}", "share a folder inside it")
    return Share(absolute, _checked_tag(tag or _default_tag(absolute, index)), read_only)


def _default_tag(path: Path, index: int) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", path.name)
    return f"share{index}-{name}"[:TAG_SIZE]


def _checked_tag(tag: str) -> str:
    if not _TAG.fullmatch(tag) or len(tag) > TAG_SIZE:
        raise UserError(
            f"{tag!r} cannot be a share's tag", f"use up to {TAG_SIZE} letters, digits, dots, dashes, underscores"
        )
    if tag.startswith("subos-"):
        raise UserError(f"the tag {tag} is one of ours", "choose one that does not begin with subos-")
    return tag
