"""Rules of what may pass, and the log of what has."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_devices.agent.clipboard import audit
from subos_devices.agent.clipboard.audit import Line
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
        ("primary=maybe", "no direction"),
        ("primary=", "no direction"),
        ("primary", "no rule"),
        ("primary.text=both", "no rule"),
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


def test_what_is_marked_passes_from_the_guest_alone_by_default() -> None:
    rules = Rules()
    assert rules.action("to-guest", "text/plain", primary=True) == "deny"
    assert rules.action("from-guest", "text/plain", primary=True) == "allow"
    passing = {
        ways: {way for way in DIRECTIONS if Rules.parse([f"primary={ways}"]).action(way, "text/plain", True) != "deny"}
        for ways in ("both", "to-guest", "from-guest", "off")
    }
    assert passing == {
        "both": {"to-guest", "from-guest"},
        "to-guest": {"to-guest"},
        "from-guest": {"from-guest"},
        "off": set(),
    }
    other = Rules.parse(["primary=both", "to-guest.text=deny", "from-guest.text=ask"])
    assert other.action("to-guest", "text/plain", primary=True) == "deny"
    assert other.action("from-guest", "text/plain", primary=True) == "ask"
    assert Rules.parse(["primary=off"]).action("to-guest", "text/plain") == "allow"


@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                ["on", "off", "both=text-only", "limit=64K", "limit.image=3", "primary=off", "primary=both"]
            ),
            st.builds("{}.{}={}".format, st.sampled_from(DIRECTIONS), st.sampled_from(TYPES), st.sampled_from(ACTIONS)),
        ),
        max_size=20,
    )
)
def test_rules_as_texts_make_the_same_rules(texts: list[str]) -> None:
    rules = Rules.parse(texts)
    assert Rules.parse(rules.texts()) == rules
    assert len(rules.texts()) == len(Rules().texts())


# --- the log


def line(
    way: str = "to-guest", mime: str = "text/plain", size: int = 3, digest: str = "ab", complete: bool = True
) -> Line:
    return Line(way, "clipboard", mime, size, digest, complete)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "subos" / "clipboard-vm.log"


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(text) for text in file.read_text().splitlines()]


def test_a_line_for_what_has_passed(file: Path) -> None:
    log = audit.Log("vm")
    log.record(1, line())
    log.record(2, line("from-guest", "image/png", 4, "cd", False))
    first, second = lines(file)
    names = {"time", "vm", "direction", "selection", "type", "size", "sha256", "complete", "count"}
    assert set(first) == names
    assert (first["vm"], first["size"], first["complete"], first["count"]) == ("vm", 3, True, 1)
    assert (second["direction"], second["sha256"], second["complete"]) == ("from-guest", "cd", False)
    assert str(first["time"]).endswith("+00:00")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_thousands_of_reads_wash_nothing_out(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_SIZE", 2000)
    log = audit.Log("vm")
    log.begin(1)
    log.record(1, line(digest="secret"))
    log.begin(2)
    for turn in range(5000):
        log.record(2, line(size=turn, digest=str(turn), complete=turn % 2 == 0))
    assert [(each["sha256"], each["count"]) for each in lines(file)] == [("secret", 1), ("0", 1)]
    log.record(2, line(mime="text/html"))
    log.over(2)
    log.over(2)
    log.record(2, line(digest="was on its way"))
    log.close()
    told = [(each["type"], each["sha256"], each["count"]) for each in lines(file)]
    assert told == [
        ("text/plain", "secret", 1),
        ("text/plain", "0", 1),
        ("text/html", "ab", 1),
        ("text/plain", "4999", 4999),
        ("text/plain", "was on its way", 1),
    ]
    assert not log._again


def test_each_vm_has_a_log_of_its_own(file: Path) -> None:
    audit.Log("vm").record(1, line())
    audit.Log("other").record(1, line())
    assert {path.name for path in file.parent.iterdir()} == {"clipboard-vm.log", "clipboard-other.log"}


def test_a_full_log_is_put_aside(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_SIZE", 500)
    log = audit.Log("vm")
    for turn in range(10):
        log.record(turn, line())
    assert {path.name for path in file.parent.iterdir()} <= {"clipboard-vm.log", "clipboard-vm.log.1"}
    kept = file.with_name("clipboard-vm.log.1").read_text()
    assert len(kept) < 800
    assert stat.S_IMODE(file.with_name("clipboard-vm.log.1").stat().st_mode) == 0o600


def test_a_link_is_not_followed(file: Path, tmp_path: Path) -> None:
    file.parent.mkdir()
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        audit.Log("vm").record(1, line())
    assert not (tmp_path / "elsewhere").exists()


def test_without_the_variable_it_lies_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert audit.path("vm") == tmp_path / ".local" / "state" / "subos" / "clipboard-vm.log"
