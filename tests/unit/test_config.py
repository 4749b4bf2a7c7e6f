"""Settings from a file: paths are meant from where the file is."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from subos_devices.config import resolve
from subos_devices.errors import UserError
from subos_devices.launcher.settings import SETTINGS, wanted_devices
from subos_devices.launcher.shares import Share, parse_shares


def test_shares_in_a_file_are_relative_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, beside, elsewhere = (tmp_path / name for name in ("home", "beside", "elsewhere"))
    for folder in (home / "docs", beside / "src", elsewhere):
        folder.mkdir(parents=True)
    (beside / "vm.toml").write_text(
        f'share = ["src", "~/docs:docs:ro", "~:home", ".:here", "{elsewhere}"]\nimage = "~/disk"\nmodules = "lib"\n'
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(elsewhere)
    settings = resolve(argparse.Namespace(), SETTINGS, Path("../beside/vm.toml"))
    assert parse_shares(settings.share) == [
        Share(beside / "src", "share0-src"),
        Share(home / "docs", "docs", read_only=True),
        Share(home, "home"),
        Share(beside, "here"),
        Share(elsewhere, "share4-elsewhere"),
    ]
    assert settings.image == home / "disk"
    assert settings.modules == Path("../beside/lib")


def test_gamepads_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "vm.toml").write_text('gamepad = ["xbox360", "switchpro"]\ntouch = true\nmouse = false\n')
    wanted = wanted_devices(resolve(argparse.Namespace(), SETTINGS, tmp_path / "vm.toml"))
    assert [name for name, chosen in wanted.items() if chosen] == ["keyboard", "touch", "rng", "vsock", "gamepad"]
    assert wanted["gamepad"] == ["xbox360", "switchpro"]


def test_shares_of_the_flags_are_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "vm.toml").write_text('share = ["src"]\nname = "work"\n')
    settings = resolve(argparse.Namespace(share=["here:tag"]), SETTINGS, tmp_path / "vm.toml")
    assert (settings.share, settings.name) == (["here:tag"], "work")


def test_tables_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "vm.toml").write_text('[[input]]\ndevice = "*pad*"\n[[input]]\ndevice = "next-pad"\ngrab = true\n')
    settings = resolve(argparse.Namespace(), SETTINGS, tmp_path / "vm.toml")
    assert settings.input == [{"device": "*pad*"}, {"device": "next-pad", "grab": True}]
    assert resolve(argparse.Namespace(), SETTINGS, None).input == []


@pytest.mark.parametrize("text", ['input = "pad"', 'input = ["pad"]', '[input]\ndevice = "pad"'])
def test_what_should_be_tables(tmp_path: Path, text: str) -> None:
    (tmp_path / "vm.toml").write_text(text)
    with pytest.raises(UserError, match=r"input must be a list of tables, \[\[input\]\], not"):
        resolve(argparse.Namespace(), SETTINGS, tmp_path / "vm.toml")
