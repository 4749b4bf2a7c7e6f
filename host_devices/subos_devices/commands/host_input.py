"""The part of `subos-devices input` that is about real devices of this host."""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import UserError

if TYPE_CHECKING:
    from ..input.drivers.forwarding import Target
    from ..input.drivers.monitors import Layouts
    from ..vhost_user.device import Option

ASK_SECONDS = 2.0
"""How long the VM may take to list its devices: meanwhile no event of a grabbed keyboard is seen."""

MIN_SPEED, MAX_SPEED = 0.01, 1000.0

ATTACH = """\
DEVICE is one of
{forms}  next-pad                 the next gamepad on which somebody presses a button

both Ctrl keys together give all devices back to the host, and to the guest again. It works while the guest hangs,
too. Ctrl-C (or SIGTERM) ends it; so does the VM's end.

A device that is unplugged is waited for, and drives the same device of the guest again. Meanwhile the guest's keys
are up and its axes centred. Likewise for a device that points at a monitor, until the guest has said where that is.

examples:
  subos-devices input work attach "*Keyboard*" --grab    the keyboard is the guest's until both Ctrl keys are pressed
  subos-devices input work attach next-pad next-pad      the first pad that is pressed, and the second
  subos-devices input work attach id:046d:c52b --to mouse
  subos-devices input work attach "*Touch*" --grab --monitor 2
  subos-devices input work attach --config vm.toml       the [[input]] rules of a settings file, mappings included
"""


class VmEnded(UserError):
    """The VM was there, and is no longer."""


class Where(NamedTuple):
    """The VM `name`, or one device of it (VM/DEVICE); or the device behind `socket`, a pad with `profile`, if it is
    one."""

    name: str
    socket: Path | None
    profile: str

    @property
    def said(self) -> str:
        return self.name or f"--socket {self.socket}"

    def targets(self, kind: str) -> Callable[[], Sequence[Target]]:
        """Lists the guest's devices; of what is behind a socket the `kind` must be known. Raises UserError."""
        if self.socket is None:
            return _VmDevices(self.name)
        if not self.socket.is_socket():
            raise UserError(
                f"no device listens on {self.socket}", "subos-devices serve KIND --driver-socket PATH makes one"
            )
        if not kind:
            raise UserError("what is behind the socket?", "--to KIND: keyboard, mouse, … as it was served")
        target = _target(kind, kind, {"profile": self.profile} if kind == "gamepad" else {}, self.socket)
        if target is None:
            raise UserError(f"{kind!r} is no input device", "--to KIND: keyboard, mouse, … as it was served")
        return lambda: [target]

    def layouts(self) -> Layouts:
        """Tells where the guest's monitors are. Raises UserError where nobody could."""
        from ..agent import monitors
        from ..input.script import no_monitors

        if self.socket is not None:
            no_monitors()
        return functools.partial(monitors.layouts, self.name.partition("/")[0])


def _say(message: str) -> None:
    print(f"subos: {message}", file=sys.stderr, flush=True)


def _keep_quiet(message: str) -> None:
    pass


def devices(words: Sequence[str]) -> int:
    import json

    from ..input.drivers import listing

    parser = argparse.ArgumentParser(
        prog="subos-devices input devices", description="Lists the input devices of this host."
    )
    parser.add_argument("--json", action="store_true", help="for programs: a list of objects")
    args = parser.parse_args(words)
    found = listing.rows()
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        listing.show(found)
    return 0


def attach(where: Where, words: Sequence[str]) -> int:
    from .. import signals
    from ..input.drivers.driver import EvdevDriver
    from ..input.drivers.rules import FORMS, Rule, check_targets, parse_device, parse_monitor

    parser = argparse.ArgumentParser(
        prog=f"subos-devices input {where.said} attach",
        description="Forwards input devices of this host to the guest.",
        epilog=ATTACH.format(forms=FORMS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("devices", nargs="*", metavar="DEVICE", help="which devices: see below")
    parser.add_argument("--grab", action="store_true", help="take them from the host")
    parser.add_argument(
        "--to", default="", metavar="DEVICE", help="the guest's device, by name or kind: mouse, gamepad2"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="a settings file whose [[input]] rules are taken, too"
    )
    parser.add_argument(
        "--monitor", type=int, metavar="N", help="on that monitor of the guest, as its desktop's session tells them"
    )
    parser.add_argument("--quiet", action="store_true", help="say only what is wrong")
    args = parser.parse_args(words)
    monitor = 0 if args.monitor is None else parse_monitor(args.monitor, "--monitor")
    rules = [Rule(*parse_device(text), args.to, args.grab, monitor=monitor) for text in args.devices]
    if args.config is not None:
        rules += [rule._replace(to=rule.to or args.to) for rule in _rules_of(args.config)]
    if not rules:
        raise UserError("which device?", "subos-devices input devices lists them; --help says how to name them")
    targets = where.targets(args.to)
    check_targets(rules, [(target.name, target.kind) for target in targets()])
    layouts = where.layouts() if any(rule.monitor for rule in rules) else None
    driver = EvdevDriver(rules, targets, _keep_quiet if args.quiet else _say, _say, layouts)
    return signals.run(_until_ended(driver.run()))


def play(where: Where, words: Sequence[str]) -> int:
    from ..input.drivers import player
    from ..input.evemu import Reader

    parser = argparse.ArgumentParser(
        prog=f"subos-devices input {where.said} play",
        description="Does again what `subos-devices input record`, or evemu-record, has written down.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the recording")
    parser.add_argument("--speed", type=speed, default=1.0, metavar="N", help="how many times as fast (default: 1)")
    parser.add_argument("--to", default="", metavar="DEVICE", help="the guest's device, by name or kind")
    args = parser.parse_args(words)
    targets = where.targets(args.to)()
    try:
        with args.file.open("rb") as file:
            reader = Reader(file, args.file)
            played = player.play(reader, player.choose(reader, args.to, targets), args.speed)
    except OSError as error:
        raise UserError(f"{args.file} cannot be read: {error.strerror}") from error
    print(f"{played} frames played")
    return 0


def speed(text: str) -> float:
    found = float(text)
    if not MIN_SPEED <= found <= MAX_SPEED:  # and no number at all fails this, too
        raise argparse.ArgumentTypeError(f"{text} is not within {MIN_SPEED} to {MAX_SPEED}")
    return found


def record(words: Sequence[str]) -> int:
    from .. import signals
    from ..input.drivers.recorder import Recorder, find, open_file
    from ..input.drivers.rules import FORMS, NEXT_PAD, Rule, parse_device

    parser = argparse.ArgumentParser(
        prog="subos-devices input record",
        description="Writes down what an input device of this host does, until Ctrl-C, in evemu's text format.",
        epilog=f"DEVICE is one of\n{FORMS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a new file; - is standard output")
    parser.add_argument("--device", metavar="DEVICE", help="which (default: the first on which something happens)")
    args = parser.parse_args(words)
    rule = Rule(*parse_device(args.device)) if args.device else None
    if rule is not None and rule.by == NEXT_PAD:
        raise UserError(
            "next-pad is for attach", "leave out --device: the first device that does something is recorded"
        )

    async def run() -> None:
        recorder = Recorder(find(rule), _say)
        with contextlib.nullcontext(sys.stdout) if str(args.file) == "-" else open_file(args.file) as file:
            try:
                await recorder.run(file)
            finally:
                _say(f"{recorder.frames} frames recorded")

    return signals.run(_until_ended(run()))


async def _until_ended(work: Any) -> int:
    import asyncio

    try:
        await work
    except asyncio.CancelledError:
        pass  # a signal: that is how it ends
    except VmEnded as error:
        _say(error.message)
    return 0


def _rules_of(file: Path) -> list[Any]:
    from .. import config
    from ..input.drivers.rules import parse_rules
    from ..launcher.settings import SETTINGS

    return parse_rules(config.resolve(argparse.Namespace(), SETTINGS, file).input, f"{file}: input")


class _VmDevices:
    """What a VM has, as it says itself; where it is too busy to say, what it had."""

    def __init__(self, name: str) -> None:
        self._name, _, self._only = name.partition("/")
        self._known: list[Target] | None = None  # before it was asked

    def __call__(self) -> Sequence[Target]:
        from .. import runtime
        from ..launcher.devices import driver_path
        from ..supervisor import control

        if self._known is not None and not runtime.is_running(self._name):
            raise VmEnded(f"the VM {self._name!r} has ended")
        folder = runtime.running_folder(self._name)
        try:
            rows = control.ask(self._name, "status", timeout=ASK_SECONDS)["devices"]
        except UserError:
            if self._known is None:
                raise
            return self._known
        targets = (
            _target(row["name"], row["kind"], row["options"], path)
            for row in rows
            if self._only in ("", row["name"]) and (path := driver_path(folder, row["name"])).exists()
        )
        found = [target for target in targets if target is not None]
        if not found and self._known is None:
            raise UserError(f"the VM {self._name!r} has no such input device", "subos-devices status lists its devices")
        self._known = found
        return found


def _target(name: str, kind: str, options: dict[str, Option], path: Path) -> Target | None:
    """None for what is no input device."""
    from .. import registry
    from ..input.drivers.forwarding import Target
    from ..input.model import InputDevice
    from ..vhost_user.device import DeviceSpec

    device = registry.build(DeviceSpec(kind, name, options))
    return Target(name, kind, path, device.capabilities) if isinstance(device, InputDevice) else None


OF_THE_HOST: dict[str, Callable[[Sequence[str]], int]] = {"devices": devices, "record": record}
OF_A_VM: dict[str, Callable[[Where, Sequence[str]], int]] = {"attach": attach, "play": play}
