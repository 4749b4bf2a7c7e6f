"""Which process serves a device: one of its own, one that it shares with others, or the supervisor's.

    own              a worker for it alone, in a jail for it alone
    own:COMMAND …    likewise, and the worker is another program, which keeps the contract in host_devices/README.md
    group:NAME       one worker, in one jail, for all devices of that group: what ends one ends all, and all come back
    inline           the supervisor itself, on its event loop, without a jail: for the search for faults

A person's rules are DEVICE=MODEL, where DEVICE is a device's name or its kind; later ones win, and a name is stronger
than a kind.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import UserError
from ..vhost_user.device import DeviceSpec

OWN, GROUP, INLINE = "own", "group", "inline"
HINT = "DEVICE=own, DEVICE=own:COMMAND …, DEVICE=group:NAME or DEVICE=inline"
MOST_DESCRIPTORS = 253  # SCM_MAX_FD: what the packet may carry by which the process of a group is asked for
OF_EACH = 3  # that a device's share of it has: a control socket, counters, and a socket for questions
_GROUP_NAME = re.compile(r"[A-Za-z0-9_.-]{1,32}")


class Model(NamedTuple):
    """One of the above."""

    how: str = OWN
    group: str = ""
    command: tuple[str, ...] = ()
    """A program by its whole path, and its arguments."""

    def __str__(self) -> str:
        if self.command:
            import shlex  # here: most have none

            return f"{self.how}:{shlex.join(self.command)}"
        return f"{self.how}:{self.group}" if self.group else self.how


class Row(NamedTuple):
    """What a kind gets where nothing is said, and why; and why it cannot have another model."""

    why: str
    no_group: str = ""
    no_inline: str = ""
    no_command: str = ""
    default: Model = Model()
    descriptors: int = 0
    """How many a device of the kind is given at most, besides OF_EACH."""


_FLOOD = "a flood of its events holds up no other device's, and no other worker reaches its drivers"
TABLE = {
    "fs": Row(
        "its jail is around one folder, and what it knows of it outlives it",
        no_group="its jail is around one folder",
        no_inline="it takes on the guest's users, and waits for disks",
        no_command="a file server of another program speaks to QEMU itself: give it the socket, as virtiofsd has it",
    ),
    "vsock": Row(
        "it moves bulk data, and holds sockets of programs",
        no_inline="it asks the supervisor, and would wait for itself",
        descriptors=1,
    ),
    "keyboard": Row("passwords are typed on it, which no other worker is to see", descriptors=1),
    **dict.fromkeys(("mouse", "pointer", "touch", "pen"), Row(_FLOOD, descriptors=1)),
    **dict.fromkeys(("gamepad", "motion", "touchpad"), Row(_FLOOD, descriptors=3)),
    "rng": Row("keys are made of it: no other worker is to have it in its memory"),
}
"""By kind. A process of its own costs a device some 3 MiB, so none has to share."""
OTHERS = Row("it is somebody else's code")


class Models:
    """A person's rules over the table. Raises UserError for what is no rule."""

    def __init__(self, rules: Iterable[str] = ()) -> None:
        self._rules: dict[str, Model] = {}
        for rule in rules:
            device, equals, model = rule.partition("=")
            if not equals or not device:
                raise UserError(f"the process model {rule!r} names no device", HINT)
            self._rules[device] = parse(model)

    @classmethod
    def of_plain(cls, rules: Mapping[str, Sequence[Any]]) -> Models:
        """Those of `plain`, in another process."""
        models = cls()
        models._rules = {device: Model(how, group, tuple(command)) for device, (how, group, command) in rules.items()}
        return models

    def plain(self) -> dict[str, Model]:
        """The rules, as JSON can have them."""
        return dict(self._rules)

    def of(self, spec: DeviceSpec) -> Model:
        """Raises UserError where the device cannot be served that way."""
        return self.named(spec.name, spec.kind)

    def named(self, name: str, kind: str) -> Model:
        """As `of`."""
        row = TABLE.get(kind, OTHERS)
        model = self._rules.get(name) or self._rules.get(kind) or row.default
        for wanted, why in (
            (model.how == GROUP, row.no_group),
            (model.how == INLINE, row.no_inline),
            (bool(model.command), row.no_command),
        ):
            if wanted and why:
                raise UserError(f"{name} cannot be {model}: {why}", f"leave it {OWN}, as it is by default")
        return model

    def check(self, devices: Sequence[tuple[str, str]], sandbox: str) -> None:
        """Before anything is made: for devices by name and kind, and --sandbox. Raises UserError."""
        known = {*TABLE, *(name for name, _ in devices)}
        for rule in self._rules:
            if rule not in known and ":" not in rule:
                import difflib  # only here: most never need it

                nearest = difflib.get_close_matches(rule, known, 1)
                there = ", ".join(name for name, _ in devices)
                hint = f"did you mean {nearest[0]}?" if nearest else f"there are {there}, and kinds of devices"
                raise UserError(f"a process model is for {rule!r}, which is no device", hint)
        groups: dict[str, list[int]] = {}
        for name, kind in devices:
            group = self.named(name, kind).group
            if group:
                groups.setdefault(group, []).append(TABLE.get(kind, OTHERS).descriptors)
        for group, descriptors in groups.items():
            check_size(group, descriptors)
        for name, kind in devices:
            if self.named(name, kind).how == INLINE and sandbox == "require":
                raise UserError(
                    f"{name} is inline, where it has no sandbox, and --sandbox require wants all of it",
                    f"give it a process of its own: {name}=own",
                )


def check_size(group: str, descriptors: Sequence[int]) -> None:
    """That one process can serve all of a group: how many descriptors each of its devices has, besides OF_EACH. Raises
    UserError."""
    needed = sum(descriptors) + OF_EACH * len(descriptors)
    if needed > MOST_DESCRIPTORS:
        raise UserError(
            f"{len(descriptors)} devices are too many for the group {group}: its process needs {needed} descriptors, "
            f"and can be given {MOST_DESCRIPTORS}",
            "make two groups of it: DEVICE=group:ANOTHER",
        )


def parse(text: str) -> Model:
    """A model as it is written. Raises UserError."""
    how, colon, rest = text.partition(":")
    if how == GROUP:
        if not _GROUP_NAME.fullmatch(rest):
            raise UserError(f"the group {rest!r} has no name", "a word: group:input")
        return Model(GROUP, rest)
    if how == OWN and colon:
        return Model(OWN, command=_command(rest))
    if text not in (OWN, INLINE):
        raise UserError(f"there is no process model {text!r}", "own, own:COMMAND …, group:NAME or inline")
    return Model(text)


def _command(text: str) -> tuple[str, ...]:
    import shlex
    import shutil

    hint = "own:/whole/path/of/a/program and its arguments, quoted as in a shell"
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"the command {text!r} is not one: {error}", hint) from error
    if not words:
        raise UserError("own: names no command", hint)
    program = os.path.expanduser(words[0])
    found = shutil.which(program) if os.path.isabs(program) or "/" not in program else None
    if found is None:
        raise UserError(f"there is no program {words[0]!r} that can be run", hint)
    return (os.path.abspath(found), *words[1:])
