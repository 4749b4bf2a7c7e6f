from subos_devices.text import printable


def test_nothing_in_it_steers_a_terminal() -> None:
    assert printable("ünï \x1b]0;title\x07\r\n\u202e end") == "ünï ?]0;title???? end"
    assert printable(b"bytes \x9b2J \xff") == "bytes ?2J ?".replace("?2J ?", "\ufffd2J \ufffd")


def test_its_length_is_bounded() -> None:
    assert printable("x" * 10, limit=10) == "x" * 10
    assert printable("x" * 11, limit=10) == "x" * 10 + "…"
    assert printable("ü".encode() * 1_000_000, limit=10) == "ü" * 10 + "…"
