"""The disks that bring the agent into a guest: SUBOS for a person, CIDATA for cloud-init."""

from __future__ import annotations

from subos_protocol import __version__

from . import deb, iso, payload, pyz, rpm, tar
from .payload import File

LABEL = "SUBOS"
SEED_LABEL = "CIDATA"
"""What cloud-init's data source NoCloud looks for."""
COMMAND = f"mount LABEL={LABEL} /mnt && sh /mnt/install.sh"
"""What a person types in the guest, as root."""
BESIDE = ("subos-agent.service", "subos-agent-session.desktop", "60-subos-agent.rules")
"""What install.sh wants beside the one-file program."""


def packages(version: str = __version__) -> list[File]:
    """The deb, the one-file program and the source of the rpm. Raises UserError."""
    return [deb.build(version), pyz.build(version), rpm.source(version)]


def files(version: str = __version__) -> list[File]:
    """What lies on the disk. Raises UserError."""
    return [
        *packages(version),
        File("install.sh", payload.data("install.sh"), 0o755),
        File("README.txt", payload.data("README.txt", version=version)),
        *(File(name, payload.data(name)) for name in BESIDE),
    ]


def disk(version: str = __version__) -> bytes:
    """An ISO image labelled SUBOS. Raises UserError."""
    return iso.build(LABEL, files(version), payload.timestamp())


def archive(version: str = __version__) -> bytes:
    """The same as a tar archive, for an agent that installs its successor. Raises UserError."""
    return tar.archive(files(version), payload.timestamp(), "./")


def seed(version: str = __version__) -> bytes:
    """The same for cloud-init, which installs the agent at a disk's first boot. Raises UserError."""
    ours = [File(name, payload.data(f"cloud-init/{name}", version=version)) for name in ("user-data", "meta-data")]
    return iso.build(SEED_LABEL, [*files(version), *ours], payload.timestamp())
