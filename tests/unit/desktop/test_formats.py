"""Names of formats, and the text behind them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_desktop.clipboard import formats
from subos_desktop.clipboard.formats import BMP, HTML, JPEG, PNG, RTF, TEXT, TIFF, URI_LIST
from subos_desktop.clipboard.interface import MARKER

# The targets of real programs: xterm, GTK 3, LibreOffice Writer, Firefox.
XTERM = ["TARGETS", "TIMESTAMP", "UTF8_STRING", "COMPOUND_TEXT", "TEXT", "STRING"]
GTK = ["TIMESTAMP", "TARGETS", "MULTIPLE", "SAVE_TARGETS", "UTF8_STRING", "STRING", "text/plain;charset=utf-8"]
WRITER = [
    'application/x-openoffice-embed-source-xml;windows_formatname="Star Embed Source (XML)"',
    "text/rtf",
    "text/richtext",
    "text/html",
    "text/plain;charset=utf-16",
    "UTF8_STRING",
]
FIREFOX = ["TARGETS", "text/html", "text/_moz_htmlcontext", "image/png", "image/jpeg", "image/bmp", "image/x-bmp"]


def test_of_several_names_the_best_is_read() -> None:
    assert formats.from_targets(XTERM) == {TEXT: "UTF8_STRING"}
    assert formats.from_targets(reversed(XTERM)) == {TEXT: "UTF8_STRING"}
    assert formats.from_targets(GTK) == {TEXT: "UTF8_STRING"}
    assert formats.from_targets(["STRING", "text/plain"]) == {TEXT: "text/plain"}
    assert formats.from_targets(["text/plain; charset=UTF-8", "STRING"]) == {TEXT: "text/plain; charset=UTF-8"}


def test_unknown_types_keep_their_names_and_order() -> None:
    assert formats.from_targets(WRITER) == {
        WRITER[0]: WRITER[0],
        RTF: "text/rtf",
        HTML: "text/html",
        "text/plain;charset=utf-16": "text/plain;charset=utf-16",
        TEXT: "UTF8_STRING",
    }
    assert list(formats.from_targets(FIREFOX)) == [HTML, "text/_moz_htmlcontext", PNG, JPEG, BMP]


@pytest.mark.parametrize(
    "name",
    ["TARGETS", "", "/", "a/", "/b", "a/b/c", "a b/c", "a/b;c", "a/b\n", "ä/b", f"{MARKER};id=1", f"a/{'b' * 254}"],
)
def test_what_is_no_format(name: str) -> None:
    assert formats.canonical(name) is None


def test_formats_are_offered_under_every_name() -> None:
    assert formats.to_targets([TEXT, HTML, RTF, "x/y", "no type"]) == {
        "UTF8_STRING": TEXT,
        TEXT: TEXT,
        "text/plain": TEXT,
        "STRING": TEXT,
        "TEXT": TEXT,
        HTML: HTML,
        RTF: RTF,
        "application/rtf": RTF,
        "text/richtext": RTF,
        "x/y": "x/y",
    }


@given(st.lists(st.sampled_from([TEXT, HTML, RTF, PNG, JPEG, BMP, TIFF, URI_LIST, "x/y", "a/b;c=d"]), unique=True))
def test_what_is_offered_is_read_as_the_same(mimes: list[str]) -> None:
    assert list(formats.from_targets(formats.to_targets(mimes))) == mimes


def test_there_is_an_end_to_formats() -> None:
    names = [f"x/{number}" for number in range(1000)]
    assert list(formats.from_targets(names)) == names[: formats.MAX_FORMATS]
    assert list(formats.to_targets(names)) == names[: formats.MAX_FORMATS]


def recoded(recoder: formats.Recoder, chunks: list[bytes]) -> bytes:
    return b"".join(map(recoder.feed, chunks)) + recoder.feed(b"", last=True)


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        ("STRING", b"gr\xfc\xdfe\r\n", "grüße\r\n"),
        ("UTF8_STRING", "grüße\r\n".encode(), "grüße\r\n"),
        ("COMPOUND_TEXT", b"gr\xfc\xdfe\n", "grüße\n"),
        ("COMPOUND_TEXT", b"a\x1b%G\xe2\x82\xac\x1b%@\xfc", "a€ü"),  # as libX11 has the euro sign
        ("COMPOUND_TEXT", b"\x1b-A\xe4\x1b(Bb", "äb"),
        ("COMPOUND_TEXT", b"a\x1b", "a"),
        ("COMPOUND_TEXT", b"a\x1b-F\xe1\x1b-Ab", "a�b"),  # Greek
    ],
)
def test_text_in_other_encodings(kind: str, data: bytes, text: str) -> None:
    assert recoded(formats.reader(kind), [data]) == text.encode()
    assert recoded(formats.reader(kind), [bytes([byte]) for byte in data]) == text.encode()


def test_latin1_is_given_where_it_is_asked_for() -> None:
    kind, recoder = formats.writer("STRING")
    assert kind == "STRING"
    assert recoded(recoder, ["grüße €".encode()[:3], "grüße €".encode()[3:]]) == b"gr\xfc\xdfe ?"
    assert formats.writer("TEXT")[0] == "UTF8_STRING"
    assert formats.writer(PNG)[0] == PNG


@given(st.sampled_from(["STRING", "COMPOUND_TEXT", "UTF8_STRING"]), st.lists(st.binary()))
def test_a_reader_takes_any_bytes(kind: str, chunks: list[bytes]) -> None:
    assert recoded(formats.reader(kind), chunks) == recoded(formats.reader(kind), [b"".join(chunks)])


def test_what_a_password_manager_calls_secret_has_no_formats() -> None:
    keepassxc = ["TIMESTAMP", "TARGETS", "text/plain", "UTF8_STRING", "x-kde-passwordManagerHint"]
    assert formats.from_targets(keepassxc) == {}
    assert formats.from_targets(keepassxc[:-1])
    assert formats.from_targets([*(f"image/x{number}" for number in range(300)), "x-kde-passwordManagerHint"]) == {}
