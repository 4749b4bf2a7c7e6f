"""A booted default guest for tests: a plain, synchronous face on the VM that lives on a thread's event loop."""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import os
import shutil
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from subos_devices.config import resolve
from subos_devices.errors import GuestLost, SubosError
from subos_devices.input import script
from subos_devices.input.actions import Action
from subos_devices.launcher import devices
from subos_devices.launcher.control import (
    CommandNotStarted,
    CommandTimeout,
    Completed,
    ControlError,
    GuestControl,
    agent_command,
)
from subos_devices.launcher.guest_run import Mode
from subos_devices.launcher.settings import SETTINGS
from subos_devices.launcher.vm import RunningVm, VmPlan, start
from subos_devices.supervisor.holder import Holder

from .steps import step
from .waiting import eventually

BOOT_TIMEOUT = 120.0  # seconds; 6 under emulation on an idle machine
MAX_BOOTS = 3  # in one session; a guest that is lost again and again would only take time
GAMEPADS = ("xbox360", "dualsense:no-rumble", "dualshock4:uinput", "switchpro:hotplug", "generic:hotplug:no-rumble")
CACHES = ("always", "metadata", "never")
INSIDE = Path(__file__).with_name("inside")

T = TypeVar("T")


class Guest:
    """The guest, with a share that it may write (`share`), one that it may not (`read_only`), one in which locks hold
    on the host (`locked`), one for each other cache mode (`caches`), a mouse and an rng, a touch screen, a pen, and
    three gamepads, of which the agent has the first and the third; and two that come and go, of which it has the first.

    They lie under the same path on both sides. What goes wrong with the VM itself is raised as GuestLost, and from
    then on `lost` says why.
    """

    def __init__(self, plan: VmPlan, holder: Holder, share: Path, read_only: Path, locked: Path) -> None:
        self.share = share
        self.locked = locked
        self.read_only = read_only
        self.caches: dict[str, Path] = {}
        self.lost = ""
        self.vm: RunningVm
        self._control: GuestControl
        self._loop: asyncio.AbstractEventLoop
        self._end: Callable[[], None]
        self._booted: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live(plan, holder)), name="guest")

    @classmethod
    def boot(cls, name: str, folder: Path, gamepads: Sequence[str] = GAMEPADS) -> Guest:
        """Boots a guest called `name`, whose shares are made in `folder`. Raises GuestLost, UserError."""
        share, read_only, locked = folder / "share", folder / "read-only", folder / "locked"
        for path in (share, read_only, locked):
            path.mkdir(parents=True)
        shutil.copytree(INSIDE, share / ".inside", ignore=shutil.ignore_patterns("__pycache__"))
        shares = [f"{share}:rw", f"{read_only}:readonly:ro"]
        chosen = argparse.Namespace(name=name, share=shares, touch=True, pen=True, gamepad=list(gamepads))
        plan = VmPlan.from_settings(resolve(chosen, SETTINGS, None))
        plan = replace(plan, common={"locks": "host"}).sharing(f"{locked}:locked:rw")
        caches = {mode: folder / mode for mode in CACHES}
        for mode, path in caches.items():
            path.mkdir()
            plan = replace(plan, common={"cache": mode}).sharing(f"{path}:{mode}:rw")
        guest = cls(plan, Holder.start(), share, read_only, locked)
        guest.caches = caches
        guest._thread.start()
        try:
            guest._booted.result()
        except ControlError as error:
            raise guest._is_lost(f"it did not boot: {error.message}") from error
        finally:
            if guest._booted.exception():
                guest._thread.join()
        return guest

    async def _live(self, plan: VmPlan, holder: Holder) -> None:
        self._loop, end = asyncio.get_running_loop(), asyncio.Event()
        self._end = end.set
        command, variables = agent_command()
        try:
            async with start(plan, holder, command=command, mode=Mode.CONTROL, environment=variables) as self.vm:
                self._control = GuestControl(self.vm.machine)
                await self._control.wait_booted(BOOT_TIMEOUT)
                self._booted.set_result(None)
                await end.wait()
                await self._control.close()
        except BaseException as error:
            if self._booted.done():
                raise
            self._booted.set_exception(error)

    def close(self) -> None:
        """Ends the VM."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end)
        self._thread.join()

    def _is_lost(self, reason: str) -> GuestLost:
        self.lost = reason
        return GuestLost(f"the guest was lost: {reason}")

    # --- commands in the guest

    def begin(
        self, argv: Sequence[str], *, stdin: bytes = b"", cwd: str = "/", timeout: float = 60
    ) -> concurrent.futures.Future[Completed]:
        """Starts a command, and returns what it will have printed. The guest runs one command at a time."""
        return asyncio.run_coroutine_threadsafe(self._control.run(list(argv), stdin, cwd, timeout=timeout), self._loop)

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", cwd: str = "/", timeout: float = 60) -> Completed:
        """Runs a command to its end. Raises GuestLost, CommandTimeout, CommandNotStarted."""
        return self.finish(self.begin(argv, stdin=stdin, cwd=cwd, timeout=timeout))

    def finish(self, begun: concurrent.futures.Future[Completed]) -> Completed:
        """The result of `begin`."""
        try:
            return begun.result()
        except (CommandNotStarted, CommandTimeout):
            raise
        except GuestLost as error:
            self.lost = error.message
            raise
        except ControlError as error:
            raise self._is_lost(error.message) from error

    def check(self, *argv: str, cwd: str = "/", timeout: float = 60) -> str:
        """What a command prints. An exit status other than 0 fails the test with what it said."""
        done = self.run(argv, cwd=cwd, timeout=timeout)
        said = (done.stdout + done.stderr).decode(errors="replace")
        assert done.status == 0, f"{' '.join(argv)} in the guest: exit status {done.status}\n{said}"
        return done.stdout.decode(errors="surrogateescape")

    def inside(self, program: str, *arguments: str, timeout: float = 60) -> str:
        """What a program of `support/inside` prints, run by this interpreter in the guest."""
        return self.check(*self.inside_command(program, *arguments), timeout=timeout)

    def inside_command(self, program: str, *arguments: str) -> list[str]:
        """-S: no `site`, which is half of the start under emulation."""
        return [sys.executable, "-S", str(self.share / ".inside" / program), *arguments]

    # --- the VM

    def wait_for_agent(self) -> None:
        """The agent comes a little later than the control channel."""
        eventually(lambda: self.vm.agent.status(), timeout=60)

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Runs a coroutine function where the VM lives."""

        async def run() -> T:
            return await function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(30)

    def play(self, actions: Sequence[Action]) -> None:
        """Plays actions on the mouse. A worker that is being replaced is waited for."""
        path = devices.driver_path(self.vm.folder, "mouse")

        def played() -> bool:
            try:
                script.play(path, actions)
            except SubosError:
                return False
            return True

        eventually(played)

    def status(self, name: str) -> dict[str, Any]:
        """What `subos-devices status` shows of the device `name`."""
        lines, _memory = self.call(self.vm.supervisor.status_and_memory)
        return next(line for line in lines if line["name"] == name)

    def device_of(self, share: str) -> str:
        """The name of the device that serves a share."""
        return next(name for name in self.vm.supervisor.devices if name.endswith(share))

    def worker(self, name: str) -> int:
        """The process that serves the device `name` now; waits for one."""
        server = self.vm.supervisor.devices[name]
        return eventually(lambda: server.pid)

    def kill_worker(self, name: str) -> None:
        """SIGKILL, and the next one is up."""
        server = self.vm.supervisor.devices[name]
        pid, restarts = self.worker(name), server.restarts
        step(f"kill process {pid}, which serves {name}")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: server.restarts == restarts + 1 and server.pid)
        assert self.worker(name) != pid


class GuestKeeper:
    """Boots the guest when the first test asks for it, and again when it was lost."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._guest: Guest | None = None
        self._boots = 0

    def get(self) -> Guest:
        """Raises GuestLost."""
        if self._guest is not None and self._guest.lost:
            self.close()
        if self._guest is None:
            if self._boots == MAX_BOOTS:
                raise GuestLost(f"{MAX_BOOTS} guests were lost before this test began")
            self._boots += 1
            self._guest = Guest.boot(f"test-{os.getpid()}", self._folder / str(self._boots))
        return self._guest

    def close(self) -> None:
        if self._guest is not None:
            self._guest.close()
            self._guest = None
