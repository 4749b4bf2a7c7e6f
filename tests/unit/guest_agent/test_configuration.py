"""/etc/subos/agent.conf, and the commands that write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from subos_agent import cli, configuration
from subos_agent.configuration import Configuration
from subos_agent.service import Service
from subos_protocol.gamepad import OPERATION


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "subos" / "agent.conf"


def test_without_a_file_exec_is_off(path: Path) -> None:
    assert Configuration.load(path) == Configuration(exec=False, clipboard=True)


def test_what_is_saved_is_loaded(path: Path) -> None:
    for exec_, clipboard in ((True, False), (False, True)):
        wanted = Configuration(exec=exec_, clipboard=clipboard)
        wanted.save(path)
        assert Configuration.load(path) == wanted
    assert [each.name for each in path.parent.iterdir()] == ["agent.conf"]


@pytest.mark.parametrize("word", ["yes", "on", "true", "1", "Yes"])
def test_words_for_yes(path: Path, word: str) -> None:
    path.parent.mkdir()
    path.write_text(f"[agent]\nexec = {word}\n")
    assert Configuration.load(path).exec


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[agent]\nexce = yes\n", "unknown setting exce; there are clipboard, exec, gamepads"),
        ("[agents]\nexec = yes\n", "unknown section [agents]; there is [agent]"),
        ("[agent]\nexec = perhaps\n", "Not a boolean: perhaps"),
        ("[agent]\nexec\n", "contains parsing errors"),
        ("exec = yes\n", "no section headers"),
        ("[agent]\nexec = %(x)s\n", "Bad value substitution"),
        ("[agent]\nexec = yes\nexec = no\n", "already exists"),
        ("\udcff", "decode"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_file(path: Path, text: str, said: str) -> None:
    path.parent.mkdir()
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError) as caught:
        Configuration.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert said in message
    assert "\n" not in message


def test_allow_and_deny(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(configuration.Configuration.load.__func__, "__defaults__", (path,))
    monkeypatch.setattr(configuration.Configuration.save, "__defaults__", (path,))
    assert cli.main(["allow", "exec"]) == 0
    assert Configuration.load(path).exec
    assert cli.main(["deny", "exec"]) == 0
    assert not Configuration.load(path).exec
    assert "exec is off when the service starts next" in capsys.readouterr().out
    path.write_text("[agent]\nx = y\n")
    assert cli.main(["allow", "exec"]) == 1
    assert capsys.readouterr().err == f"subos-agent: {path}: unknown setting x; there are clipboard, exec, gamepads\n"


def test_gamepads_may_be_left_to_virtio_input(path: Path) -> None:
    assert OPERATION in Service(Configuration()).handlers
    assert OPERATION not in Service(Configuration(gamepads=False)).handlers
