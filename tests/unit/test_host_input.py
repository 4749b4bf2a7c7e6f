"""What `input VM attach` believes of the VM's devices, while it runs and when it has gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from subos_devices import runtime
from subos_devices.commands.host_input import VmEnded, Where
from subos_devices.errors import UserError
from subos_devices.supervisor import control


class Vm:
    """What the VM says; None where it says nothing."""

    def __init__(self) -> None:
        self.running = True
        self.rows: list[dict[str, Any]] | None = []

    def has(self, folder: Path, **kinds: str) -> None:
        self.rows = [{"name": name, "kind": kind, "options": {}} for name, kind in kinds.items()]
        for name in kinds:
            (folder / f"{name}.driver.sock").touch()

    def folder(self, name: str, at: Path) -> Path:
        if not self.running:
            raise UserError(f"no VM called {name!r} is running")
        return at

    def ask(self, name: str, operation: str, *, timeout: float) -> dict[str, Any]:
        if self.rows is None:
            raise UserError(f"no VM called {name!r} answers")
        return {"devices": self.rows}


@pytest.fixture
def vm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Vm:
    made = Vm()
    monkeypatch.setattr(runtime, "is_running", lambda name: made.running)
    monkeypatch.setattr(runtime, "running_folder", lambda name: made.folder(name, tmp_path))
    monkeypatch.setattr(control, "ask", made.ask)
    return made


def names(targets: Any) -> list[tuple[str, str]]:
    return [(target.name, target.kind) for target in targets]


def test_input_devices_with_a_socket_are_listed(vm: Vm, tmp_path: Path) -> None:
    vm.has(tmp_path, mouse="mouse", pad="gamepad", rng="rng")
    (tmp_path / "pad.driver.sock").unlink()
    assert names(Where("work", None, "").targets("")()) == [("mouse", "mouse")]


def test_one_device_may_be_named(vm: Vm, tmp_path: Path) -> None:
    vm.has(tmp_path, mouse="mouse", keyboard="keyboard")
    assert names(Where("work/keyboard", None, "").targets("")()) == [("keyboard", "keyboard")]
    with pytest.raises(UserError, match="has no such input device"):
        Where("work/pen", None, "").targets("")()


def test_who_has_no_vm_has_no_monitors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no monitors are known"):
        Where("", tmp_path / "socket", "").layouts()


def test_a_vm_that_is_busy_has_what_it_had_and_one_that_changes_its_mouse_has_none_for_a_moment(
    vm: Vm, tmp_path: Path
) -> None:
    vm.has(tmp_path, mouse="mouse")
    listed = Where("work", None, "").targets("")
    before = listed()
    vm.rows = None
    assert listed() == before
    vm.rows = []
    assert listed() == []
    vm.has(tmp_path, pointer="pointer")
    assert names(listed()) == [("pointer", "pointer")]


def test_a_vm_that_ends_was_there_and_one_that_never_was_is_an_error(vm: Vm, tmp_path: Path) -> None:
    vm.has(tmp_path, mouse="mouse")
    listed = Where("work", None, "").targets("")
    listed()
    vm.running = False
    with pytest.raises(VmEnded, match="has ended"):
        listed()
    with pytest.raises(UserError, match="no VM called 'other' is running"):
        Where("other", None, "").targets("")()
