"""Closes the jail around a worker, before its device is built. Each step needs what the next ones take away.

A keeper's jail is closed around the keeper, in the same way, and `narrow` then takes from each worker what only the
keeper needs.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable
from typing import NamedTuple

from ...errors import UserError
from ...vhost_user.device import DeviceSpec
from . import landlock, namespaces, policies, privileges, seccomp
from .policies import Choice, Policy
from .program import Program

SECCOMP, SECCOMP_LOG = "seccomp", "seccomp (log)"  # among the layers of a sandbox
HINT = "subos-devices doctor says what this host lacks; --sandbox auto goes without it"


class Sandbox(NamedTuple):
    """What holds a worker: the layers that are on, and why each of the others is not."""

    on: tuple[str, ...] = ()
    missing: tuple[tuple[str, str], ...] = ()
    """What its policy asks for and this host does not give."""
    without: tuple[tuple[str, str], ...] = ()
    """What its policy leaves out."""

    def describe(self) -> dict[str, object]:
        return {"on": list(self.on), "missing": dict(self.missing), "without": dict(self.without)}


OFF = Sandbox(without=(("all", "--sandbox off"),))


class Cell(NamedTuple):
    """What the fork has given already."""

    row: Policy
    choice: Choice
    user: int
    group: int
    made: tuple[str, ...] = ()
    """Namespaces."""
    why_not: str = ""
    keeper: bool = False


def born(
    spec: DeviceSpec, choice: Choice, row: Policy | None = None, *, keeper: bool = False
) -> tuple[int, Cell | None]:
    """Forks a worker for `spec`, or its `keeper`, by another `row` than its own if one is given: the pid (0 in the
    child), and there what `close_jail` needs; None where nothing is asked for. Raises OSError."""
    if choice.mode == "off":
        return os.fork(), None
    user, group = os.geteuid(), os.getegid()
    row = row or policies.policy(spec, choice, root=user == 0)
    cell = Cell(row, choice, user, group, keeper=keeper)
    with contextlib.suppress(ValueError, KeyError):  # which the child notes
        for each in {keeper, False}:
            _filter(cell, keeper=each)  # compiled here, once: it would cost each child half a megabyte of its own
    pid, made, why_not = namespaces.fork_into(row.namespaces)
    return pid, cell._replace(made=made, why_not=why_not)


def close_jail(
    spec: DeviceSpec, cell: Cell, parent: int, program: Program | None = None, file: int = -1
) -> tuple[DeviceSpec, Sandbox]:
    """Takes from this process what its row does not name. Returns the spec as the device finds it from here.

    `parent` is a pidfd of the parent's. With a `program` its `file`, a descriptor, can still be executed. Raises
    UserError where something is missing and the choice is `require`, where this process has threads already, and for
    a grant that is none.
    """
    if len(os.listdir("/proc/self/task")) > 1:
        raise UserError(f"{spec.kind} starts threads while it is loaded", "let it start them in Device.start")
    row, steps = policies.located(cell.row), _Steps()
    root = cell.user == 0
    _close_streams()
    for name in row.namespaces:
        steps.note(f"{name} namespace", name in cell.made, cell.why_not)
    if "user" in cell.made:
        steps.take("user map", lambda: namespaces.map_user(cell.user, cell.group), quiet=True)
    if "uts" in cell.made:
        namespaces.forget_host_name()
    moved = False
    if "mount" in row.namespaces:
        places = {place: (path, writable) for place, path, writable in row.places}
        moved = "mount" in cell.made and steps.take(
            "root", lambda: namespaces.enter_root(places, proc=row.proc, programs=program.sees if program else ())
        )
    paths = {place if moved else path: writable for place, path, writable in row.places}
    if root and row.nobody:
        steps.take("nobody", privileges.become_nobody)
    steps.take("limits", lambda: privileges.limit(_limits(row, cell)))
    kept = row.capabilities if root else ()
    steps.take("capabilities", lambda: privileges.keep_capabilities(kept))
    steps.take("no new privileges", privileges.take_no_new_privileges)
    if program is None:
        steps.take("undumpable", privileges.hide_memory)
    privileges.die_with(parent)
    os.close(parent)
    reach = None if row.moved and moved else paths
    run: tuple[str | int, ...] = (file, *program.sees) if program else ()
    steps.take("Landlock", lambda: landlock.restrict(reach, network=row.network, programs=run))
    os.environ.clear()
    execution = None if program is None else (file, bool(program.sees))
    name = SECCOMP if cell.choice.seccomp == "kill" else SECCOMP_LOG
    steps.take(name, lambda: _hold(_filter(cell, keeper=cell.keeper, execution=execution)))
    without = row.without + (program.without if program else ())
    sandbox = Sandbox(tuple(steps.on), tuple(steps.missing.items()), without)
    if sandbox.missing and cell.choice.mode == "require":
        name, why = sandbox.missing[0]
        raise UserError(f"{spec.name}: no sandbox of all layers here: {name}: {why}", HINT)
    if moved:
        spec = spec._replace(options={**spec.options, **dict(row.moved)})
    return spec, sandbox


def narrow(cell: Cell, sandbox: Sandbox) -> None:
    """In a keeper's worker: the system calls of its row and no others, where its keeper is held to some. Raises
    OSError."""
    if {SECCOMP, SECCOMP_LOG} & set(sandbox.on):
        _hold(_filter(cell, keeper=False))


def _limits(row: Policy, cell: Cell) -> dict[str, int]:
    return policies.limits(row, own_namespace="user" in cell.made, keeper=cell.keeper)


def _filter(cell: Cell, *, keeper: bool, execution: tuple[int, bool] | None = None) -> bytes:
    """Of a worker, of a `keeper`, or of a program that is executed: its descriptor, and whether it takes libraries.
    Raises ValueError where there is none."""
    calls, threads = tuple(policies.system_calls(cell.row)), bool(cell.row.threads)
    return _compiled(calls, threads, keeper, execution, kill=cell.choice.seccomp == "kill")


@functools.lru_cache
def _compiled(
    calls: tuple[str, ...], threads: bool, keeper: bool, execution: tuple[int, bool] | None, *, kill: bool
) -> bytes:
    rules = seccomp.rules(calls, pid=seccomp.ANYBODY)
    if threads:
        rules |= seccomp.threads()
    if keeper:
        rules = seccomp.keepers(rules)
    if execution is not None:
        rules |= seccomp.execution(execution[0], libraries=execution[1])
    return seccomp.compiled(rules, kill=kill)


def _hold(code: bytes) -> None:
    seccomp.install(seccomp.addressed(code, os.getpid()))


def _close_streams() -> None:
    """A terminal can be read from, and steered by what is written."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)
    os.close(null)


class _Steps:
    """What was tried, and how it went."""

    def __init__(self) -> None:
        self.on: list[str] = []
        self.missing: dict[str, str] = {}

    def note(self, name: str, done: bool, why: str = "") -> None:
        if done:
            self.on.append(name)
        else:
            self.missing[name] = why or "refused"

    def take(self, name: str, step: Callable[[], None], *, quiet: bool = False) -> bool:
        """Does one step; one that the host refuses is noted. `quiet` ones are part of another."""
        try:
            step()
        except (OSError, ValueError, ctypes.ArgumentError) as error:
            self.missing[name] = str(error.strerror or error) if isinstance(error, OSError) else str(error)
            return False
        if not quiet:
            self.on.append(name)
        return True
