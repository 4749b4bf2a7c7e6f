"""Which X server is meant, what opens it, and what it says first: as Xvfb 21.1 and xauth 1.1 have it."""

from __future__ import annotations

import contextlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_desktop.clipboard.x11.authority import COOKIE, Entry, Family, cookie, entries
from subos_desktop.clipboard.x11.opening import Display, parse
from subos_desktop.clipboard.x11.setup import HEADER, Setup, pack_request, rest_size, unpack_answer
from subos_desktop.clipboard.x11.wire import WireError

SECRET = bytes(range(16))
LOCAL = (Family.Local, b"box")

# --- DISPLAY ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "display"),
    [
        (":0", Display("", 0, 0)),
        (":1.2", Display("", 1, 2)),
        ("unix:0", Display("", 0, 0)),
        ("unix/:10", Display("", 10, 0)),
        ("unix/box:3", Display("", 3, 0)),
        ("localhost:10.0", Display("localhost", 10, 0)),
        ("tcp/box.example:0", Display("box.example", 0, 0)),
        ("[fe80::1%eth0]:0", Display("fe80::1%eth0", 0, 0)),
        ("::1:0", Display("::1", 0, 0)),
    ],
)
def test_displays(name: str, display: Display) -> None:
    assert parse(name) == display


@pytest.mark.parametrize("name", ["", "0", ":", ":x", ":0.", ":0.x", "tcp/:0", "box:59536", ":123456", "a/b:0", ":0\n"])
def test_what_is_no_display_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"DISPLAY|is no display|names no host"):
        parse(name)


@given(st.text())
def test_any_name_is_a_display_or_refused(name: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse(name).number < 100_000


# --- Xauthority ------------------------------------------------------------------------------------------------


def line(family: int, address: bytes, number: bytes, name: bytes = COOKIE, data: bytes = SECRET) -> bytes:
    packed = family.to_bytes(2, "big")
    for string in (address, number, name, data):
        packed += len(string).to_bytes(2, "big") + string
    return packed


# xauth add box/unix:7 . 000102030405060708090a0b0c0d0e0f
FILE = bytes.fromhex(
    "0100 0003 626f78 0001 37 0012 4d49542d4d414749432d434f4f4b49452d31 0010 000102030405060708090a0b0c0d0e0f"
)


def test_an_entry() -> None:
    assert list(entries(FILE)) == [Entry(Family.Local, b"box", b"7", COOKIE, SECRET)]
    assert line(Family.Local, b"box", b"7") == FILE


def test_a_file_that_is_cut_off_gives_what_is_whole() -> None:
    for end in range(len(FILE)):
        assert list(entries(FILE + FILE[:end])) == list(entries(FILE))


def test_the_secret_is_the_servers() -> None:
    file = b"".join(
        [
            line(Family.Local, b"other", b"7", data=b"another host's"),
            line(Family.Local, b"box", b"8", data=b"another display's"),
            line(Family.Local, b"box", b"7", name=b"XDM-AUTHORIZATION-1", data=b"of another kind"),
            line(Family.Internet, b"box", b"7", data=b"of another family"),
            FILE,
            line(Family.Local, b"box", b"7", data=b"a later one"),
        ]
    )
    assert cookie(file, [LOCAL], 7) == SECRET
    assert cookie(file, [LOCAL], 9) == b""
    assert cookie(file, [(Family.Local, b"third")], 7) == b""
    assert cookie(b"", [LOCAL], 7) == b""


def test_some_entries_are_for_any_host_or_any_display() -> None:
    assert cookie(line(Family.Wild, b"", b"7"), [LOCAL], 7) == SECRET
    assert cookie(line(Family.Wild, b"", b"8"), [LOCAL], 7) == b""
    assert cookie(line(Family.Local, b"box", b""), [LOCAL], 7) == SECRET


def test_a_forwarded_display_has_this_hosts_secret() -> None:
    """As ssh keeps it; one of the address itself comes first."""
    addresses = [(Family.Internet, b"\x7f\0\0\1"), LOCAL]
    assert cookie(FILE, addresses, 7) == SECRET
    assert cookie(FILE + line(Family.Internet, b"\x7f\0\0\1", b"7", data=b"its own"), addresses, 7) == b"its own"


@given(st.binary())
def test_any_bytes_are_a_file(data: bytes) -> None:
    for entry in entries(data):
        assert sum(map(len, entry[1:])) <= len(data)
    cookie(data, [LOCAL], 0)


# --- the setup -------------------------------------------------------------------------------------------------

HEAD = bytes.fromhex("01000b00 00005309")
REST = bytes.fromhex(
    "8fa5b800 00002000 ffff1f00 00010000 1400ffff 01060000 202008ff 00000000"
    "54686520 582e4f72 6720466f 756e6461 74696f6e"  # the vendor
    "01012000 00000000 04082000 00000000 08082000 00000000 10102000 00000000 18202000 00000000 20202000 00000000"
    "0d050000 20000000 ffffff00 00000000 00000000 40004000 10001000 01000100 21000000 01001801"  # a screen
    "18000100 00000000 21000000 04080001 0000ff00 00ff0000 ff000000 00000000"  # its depth, of one visual
)
SECOND = bytes.fromhex("0e050000") + bytes(35) + b"\0"
SETUP = Setup(id_base=0x200000, id_mask=0x1FFFFF, max_request=0xFFFF, root=0x50D)

little = pytest.mark.skipif(sys.byteorder == "big", reason="the bytes are a little-endian machine's")


@little
def test_the_first_request() -> None:
    assert pack_request(COOKIE, SECRET) == bytes.fromhex(
        "6c000b00 00001200 10000000 4d49542d 4d414749 432d434f 4f4b4945 2d310000 00010203 04050607 08090a0b 0c0d0e0f"
    )
    assert pack_request(b"", b"") == bytes.fromhex("6c000b00 00000000 00000000")


@little
def test_the_answer() -> None:
    assert rest_size(HEAD) == 9548
    assert unpack_answer(HEAD, REST, 0) == SETUP
    with pytest.raises(WireError, match="no screen 1"):
        unpack_answer(HEAD, REST, 1)


@little
def test_the_answer_of_a_server_with_two_screens() -> None:
    two = REST[:20] + b"\2" + REST[21:] + SECOND
    assert unpack_answer(HEAD, two, 0) == SETUP
    assert unpack_answer(HEAD, two, 1) == SETUP._replace(root=0x50E)


@little
def test_an_answer_that_is_cut_off_is_refused() -> None:
    two = REST[:20] + b"\2" + REST[21:] + SECOND
    for end in range(len(two)):
        with pytest.raises(WireError, match="too short"):
            unpack_answer(HEAD, two[:end], 1)


@little
def test_a_server_of_impossible_limits_is_refused() -> None:
    with pytest.raises(WireError, match="no ids"):
        unpack_answer(HEAD, REST[:8] + bytes(4) + REST[12:], 0)
    with pytest.raises(WireError, match="requests of 4095 words"):
        unpack_answer(HEAD, REST[:18] + b"\xff\x0f" + REST[20:], 0)


@little
def test_a_refusal_says_why() -> None:
    failed = bytes.fromhex("00160b00 00000600")
    with pytest.raises(WireError, match=r"^it refuses: No protocol specified$"):
        unpack_answer(failed, b"No protocol specified\n\0\0", 0)
    with pytest.raises(WireError, match=r"^it refuses$"):
        unpack_answer(failed, b"\x1b[31mred" + bytes(16), 0)
    with pytest.raises(WireError, match=r"^it refuses: more$"):
        unpack_answer(bytes.fromhex("02000b00 00000100"), b"more", 0)


@given(st.binary(min_size=HEADER.size, max_size=HEADER.size), st.binary(), st.integers(0, 3))
def test_any_answer_is_understood_or_refused(head: bytes, rest: bytes, screen: int) -> None:
    assert rest_size(head) <= 4 * 0xFFFF
    with contextlib.suppress(WireError):
        unpack_answer(head, rest, screen)


@given(st.binary(min_size=60, max_size=400), st.integers(0, 255), st.integers(0, 255))
def test_any_answer_of_many_screens_is_understood_or_refused(rest: bytes, screens: int, screen: int) -> None:
    with contextlib.suppress(WireError):
        unpack_answer(HEAD, REST[:20] + bytes([screens]) + REST[21:32] + rest, screen)
