"""What a hostile worker cannot do, by kind of device and by who starts it: the table in host_devices/README.md."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import subos_devices
from subos_devices.registry import KINDS
from subos_devices.supervisor.sandbox.policies import AUTO, Choice
from subos_devices.supervisor.sandbox.report import try_out
from subos_devices.vhost_user.device import DeviceSpec
from support.hostile import ATTACKS, KILLED, POSSIBLE, Scene, outcome, scene
from support.ordinary import open_folder

README = Path(subos_devices.__file__).parents[1] / "README.md"
TABLE = re.compile(r"(?<=<!-- the hostile worker -->\n)(.*?)(?=<!-- end -->)", re.DOTALL)
ONLY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be both root and an ordinary user")

Row = tuple[DeviceSpec, bool]


@pytest.fixture
def where() -> Iterator[Scene]:
    with open_folder() as folder, scene(folder) as made:
        yield made


def columns(where: Scene) -> dict[str, Row]:
    """Whose workers: what is on top of each column. Kinds with one policy are one column."""
    share = {"shared_dir": str(where.share)}
    kinds = {
        "input, rng": DeviceSpec("rng", "rng"),
        "vsock": DeviceSpec("vsock", "vsock", {"uds_path": str(where.folder / "vsock")}),
        "fs": DeviceSpec("fs", "fs", {**share, "readonly": False}),
        "fs, read-only": DeviceSpec("fs", "fs", {**share, "readonly": True}),
        "yours": DeviceSpec("package.module:Class", "yours"),
    }
    users = {"root": False, "user": True} if os.geteuid() == 0 else {"user": False}
    return {f"{kind}: {user}": (spec, nobody) for kind, spec in kinds.items() for user, nobody in users.items()}


KEEPERS = ("vsock", "fs", "fs, read-only")
EXCEPTIONS = {
    ("fs: user", "see that a file is there, and its size"),
    ("fs, read-only: user", "see that a file is there, and its size"),
    ("fs: user", "change a file's mode outside them"),
    *((f"{kind}: {user}", "open 2000 descriptors") for kind in KEEPERS for user in ("root", "user")),
}
"""What is possible: where the only layer that knows of paths is Landlock, what that does not know; and what a device is
there for, up to the limit that its user has for one process."""


@ONLY_ROOT
def test_the_table_of_what_a_hostile_worker_cannot_do(where: Scene) -> None:
    found = {
        (column, what): outcome(spec, AUTO, where, what, nobody=nobody)
        for column, (spec, nobody) in columns(where).items()
        for what in ATTACKS
    }
    possible = {cell for cell, how in found.items() if how == POSSIBLE}
    missing = {kind: try_out(kind)["missing"] for kind in ("rng", "fs")}
    if any(missing.values()):
        pytest.skip(
            f"this host lacks layers, so that its table is another one: {missing}; possible: {sorted(possible)}"
        )
    assert possible == EXCEPTIONS
    table = drawn(found, list(columns(where)))
    if os.environ.get("SUBOS_WRITE_TABLE"):
        README.write_text(TABLE.sub(lambda match: table, README.read_text()))
    (written,) = TABLE.findall(README.read_text())
    assert written == table, "the table is stale: SUBOS_WRITE_TABLE=1 ./subos test tests/integration/test_sandbox.py"


def drawn(found: dict[tuple[str, str], str], tops: list[str]) -> str:
    lines = [f"| | {' | '.join(tops)} |", "|---" * (len(tops) + 1) + "|"]
    lines += [f"| {what} | {' | '.join(bold(found[top, what]) for top in tops)} |" for what in ATTACKS]
    return "\n".join(lines) + "\n"


def bold(how: str) -> str:
    return f"**{how}**" if how == POSSIBLE else how


@ONLY_ROOT
@pytest.mark.parametrize("what", ATTACKS)
def test_without_a_sandbox_it_is_possible(where: Scene, what: str) -> None:
    """Else the table would say nothing."""
    spec = DeviceSpec("fs", "fs", {"shared_dir": str(where.share)}) if "keeper" in what else DeviceSpec("rng", "rng")
    assert outcome(spec, Choice("off"), where, what, nobody=False) == POSSIBLE


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_may_run_a_program(where: Scene, kind: str) -> None:
    options = {"shared_dir": str(where.share)} if kind == "fs" else {}
    assert outcome(DeviceSpec(kind, kind, options), AUTO, where, "execute a program", nobody=False) == KILLED


def test_a_device_of_yours_may_do_what_it_was_allowed(where: Scene) -> None:
    spec = DeviceSpec("package.module:Class", "yours")
    for what, grant in (
        ("read a file outside its paths", ("read", str(where.folder))),
        ("write to a file outside them", ("write", str(where.secret))),
        ("make a file outside them", ("write", str(where.folder))),
        ("open an Internet socket", ("net", "")),
        ("reach an abstract Unix socket", ("net", "")),
    ):
        expected = POSSIBLE if "abstract" not in what else "refused"
        assert outcome(spec, Choice(grants=(grant,)), where, what, nobody=False) == expected, what
        assert outcome(spec, AUTO, where, what, nobody=False) != POSSIBLE, what
