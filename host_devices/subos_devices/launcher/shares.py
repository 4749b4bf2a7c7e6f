"""`--share PATH[:TAG][:/MOUNTPOINT][:ro|:rw]`: a folder or a file of this machine that the guest sees.

The default guest mounts it at the mount point, which is the path that it has here unless another one is said.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from subos_devices.errors import UserError

ROOT_TAG = "subos-root"
TAG_SIZE = 36
"""Bytes in virtio_fs_config.tag (virtio specification 1.3, section 5.11.4)."""

FORM = "PATH[:TAG][:/MOUNTPOINT][:ro|:rw]"

GUESTS_FOLDER = "/run/subos"
"""What guest/boot works with."""

GUESTS_OWN = ("/dev", "/proc", "/sys", GUESTS_FOLDER)
"""What the guest mounts or makes itself, and cannot boot without."""

_TAG = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Share:
    """`path` is absolute; `tag` names the device to the guest. `at` is the mount point where it is not `path`.

    A `single` one is a file: the guest's file system holds it alone, and the mount point is a link to it.
    """

    path: Path
    tag: str
    read_only: bool = False
    at: Path | None = None
    single: bool = False

    @property
    def mount_point(self) -> Path:
        return self.at or self.path

    @property
    def access(self) -> str:
        """As mount's option."""
        return "ro" if self.read_only else "rw"

    def mount_command(self) -> str:
        """What to say in a guest that is not ours."""
        options = "-o ro " if self.read_only else ""
        place = "/mnt" if self.at is None or self.single else shlex.quote(str(self.at))
        return f"mount -t virtiofs {options}{self.tag} {place}"


class Wanted(NamedTuple):
    """What a person wrote; an empty text is what was left out."""

    path: str
    tag: str = ""
    at: str = ""
    read_only: bool = False


def parse_shares(texts: Iterable[str]) -> list[Share]:
    """Raises UserError: nothing there, a bad tag or mount point, a tag or a place used twice."""
    shares: list[Share] = []
    for text in texts:
        shares.append(checked(split(text), shares))
    return shares


def split(text: str) -> Wanted:
    """The parts of FORM. Raises UserError for what does not have it."""
    path, read_only, parts = text, False, list[str]()
    # From the right, and only as far as needed: a path may hold colons itself.
    if not os.path.exists(path) and path.endswith((":ro", ":rw")):
        path, _, access = path.rpartition(":")
        read_only = access == "ro"
    while not os.path.exists(path) and ":" in path and len(parts) < 2:
        path, _, part = path.rpartition(":")
        parts.insert(0, part)
    _check_exists(path)
    at = parts.pop() if parts and parts[-1].startswith("/") else ""
    tag = parts.pop() if parts else ""
    if parts:
        raise UserError(
            f"{tag!r} in the share {text} is no mount point", f"--share wants {FORM}; a mount point begins with /"
        )
    return Wanted(path, tag, at, read_only)


def checked(wanted: Wanted, others: Sequence[Share]) -> Share:
    """The share that is wanted beside `others`. Raises UserError."""
    path, single = _checked_path(wanted.path)
    tag = _checked_tag(wanted.tag) if wanted.tag else _default_tag(path, others)
    at = Path(os.path.normpath(wanted.at)) if wanted.at else None
    share = Share(path, tag, wanted.read_only, None if at == path else at, single)
    _check_mount_point(share.mount_point, wanted.at or wanted.path)
    for other in others:
        if other.tag == tag:
            raise UserError(f"the tag {tag} is used twice", "give each share its own: --share PATH:TAG")
        if other.mount_point == share.mount_point:
            if other.path == path:
                raise UserError(
                    f"{path} is shared already, with the tag {other.tag}",
                    "leave one of them out, or give it another place: PATH:/MOUNTPOINT",
                )
            raise UserError(
                f"{path} and {other.path} would both be mounted at {share.mount_point}",
                "give one of them another place: --share PATH:/MOUNTPOINT",
            )
    return share


def _check_exists(path: str) -> None:
    if not os.path.exists(path):
        raise UserError(f"the share {path} does not exist", f"--share wants {FORM}")


def _checked_path(text: str) -> tuple[Path, bool]:
    """The absolute path, and whether it is a file."""
    path = Path(os.path.abspath(text))
    _check_exists(text)
    if path.is_dir():
        if not os.access(path, os.R_OK | os.X_OK):
            raise UserError(f"the share {text} cannot be read by you", "name a folder that you may list")
        return path, False
    if not path.is_file():
        raise UserError(f"the share {text} is neither a folder nor a file", f"--share wants {FORM}")
    if not os.access(path, os.R_OK):
        raise UserError(f"the share {text} cannot be read by you", "name a file that you may read")
    return path.resolve(), True  # not a link, which the guest would follow among its own files


def _check_mount_point(place: Path, said: str) -> None:
    hint = "choose another place for it in the guest: --share PATH:/MOUNTPOINT"
    # The guest has the same symlinks: to mount on /var/run is to mount on /run.
    resolved = Path(os.path.realpath(place))
    if resolved == Path("/"):
        raise UserError("/ is the guest's root already, and read-only", hint)
    for own in map(Path, GUESTS_OWN):
        if resolved in (own, *own.parents):
            raise UserError(f"the share {said} would hide the guest's own {own}", hint)
    if Path(GUESTS_FOLDER) in resolved.parents:
        raise UserError(f"the share {said} would lie in the guest's own {GUESTS_FOLDER}", hint)


def _default_tag(path: Path, others: Sequence[Share]) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", path.name)
    used = {other.tag for other in others}
    tags = (f"share{number}-{name}"[:TAG_SIZE] for number in range(len(others), 2 * len(others) + 1))
    return next(tag for tag in tags if tag not in used)


def _checked_tag(tag: str) -> str:
    if not _TAG.fullmatch(tag) or len(tag) > TAG_SIZE:
        raise UserError(
            f"{tag!r} cannot be a share's tag",
            f"use up to {TAG_SIZE} letters, digits, dots, dashes, underscores; a mount point begins with /",
        )
    if tag.startswith("subos-"):
        raise UserError(f"the tag {tag} is one of ours", "choose one that does not begin with subos-")
    if tag in ("ro", "rw"):
        raise UserError(f"{tag} is no tag", f":{tag} comes last, as in {FORM}")
    return tag
