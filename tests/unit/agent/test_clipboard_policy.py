"""Rules of what may pass, and the log of what has."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_devices.agent.clipboard import audit
from subos_devices.agent.clipboard.policy import (
    ACTIONS,
    DEFAULT,
    DEFAULT_LIMIT,
    DIRECTIONS,
    FILES,
    TYPES,
    Rules,
    type_of,
)
from subos_devices.errors import UserError

MIMES = {"text": "text/plain;charset=utf-8", "html": "text/html", "image": "image/png", "files": FILES, "other": "a/b"}


def test_the_default() -> None:
    rules = Rules.parse([])
    for way in DIRECTIONS:
        assert {kind: rules.action(way, mime) for kind, mime in MIMES.items()} == DEFAULT
    assert {rules.limit(mime) for mime in MIMES.values()} == {DEFAULT_LIMIT}


def test_later_rules_win_and_off_is_off() -> None:
    rules = Rules.parse(["both=deny", "to-guest.image=allow", "from-guest.html=ask", "limit=1M", "limit.image=64k"])
    assert rules.action("to-guest", "image/png") == "allow"
    assert rules.action("from-guest", "image/png") == "deny"
    assert rules.action("from-guest", "text/rtf") == "ask"
    assert (rules.limit("image/x"), rules.limit("text/plain")) == (64 << 10, 1 << 20)
    rules.apply("off")
    assert {rules.action(way, mime) for way in DIRECTIONS for mime in MIMES.values()} == {"deny"}
    rules.apply("on")
    assert rules.action("to-guest", "image/png") == "allow"


def test_text_only() -> None:
    rules = Rules.parse(["to-guest=text-only"])
    assert {kind for kind, mime in MIMES.items() if rules.action("to-guest", mime) == "allow"} == {"text"}
    assert rules.action("from-guest", "text/html") == "allow"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("", "no rule"),
        ("to-gest=deny", "no rule"),
        ("both.pictures=deny", "no rule"),
        ("both.text", "no rule"),
        ("both=maybe", "no action"),
        ("both.text=text-only", "no action"),
        ("limit=many", "no size"),
        ("limit=-1", "no size"),
        ("limit.text=1T", "no size"),
    ],
)
def test_what_is_no_rule(rule: str, said: str) -> None:
    rules = Rules()
    before = rules.table()
    with pytest.raises(UserError, match=said) as error:
        rules.apply(rule)
    assert error.value.hint
    assert rules.table() == before


@given(st.text(max_size=40))
def test_any_text_is_a_rule_or_an_error_for_people(text: str) -> None:
    rules = Rules()
    before = rules.table()
    try:
        rules.apply(text)
    except UserError:
        assert rules.table() == before


@given(st.lists(st.tuples(st.sampled_from(DIRECTIONS), st.sampled_from(TYPES), st.sampled_from(ACTIONS)), max_size=30))
def test_each_type_has_what_was_said_last(rules: list[tuple[str, str, str]]) -> None:
    parsed = Rules.parse([f"{way}.{kind}={action}" for way, kind, action in rules])
    for way in DIRECTIONS:
        for kind, mime in MIMES.items():
            said = [action for where, of, action in rules if (where, of) == (way, kind)]
            assert parsed.action(way, mime) == (said[-1] if said else DEFAULT[kind])


@given(st.text(max_size=300))
def test_every_name_has_a_type(mime: str) -> None:
    assert type_of(mime) in TYPES


def test_types_do_not_depend_on_case_or_parameters() -> None:
    assert type_of("TEXT/HTML; charset=x") == "html"
    assert type_of("Image/PNG") == "image"
    assert type_of("text/plain-but-other") == "other"
    assert type_of(FILES.upper()) == "files"


# --- the log


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "subos" / "clipboard.log"


def test_a_line_for_what_has_passed(log: Path) -> None:
    audit.record("vm\n", "to-guest", "text/plain", 3, "ab", True)
    audit.record("vm", "from-guest", "image/png", 4, "cd", False)
    first, second = map(json.loads, log.read_text().splitlines())
    assert set(first) == {"time", "vm", "direction", "type", "size", "sha256", "complete"}
    assert (first["vm"], first["size"], first["complete"]) == ("vm\n", 3, True)
    assert (second["direction"], second["sha256"], second["complete"]) == ("from-guest", "cd", False)
    assert first["time"].endswith("+00:00")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700


def test_a_full_log_is_put_aside(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_SIZE", 500)
    for turn in range(10):
        audit.record("vm", "to-guest", "text/plain", turn, "ab", True)
    assert {path.name for path in log.parent.iterdir()} <= {"clipboard.log", "clipboard.log.1"}
    kept = log.with_name("clipboard.log.1").read_text()
    assert len(kept) < 700
    assert stat.S_IMODE(log.with_name("clipboard.log.1").stat().st_mode) == 0o600


def test_a_link_is_not_followed(log: Path, tmp_path: Path) -> None:
    log.parent.mkdir()
    log.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        audit.record("vm", "to-guest", "text/plain", 3, "ab", True)
    assert not (tmp_path / "elsewhere").exists()


def test_without_the_variable_it_lies_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert audit.path() == tmp_path / ".local" / "state" / "subos" / "clipboard.log"
