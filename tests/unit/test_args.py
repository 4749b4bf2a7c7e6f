"""`subos-devices args`: what it prints is what `serve` and QEMU take."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from subos_devices import cli


def commands(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, list[str]]:
    """The `serve` of each kind."""
    assert cli.main(["args", "--json", *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)["serve"]
    return {command[2]: command for command in printed}


def test_the_process_of_each_device_is_passed_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = ["rng=own:/bin/sh -c 'a b'", "mouse=own", "pen=inline"]
    flags = [word for rule in rules for word in ("--process", rule)]
    found = commands(capsys, "--share", str(tmp_path), "--mouse", "--pen", "--rng", *flags)
    assert "--process" not in found["fs"] + found["mouse"]
    assert found["pen"][-2:] == ["--process", "inline"]
    assert found["rng"][-2] == "--process"
    assert shlex.split(found["rng"][-1].removeprefix("own:")) == ["/bin/sh", "-c", "a b"]


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("rng=group:small", "rng cannot be group:small here"),
        ("fs=inline", "cannot be inline: it takes on the guest's users"),
        ("mousse=own", "'mousse', which is no device"),
        ("rng=thread", "there is no process model 'thread'"),
        ("rng", "names no device"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rule: str, says: str
) -> None:
    assert cli.main(["args", "--share", str(tmp_path), "--mouse", "--rng", "--process", rule]) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert "hint: " in printed.err
    assert not printed.out
