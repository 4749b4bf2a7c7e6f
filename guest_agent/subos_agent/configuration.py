"""/etc/subos/agent.conf: what the host may do in this guest.

[agent]
exec = yes         # commands and copies for the host; no unless said
clipboard = yes
gamepads = yes     # the host's pads by uinput or uhid, so that they rumble; else by virtio-input
"""

from __future__ import annotations

import configparser
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path

PATH = Path("/etc/subos/agent.conf")


@dataclass(frozen=True)
class Configuration:
    """`exec` is off unless somebody switched it on: it makes the host's user this guest's root."""

    exec: bool = False
    clipboard: bool = True
    gamepads: bool = True

    @classmethod
    def load(cls, path: Path = PATH) -> Configuration:
        """The file's settings; the defaults where there is none. Raises ValueError with a line for people."""
        parser = configparser.ConfigParser()
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error
        try:
            parser.read_string(text)
            if others := [name for name in parser.sections() if name != "agent"]:
                raise ValueError(f"{path}: unknown section [{others[0]}]; there is [agent]")
            known = {field.name for field in fields(cls)}
            given = dict(parser["agent"]) if parser.has_section("agent") else {}
            if unknown := sorted(set(given) - known):
                raise ValueError(f"{path}: unknown setting {unknown[0]}; there are {', '.join(sorted(known))}")
            return cls(**{name: parser.getboolean("agent", name) for name in given})
        except configparser.Error as error:
            raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
        except ValueError as error:
            raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from error

    def with_setting(self, name: str, value: bool) -> Configuration:
        """The same with one setting changed."""
        return replace(self, **{name: value})

    def save(self, path: Path = PATH) -> None:
        """Replaces the file, as a whole. Raises OSError."""
        lines = [
            "[agent]",
            *(f"{field.name} = {'yes' if getattr(self, field.name) else 'no'}" for field in fields(self)),
        ]
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        beside.write_text("\n".join(lines) + "\n")
        beside.replace(path)
