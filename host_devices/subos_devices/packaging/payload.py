"""What is packed: the agent's Python packages, and the files of installers/agent."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from subos_protocol import __version__

from ..errors import UserError

PACKAGES = ("subos_agent", "subos_desktop", "subos_protocol")
OPTIONAL = ("subos_desktop",)
RELEASED = 1767225600
"""2026-01-01, in seconds since 1970: the time of every file where SOURCE_DATE_EPOCH says no other."""


@dataclass(frozen=True)
class File:
    """`path` is relative, with "/" between its parts; `mode` are the permission bits."""

    path: str
    content: bytes
    mode: int = 0o644


def timestamp() -> int:
    """The time that files get, in seconds since 1970 (https://reproducible-builds.org/specs/source-date-epoch/).

    Raises UserError where SOURCE_DATE_EPOCH is no such time.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH", "") or str(RELEASED)
    if not re.fullmatch(r"[0-9]{1,11}", text):
        raise UserError(f"SOURCE_DATE_EPOCH is {text!r}, which is no time", "it is in seconds since 1970")
    return int(text)


def modules(version: str = __version__) -> list[File]:
    """The agent's packages, as they are imported here, by path. Raises UserError where one is not installed.

    Another `version` than this installation's is what tests of upgrades want.
    """
    found = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            if package in OPTIONAL:
                continue
            raise UserError(f"the package {package} is not installed", "install subos as a whole")
        folder = Path(spec.origin).parent
        for path in folder.rglob("*"):
            if path.suffix == ".py" or path.name == "py.typed":
                found.append(File(f"{package}/{path.relative_to(folder).as_posix()}", path.read_bytes()))
    return sorted((_with_version(file, version) for file in found), key=lambda file: file.path)


def data(name: str, **values: str) -> bytes:
    """A file of installers/agent; each @NAME@ in it is replaced by the value of that name."""
    content = (_data_folder() / name).read_text()
    for word, value in values.items():
        content = content.replace(f"@{word.upper()}@", value)
    return content.encode()


def _data_folder() -> Path:
    """A wheel carries it beside this module (by installers/fast_build.py); a clone has it where it belongs."""
    inside = Path(__file__).with_name("agent")
    return inside if inside.is_dir() else Path(__file__).resolve().parents[3] / "installers" / "agent"


def installed(version: str = __version__) -> list[File]:
    """What a distribution's package installs, by path from the root."""
    agent = {"agent": "/usr/bin/subos-agent"}
    files = [File(f"usr/lib/subos-agent/{file.path}", file.content) for file in modules(version)]
    return [
        *files,
        File("usr/bin/subos-agent", data("subos-agent"), 0o755),
        File("usr/lib/systemd/system/subos-agent.service", data("subos-agent.service", **agent)),
        File("usr/lib/udev/rules.d/60-subos-agent.rules", data("60-subos-agent.rules")),
        File("etc/xdg/autostart/subos-agent-session.desktop", data("subos-agent-session.desktop", **agent)),
    ]


def _with_version(file: File, version: str) -> File:
    if file.path != "subos_protocol/__init__.py":
        return file
    return File(file.path, file.content.replace(f'"{__version__}"'.encode(), f'"{version}"'.encode()))
