from subos_devices.text import Shown, printable


def test_nothing_in_it_steers_a_terminal() -> None:
    assert printable("ünï \x1b]0;title\x07\r\n\u202e end") == "ünï ?]0;title???? end"
    assert printable(b"bytes \x9b2J \xff") == "bytes ?2J ?".replace("?2J ?", "\ufffd2J \ufffd")


def test_its_length_is_bounded() -> None:
    assert printable("x" * 10, limit=10) == "x" * 10
    assert printable("x" * 11, limit=10) == "x" * 10 + "…"
    assert printable("ü".encode() * 1_000_000, limit=10) == "ü" * 10 + "…"


def test_a_text_of_many_lines_for_a_terminal() -> None:
    shown = Shown()
    text = "ünï\tcolumn\nred: \x1b[31m\x1b]52;c;eA==\x07\r\n\x9b2J\u202e".encode()
    pieces = [shown.feed(text[at : at + 1]) for at in range(len(text))] + [shown.feed(b"", last=True)]
    assert b"".join(pieces).decode() == "ünï\tcolumn\nred: ?[31m?]52;c;eA==??\n?2J?"
    assert Shown().feed(b"\xff\xc3", last=True).decode() == "\ufffd\ufffd"
