"""A session as plain data, and made again from it, in another process.

Its descriptors travel beside it, under the names that `Session.descriptors` gives them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from subos_protocol.vhost_user import vhost_user_mem_region, vhost_vring_addr

from .device import Device
from .errors import BadMemory
from .memory import GuestMemory
from .session import Session, Vring


def describe(session: Session) -> dict[str, Any]:
    """As JSON has it."""
    return {
        "features": session.features,
        "protocol_features": session.protocol_features,
        "regions": [list(region) for region in session.memory.regions] if session.memory else [],
        "vrings": [
            {
                "size": vring.size,
                "base": vring.base,
                "addr": list(vring.addr) if vring.addr else None,
                "enabled": vring.enabled,
                "started": vring.started,
            }
            for vring in session.vrings
        ],
        "config": [[offset, data.hex()] for offset, data in session.config_writes.items()],
    }


def restore(device: Device, said: Mapping[str, Any], fds: Mapping[str, int]) -> Session:
    """What `describe` said, for `device`; those of `fds` that are a session's become its own.

    Raises BadMemory where guest memory is no longer what it was (a front end that cut its file short); the descriptors
    are closed then.
    """
    vrings = [_vring(index, vring, fds) for index, vring in enumerate(said["vrings"])]
    session = Session(device, said["features"], said["protocol_features"], vrings=vrings)
    regions = [vhost_user_mem_region(*region) for region in said["regions"]]
    session.region_fds = [fds[f"region{number}"] for number in range(len(regions))]
    try:
        session.memory = GuestMemory(regions, session.region_fds) if regions else None
    except BadMemory:
        session.close()
        raise
    for offset, data in said["config"]:
        session.config_writes[offset] = bytes.fromhex(data)
        with contextlib.suppress(Exception):  # somebody's device: it has taken it once
            device.set_config(offset, session.config_writes[offset])
    return session


def _vring(index: int, said: Mapping[str, Any], fds: Mapping[str, int]) -> Vring:
    addr = vhost_vring_addr(*said["addr"]) if said["addr"] else None
    kick, call, err = (fds.get(f"{kind}{index}", -1) for kind in ("kick", "call", "err"))
    return Vring(index, said["size"], said["base"], addr, kick, call, err, said["enabled"], said["started"])
