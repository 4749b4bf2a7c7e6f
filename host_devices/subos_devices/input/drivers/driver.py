"""The evdev driver: finds the host's devices that rules name, and forwards them, as they come and go."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable, Sequence
from pathlib import Path

from subos_protocol.input_codes import Ev

from ...errors import SubosError, UserError
from ...text import printable
from ..monitors import reach
from .forwarding import Forwarding, Owner, Target
from .host import PERMISSION_HINT, HostDevice, identity_of, paths
from .hotplug import Hotplug
from .kinds import PAD_BUTTONS, PARTS, SHARED, kind_of
from .monitors import Layouts, Monitors
from .places import Places
from .rules import NEXT_PAD, Rule

PATIENCE = (0.2, 0.5, 1.0, 2.0, 4.0)  # seconds between looks for a guest's device that is gone, at most
CALM = 30.0  # seconds after which they are counted anew


class EvdevDriver:
    """`targets` lists the guest's devices, and raises UserError when the VM is gone. `say` tells a person what
    happens, and `warn` what is wrong. `layouts` is wanted where a rule names a monitor."""

    def __init__(
        self,
        rules: Sequence[Rule],
        targets: Callable[[], Sequence[Target]],
        say: Callable[[str], None],
        warn: Callable[[str], None],
        layouts: Layouts | None = None,
    ) -> None:
        self._rules = rules
        self._targets = targets
        self._say = say
        self._warn = warn
        self._monitors = Monitors(layouts, self._rearranged, self._unknown) if layouts else None
        self._has_said_unknown = False
        self._places = Places()
        self._owner = Owner(self._toggle, self._unplugged, self._unserved, warn)
        self._forwardings: dict[Path, Forwarding] = {}
        self._waiting: dict[Path, HostDevice] = {}  # pads of which the one that is pressed is taken
        self._seen: dict[Path, tuple[int, int]] = {}  # those that no rule is about
        self._apart: set[Path] = set()  # sensors and touch pads of pads that drive nothing
        self._orphans: set[Path] = set()  # those whose device of the guest is gone, for a while perhaps
        self._tries = 0
        self._unserved_at = 0.0
        self._paused = False
        self._end: asyncio.Future[None]

    async def run(self) -> None:
        """Forwards until it is cancelled. Raises UserError when the VM is gone, or where something is missing."""
        loop = asyncio.get_running_loop()
        self._end = loop.create_future()
        with Hotplug() as hotplug:
            loop.add_reader(hotplug.fd, self._plugged, hotplug)
            following = asyncio.ensure_future(self._monitors.follow()) if self._monitors else None
            try:
                self._look()
                self._say_what_is_awaited()
                await self._end
            finally:
                loop.remove_reader(hotplug.fd)
                self._close()
                if following is not None:
                    following.cancel()
                    await asyncio.gather(following, return_exceptions=True)

    def _close(self) -> None:
        for forwarding in self._forwardings.values():
            forwarding.close()
        for path in list(self._waiting):
            self._stop_waiting(path).close()

    def _say_what_is_awaited(self) -> None:
        served = [forwarding.rule for forwarding in self._forwardings.values()]
        if any(rule.by == NEXT_PAD for rule in self._rules):
            self._say("press a button on the gamepad that the guest shall have")
        for rule in self._rules:
            if rule.by != NEXT_PAD and rule not in served:
                self._say(f"no device {rule} is here yet; it is taken when it comes")

    # --- devices of the host

    def _plugged(self, hotplug: Hotplug) -> None:
        hotplug.drain()
        self._look()

    def _look(self) -> None:
        """Takes what is new and a rule is about."""
        if self._end.done():
            return
        there = paths()
        self._seen = {path: stamp for path, stamp in self._seen.items() if path in there}
        self._apart.intersection_update(there)
        for path in there:
            try:
                found = path.stat()
            except OSError:  # gone again
                continue
            stamp = (found.st_rdev, found.st_ctime_ns)  # which changes with permissions, too
            if path in self._forwardings or path in self._waiting or self._seen.get(path) == stamp:
                continue
            self._seen[path] = stamp
            try:
                device = HostDevice(path)
            except PermissionError:
                self._say_forbidden(path)
                continue
            except OSError:
                continue
            self._place(device)

    def _say_forbidden(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            identity = identity_of(path)
            if any(rule.matches(identity, path) for rule in self._rules):
                self._warn(f"{printable(identity.name)} ({path}) may not be read\n  hint: {PERMISSION_HINT}")

    def _place(self, device: HostDevice) -> None:
        """Gives a device to the first rule that wants it, or closes it."""
        kind = kind_of(device.capabilities)
        if kind in PARTS:
            self._place_part(device, kind)
            return
        wanted = [
            rule
            for rule in self._rules
            if rule.matches(device.identity, device.path) or self._places.knows(rule, device.identity)
        ]
        for rule in wanted:
            target = self._choose(rule, device, kind)
            if target is not None:
                self._forward(device, rule, target)
                return
        if wanted and device.path not in self._orphans:
            self._warn(f"{device}: the guest has no device for it")
        if kind == "gamepad" and any(rule.by == NEXT_PAD for rule in self._rules):
            self._waiting[device.path] = device
            asyncio.get_running_loop().add_reader(device.fd, self._pressed, device)
        else:
            device.close()

    def _place_part(self, device: HostDevice, kind: str) -> None:
        """What is part of a pad goes with it; elsewhere only where a rule says so by name or kind."""
        for pad in list(self._forwardings.values()):
            if pad.target.kind == "gamepad" and pad.device.identity.belongs_with(device.identity):
                rule = Rule("path", str(device.path), f"{pad.target.name}-{kind}", pad.rule.grab)
                target = self._choose(rule, device, kind)
                if target is not None:
                    self._forward(device, rule, target)
                    return
        for rule in self._rules:
            if rule.to and rule.matches(device.identity, device.path):
                target = self._choose(rule, device, kind)
                if target is not None and target.kind == kind:
                    self._forward(device, rule, target)
                    return
        self._apart.add(device.path)
        device.close()

    def _look_for_parts(self) -> None:
        """A pad has come, whose parts were here before it, perhaps."""
        for path in self._apart:
            self._seen.pop(path, None)
        self._apart.clear()
        self._look()

    def _choose(self, rule: Rule, device: HostDevice, kind: str) -> Target | None:
        try:
            return self._places.choose(rule, device.identity, kind, self._targets())
        except UserError as error:
            self._finish(error)
            return None

    def _forward(self, device: HostDevice, rule: Rule, target: Target) -> None:
        forwarding = self._forwardings[device.path] = Forwarding(device, rule, target, self._owner)
        if target.kind not in SHARED:
            self._places.take(target.name, rule, device.identity)
        self._orphans.discard(device.path)
        if target.kind == "gamepad" and self._apart:
            asyncio.get_running_loop().call_soon(self._look_for_parts)
        if self._paused or self._activate(forwarding):
            self._say_what_it_drives(forwarding)

    def _say_what_it_drives(self, forwarding: Forwarding) -> None:
        on = f", on monitor {forwarding.rule.monitor}" if forwarding.rule.monitor else ""
        self._say(f"{forwarding.device} drives {forwarding.target.name}{on}")

    def _activate(self, forwarding: Forwarding) -> bool:
        """Whether what happens from now on is the guest's."""
        if not self._aim(forwarding):
            return False
        try:
            forwarding.activate()
        except OSError as error:
            self._unplugged(forwarding, error)
            return False
        return True

    def _unplugged(self, forwarding: Forwarding, error: OSError) -> None:
        path = forwarding.device.path
        stamp = self._seen.get(path)
        if not self._remove(forwarding):
            return
        if error.errno == errno.ENODEV:
            self._say(f"{forwarding.device} is gone; {forwarding.target.name} waits for it")
        else:
            self._warn(f"{forwarding.device} cannot be read: {error.strerror}")
        if stamp is not None:
            self._seen[path] = stamp  # the same one would fail again, and again
        asyncio.get_running_loop().call_soon(self._look)  # another one may have its name already

    def _remove(self, forwarding: Forwarding) -> bool:
        """False where it was removed before."""
        path = forwarding.device.path
        if self._forwardings.get(path) is not forwarding:
            return False
        del self._forwardings[path]
        self._seen.pop(path, None)
        self._places.leave(forwarding.target.name)
        forwarding.close()
        return True

    # --- the next pad

    def _pressed(self, device: HostDevice) -> None:
        try:
            events = [timed.event for timed in device.read()]
        except OSError:
            self._stop_waiting(device.path).close()
            return
        if not any(event.type == Ev.EV_KEY and event.value and event.code in PAD_BUTTONS for event in events):
            return
        for rule in self._rules:
            if rule.by != NEXT_PAD:
                continue
            target = self._choose(rule, device, "gamepad")
            if target is not None:
                self._forward(self._stop_waiting(device.path), rule, target)
                return

    def _stop_waiting(self, path: Path) -> HostDevice:
        device = self._waiting.pop(path)
        self._seen.pop(path, None)
        asyncio.get_running_loop().remove_reader(device.fd)
        return device

    # --- the guest's monitors

    def _aim(self, forwarding: Forwarding) -> bool:
        """At the monitor that its rule names, if it names one. False where the guest has none such, as far as it has
        said."""
        number = forwarding.rule.monitor
        if not number or self._monitors is None:
            return True
        if self._monitors.layout is None:
            return False
        try:
            forwarding.aim(reach(self._monitors.layout, number))
        except UserError as error:
            self._warn(f"{error.message}: {forwarding.device} waits for it\n  hint: {error.hint}")
            return False
        return True

    def _rearranged(self) -> None:
        self._has_said_unknown = False
        for forwarding in list(self._forwardings.values()):
            if self._paused or not forwarding.rule.monitor:
                continue
            if forwarding.active:
                if not self._aim(forwarding):
                    forwarding.pause()
            elif self._activate(forwarding):
                self._say_what_it_drives(forwarding)

    def _unknown(self, error: SubosError) -> None:
        """Nobody says where they are, or no longer."""
        if not self._has_ended() and not self._has_said_unknown:
            self._has_said_unknown = True
            hint = f"\n  hint: {error.hint}" if error.hint else ""
            self._say(f"where the guest's monitors are is not known: {error.message}{hint}")

    # --- the chord, and the guest's side

    def _toggle(self) -> None:
        self._paused = not self._paused
        for forwarding in list(self._forwardings.values()):
            if self._paused:
                forwarding.pause()
            else:
                self._activate(forwarding)
        self._say(f"{'the host has' if self._paused else 'the guest has'} the devices; both Ctrl keys change that")

    def _unserved(self, forwarding: Forwarding, reason: str) -> None:
        """The guest's device is gone: another one may take its place, or it comes back."""
        self._remove(forwarding)
        self._orphans.add(forwarding.device.path)
        now = asyncio.get_running_loop().time()
        if now - self._unserved_at > CALM:
            self._tries = 0
        self._unserved_at = now
        if not self._has_ended():
            if self._tries == 0:
                self._warn(f"{forwarding.target.name}: {reason}")
            self._look_later()

    def _look_later(self) -> None:
        if self._tries < len(PATIENCE):
            asyncio.get_running_loop().call_later(PATIENCE[self._tries], self._look_for_orphans)
            self._tries += 1

    def _look_for_orphans(self) -> None:
        if self._end.done() or self._has_ended():
            return
        for path in self._orphans:
            self._seen.pop(path, None)
        self._look()
        if self._orphans:
            self._look_later()

    def _has_ended(self) -> bool:
        """Whether the VM is gone."""
        try:
            self._targets()
        except UserError as error:
            self._finish(error)
            return True
        return False

    def _finish(self, error: UserError) -> None:
        with contextlib.suppress(asyncio.InvalidStateError):
            self._end.set_exception(error)
