"""Which process serves a device: the table of defaults, a person's rules over it, and what cannot be."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from pathlib import Path

import pytest

from subos_devices.agent.worker_channels import WorkerChannels
from subos_devices.errors import UserError
from subos_devices.launcher.devices import _bound, plan
from subos_devices.registry import KINDS, load
from subos_devices.supervisor.process_models import TABLE, Model, Models, parse
from subos_devices.vhost_user.device import DeviceSpec

DEVICES = [("mouse", "mouse"), ("gamepad1", "gamepad"), ("src", "fs"), ("vsock", "vsock")]


def test_the_table_has_a_row_and_a_reason_for_each_kind() -> None:
    assert set(TABLE) == set(KINDS)
    assert all(row.why and row.default == Model() for row in TABLE.values())


def test_who_asks_the_supervisor_or_keeps_something_is_not_served_inline() -> None:
    """It would wait for itself."""
    for kind, row in TABLE.items():
        if load(kind).asks or load(kind).keeps:
            assert row.no_inline, kind


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("own", Model()),
        ("inline", Model("inline")),
        ("group:input", Model("group", "input")),
        ("own:sh -c 'a b'", Model("own", command=("/bin/sh", "-c", "a b"))),
        ("own:/bin/sh", Model("own", command=("/bin/sh",))),
    ],
)
def test_a_model_is_written_and_shown(text: str, model: Model) -> None:
    parsed = parse(text)
    assert parsed._replace(command=()) == model._replace(command=())
    assert parsed.command[1:] == model.command[1:]
    assert bool(parsed.command) == bool(model.command)
    assert parse(str(parsed)) == parsed


def test_a_program_is_known_by_its_whole_path() -> None:
    assert parse(f"own:{shlex.quote(sys.executable)} -P").command == (sys.executable, "-P")
    with pytest.raises(UserError, match="there is no program '\\./entropy'") as caught:
        parse("own:./entropy")
    assert "own:/whole/path" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Own",
        "group",
        "group:",
        "group:a b",
        "group:../x",
        f"group:{'a' * 33}",
        "inline:x",
        "own:",
        "own: ",
        "own:'",
    ],
)
def test_what_is_no_model_is_an_error_with_a_hint(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)
    assert caught.value.hint


@pytest.mark.parametrize("rule", ["", "mouse", "=own"])
def test_a_rule_names_a_device(rule: str) -> None:
    with pytest.raises(UserError, match="names no device"):
        Models([rule])


def test_a_name_is_stronger_than_a_kind_and_a_later_rule_than_an_earlier_one() -> None:
    models = Models(["gamepad=group:a", "gamepad1=inline", "mouse=inline", "mouse=own"])
    assert models.named("gamepad1", "gamepad") == Model("inline")
    assert models.named("gamepad2", "gamepad") == Model("group", "a")
    assert models.of(DeviceSpec("mouse", "mouse")) == Model()
    assert models.of(DeviceSpec("fs", "src")) == Model()
    assert models.of(DeviceSpec("my.module:Class", "mine")) == Model()


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("src=inline", "src cannot be inline: it takes on the guest's users"),
        ("fs=group:all", "src cannot be group:all: its jail is around one folder"),
        ("src=own:/bin/sh", "a file server of another program speaks to QEMU itself"),
        ("vsock=inline", "vsock cannot be inline: it asks the supervisor"),
    ],
)
def test_what_a_kind_cannot_have_is_said_with_the_reason(rule: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        Models([rule]).check(DEVICES, "auto")
    assert caught.value.hint == "leave it own, as it is by default"


def test_a_rule_for_what_is_no_device_names_the_nearest() -> None:
    with pytest.raises(UserError, match="'gamepad9', which is no device") as caught:
        Models(["gamepad9=own"]).check(DEVICES, "auto")
    assert caught.value.hint.startswith("did you mean gamepad")
    with pytest.raises(UserError) as caught:
        Models(["xyz=own"]).check(DEVICES, "auto")
    assert caught.value.hint == "there are mouse, gamepad1, src, vsock, and kinds of devices"
    Models(["pen=group:a", "my.module:Class=own"]).check(DEVICES, "auto")  # kinds that the VM has none of


def test_inline_has_no_sandbox_and_so_cannot_be_required_to_have_one() -> None:
    models = Models(["mouse=inline"])
    models.check(DEVICES, "auto")
    with pytest.raises(UserError, match="mouse is inline, where it has no sandbox") as caught:
        models.check(DEVICES, "require")
    assert "mouse=own" in caught.value.hint


def test_a_group_is_as_large_as_one_packet_s_descriptors() -> None:
    models = Models(["gamepad=group:pads", "rng=group:small"])
    pads = [(f"gamepad{number}", "gamepad") for number in range(43)]
    models.check([*pads[:42], ("rng", "rng")], "auto")
    with pytest.raises(UserError, match="43 devices are too many for the group pads: its process needs 258") as caught:
        models.check(pads, "auto")
    assert "two groups" in caught.value.hint


def test_no_kind_is_given_more_descriptors_than_its_row_says() -> None:
    """Of those that a group may have."""
    everything = plan(
        [],
        **dict.fromkeys(("mouse", "pointer", "keyboard", "touch", "pen", "rng", "vsock"), True),
        gamepad=["dualsense:hotplug"],
    )
    with tempfile.TemporaryDirectory() as folder:
        for device in everything:
            channels = {device.channel: Channels()} if device.channel else {}
            spec, listener = _bound(Path(folder), device, channels, lambda _name: os.eventfd(0))
            listener.close()
            for fd in spec.fds.values():
                os.close(fd)
            assert len(spec.fds) <= TABLE[device.kind].descriptors
            assert len(spec.fds) == TABLE[device.kind].descriptors or device.beside


class Channels(WorkerChannels):
    def __init__(self) -> None: ...

    def open(self, name: str) -> int:
        return os.eventfd(0)
