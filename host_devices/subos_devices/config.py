"""One settings table feeds the flags, the TOML file and `--help`.

A setting's key in the file is its flag without the dashes. Flags win over the file, the file over defaults.
"""

from __future__ import annotations

import argparse
import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UserError, did_you_mean


@dataclass(frozen=True)
class Setting:
    """`type` is str, int, bool, Path or list (of str: the flag may be repeated).

    In a file, a Path and each item of a list of `paths` (which begins with one) is relative to that file. A list of
    `tables` ([[NAME]]) can be in a file only.
    """

    name: str
    type: type
    help: str
    metavar: str = ""
    default: Any = None
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    paths: bool = False
    tables: bool = False

    @property
    def attribute(self) -> str:
        return self.name.replace("-", "_")


def add_flags(parser: argparse._ActionsContainer, settings: Sequence[Setting]) -> None:
    """A flag for each setting; absent ones leave no trace, so that `resolve` can tell."""
    for setting in settings:
        if setting.tables:
            continue
        options: dict[str, Any] = {"dest": setting.attribute, "default": argparse.SUPPRESS, "help": _help(setting)}
        if setting.type is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["metavar"] = setting.metavar or setting.name.upper()
            options["type"] = str if setting.type is list else setting.type
            if setting.type is list:
                options["action"] = "append"
            if setting.choices:
                options["choices"] = setting.choices
                options["metavar"] = "|".join(setting.choices)
        parser.add_argument(f"--{setting.name}", **options)


def resolve(args: argparse.Namespace, settings: Sequence[Setting], file: Path | None) -> argparse.Namespace:
    """All settings as attributes. Raises UserError for a file that cannot be read, an unknown key, a bad value."""
    values = {setting.attribute: setting.default for setting in settings}
    if file is not None:
        values |= _load(file, settings)
    values |= {s.attribute: getattr(args, s.attribute) for s in settings if hasattr(args, s.attribute)}
    for setting in settings:
        value = values[setting.attribute]
        if setting.minimum is not None and value is not None and value < setting.minimum:
            raise UserError(
                f"{setting.name} is {value}, and must be at least {setting.minimum}",
                f"the default is {setting.default}",
            )
        if setting.type is list and value is None:
            values[setting.attribute] = []
    return argparse.Namespace(**values)


def _help(setting: Setting) -> str:
    """argparse wants % doubled."""
    said = setting.help if setting.default in (None, [], False) else f"{setting.help} (default: {setting.default})"
    return said.replace("%", "%%")


def _load(file: Path, settings: Sequence[Setting]) -> dict[str, Any]:
    try:
        table = tomllib.loads(file.read_text())
    except OSError as error:
        raise UserError(
            f"the configuration {file} cannot be read: {error.strerror}", "--config wants a TOML file of settings"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the configuration {file} is not TOML: {error}", 'a line of it: memory = "4G"') from error
    known = {setting.name: setting for setting in settings}
    values: dict[str, Any] = {}
    for key, value in table.items():
        setting = known.get(key)
        if setting is None:
            raise UserError(f"{file}: there is no setting {key!r}", did_you_mean(key, known))
        values[setting.attribute] = _check(file, setting, value)
    return values


def _check(file: Path, setting: Setting, value: Any) -> Any:
    wanted = str if setting.type is Path else setting.type
    fits: bool = type(value) is wanted
    item_type = dict if setting.tables else str
    if not fits or (wanted is list and not all(isinstance(item, item_type) for item in value)):
        items = f"a list of tables, [[{setting.name}]]" if setting.tables else "a list of texts"
        kinds = {str: "a text", int: "a whole number", bool: "true or false", list: items}
        raise UserError(f"{file}: {setting.name} must be {kinds[wanted]}, not {value!r}", f"it is {setting.help}")
    if setting.choices and value not in setting.choices:
        raise UserError(
            f"{file}: {setting.name} must be one of {', '.join(setting.choices)}, not {value!r}",
            f"it is {setting.help}",
        )
    if setting.type is Path:
        return Path(_beside(file, value))
    return [_beside(file, item) for item in value] if setting.paths else value


def _beside(file: Path, text: str) -> str:
    """`text`, which begins with a path, as it is meant in `file`: "~" is a home, also where a colon ends it."""
    expanded = re.sub(r"^~[^/:]*", lambda match: os.path.expanduser(match[0]), text)
    return os.path.join(file.parent, expanded)
