from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from subos_devices import cli
from subos_devices.commands import status


def failing(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def run(_args: argparse.Namespace) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "/some/file"), "subos-devices: /some/file: Permission denied\n"),
        (OSError(12, "Cannot allocate memory"), "subos-devices: Cannot allocate memory\n"),
        (OSError("said otherwise"), "subos-devices: said otherwise\n"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, said: str
) -> None:
    monkeypatch.setattr(status, "run", failing(error))
    assert cli.main(["status"]) == 1
    assert capsys.readouterr().err == said


def test_debug_shows_the_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "run", failing(PermissionError(13, "Permission denied", "/some/file")))
    with pytest.raises(PermissionError):
        cli.main(["--debug", "status"])


@pytest.mark.parametrize(("error", "code"), [(BrokenPipeError(), 141), (KeyboardInterrupt(), 130)])
def test_ends_that_need_no_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    monkeypatch.setattr(status, "run", failing(error))
    assert cli.main(["status"]) == code
    assert capsys.readouterr().err == ""
