from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from subos_devices.errors import UserError
from subos_devices.launcher.cache import cache_folder, cached_file


def test_who_has_no_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_knows(_uid: int) -> None:
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody_knows)
    with pytest.raises(UserError, match="no home folder") as caught:
        cache_folder()
    assert "XDG_CACHE_HOME" in caught.value.hint


def test_a_cache_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be made: Not a directory") as caught:
        cache_folder("kernels")
    assert "XDG_CACHE_HOME" in caught.value.hint


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent cannot be written: ") as caught:
        cached_file(tmp_path / "absent" / "name", bytes)
    assert "XDG_CACHE_HOME" in caught.value.hint
