"""The sandbox in words: for `status`, the log and the doctor."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import SubosError
from ...text import printable
from ...vhost_user.device import DeviceSpec
from .jail import born, close_jail
from .policies import AUTO

WARNING = "workers are not sandboxed (--sandbox off): each has all the rights of the user who starts it"
INLINE = {"on": [], "missing": {}, "without": {"all": "inline: the supervisor's own process serves it"}}
"""What holds a device that the supervisor serves itself."""
WARNING_HINT = "with guests that you do not trust, leave the sandbox on"


def summary(described: Mapping[str, Any] | None) -> str:
    """One worker's sandbox in a few words."""
    if described is None:
        return "-"
    if not described["on"]:
        return "none (inline)" if described == INLINE else "off"
    return f"on, but no {', '.join(described['missing'])}" if described["missing"] else "on"


def sandboxes(devices: Sequence[Mapping[str, Any]]) -> str:
    """Those of a VM's devices (as `status` has them), together where they are alike."""
    names: dict[str, list[str]] = {}
    for device in devices:
        names.setdefault(summary(device["sandbox"]), []).append(device["name"])
    if len(names) == 1:
        return next(iter(names))
    return "; ".join(f"{', '.join(alike)}: {words}" for words, alike in names.items()) or "-"


def warning(described: Mapping[str, Any]) -> str:
    """What a person should know who has not asked to go without; "" where there is nothing."""
    missing = [f"{name} ({why})" for name, why in described["missing"].items()]
    return f"the sandbox of workers goes without: {', '.join(missing)}" if missing and described["on"] else ""


def understood(said: object) -> dict[str, Any]:
    """A worker's words on its sandbox: {"on": […], "missing": {layer: why}, "without": {layer: why}}."""
    said = said if isinstance(said, dict) else {}
    on = said.get("on")
    words: dict[str, Any] = {"on": [printable(str(name)) for name in on] if isinstance(on, list) else []}
    for key in ("missing", "without"):
        found = said.get(key)
        reasons = found.items() if isinstance(found, dict) else ()
        words[key] = {printable(str(name)): printable(str(why)) for name, why in reasons}
    return words


def try_out(kind: str) -> dict[str, Any]:
    """What holds a worker of `kind` here, found by closing a jail around a child that does nothing in it. Raises
    OSError, SubosError."""
    with tempfile.TemporaryDirectory(prefix="subos-") as folder:
        spec = DeviceSpec(kind, "doctor", {"shared_dir": folder} if kind == "fs" else {})
        reader, writer = os.pipe()
        myself = os.pidfd_open(os.getpid())
        pid, cell = born(spec, AUTO)
        if pid == 0:
            _say(writer, spec, cell, myself)
        os.close(myself)
        os.close(writer)
        with open(reader, "rb") as answer:
            said = answer.read()
        os.waitpid(pid, 0)
    return dict(json.loads(said or b'{"on": [], "missing": {"all": "the child died in it"}, "without": {}}'))


def _say(writer: int, spec: DeviceSpec, cell: Any, parent: int) -> None:
    """In the child."""
    try:
        _, sandbox = close_jail(spec, cell, parent)
        os.write(writer, json.dumps(sandbox.describe()).encode())
    except (OSError, SubosError) as error:
        os.write(writer, json.dumps({"on": [], "missing": {"all": str(error)}, "without": {}}).encode())
    finally:
        os._exit(0)
