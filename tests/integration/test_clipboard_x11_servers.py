"""How the X11 clipboard finds its server and logs in, and servers that say what no server says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from subos_desktop.clipboard import TEXT, Disconnected, Selection, Unavailable, read_all
from subos_desktop.clipboard.interface import NoServer
from subos_desktop.clipboard.x11 import X11Clipboard, connection
from subos_desktop.clipboard.x11.requests import change_property, words
from support.clipboards import PATIENCE, Offers, given
from support.desktops import x_server

MIB = 1 << 20
SECRET = bytes(range(16))
ONE = 1  # predefined atoms


def reply(sequence: int, body: bytes = b"", length: int = 0) -> bytes:
    return b"\1\0" + sequence.to_bytes(2, "little") + words([length]) + body.ljust(24, b"\0")


# The setup of a server of one screen; replies to QueryExtension.
SETUP = b"".join(
    [
        b"\1\0\x0b\0\0\0\x12\0" + bytes(4) + words([0x200000, 0x1FFFFF, 0]),
        b"\0\0\xff\xff\1\0" + bytes(10) + words([0x123]) + bytes(36),
    ]
)
XFIXES = reply(1, b"\1\x8a\x57\x8c")
NO_XFIXES, NO_BIG_REQUESTS = reply(1), reply(2)


@contextlib.contextmanager
def authority(path: Path, number: int, secret: bytes = SECRET, host: str | None = None) -> Iterator[None]:
    """XAUTHORITY with one entry: for a display of this host."""
    entry = (256).to_bytes(2, "big")
    for string in ((host or socket.gethostname()).encode(), b"%d" % number, b"MIT-MAGIC-COOKIE-1", secret):
        entry += len(string).to_bytes(2, "big") + string
    path.write_bytes(entry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XAUTHORITY", str(path))
        yield


async def works(display: str) -> None:
    async with X11Clipboard(display) as one, X11Clipboard(display) as two:
        await one.offer(Selection.CLIPBOARD, [TEXT], given({TEXT: b"hello"}))
        await Offers(two).of(TEXT)
        assert await read_all(two, Selection.CLIPBOARD, TEXT, 100) == b"hello"


# --- real servers ----------------------------------------------------------------------------------------------


def test_a_server_that_asks_for_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "its own"
    with authority(file, 0), x_server(options=("-auth", str(file), "-listen", "tcp")) as (environment, _):
        number = int(environment["DISPLAY"][1:])
        ours = tmp_path / "the user's"
        displays = (f":{number}", f"unix:{number}.0", f"localhost:{number}", f"tcp/127.0.0.1:{number}.0")
        for display in displays:
            with authority(ours, number):
                asyncio.run(works(display))
            with authority(ours, number, host="elsewhere"), pytest.raises(NoServer, match="it refuses: Auth"):
                asyncio.run(works(display))
            with authority(ours, number, secret=SECRET[::-1]), pytest.raises(NoServer, match="it refuses: ") as caught:
                asyncio.run(works(display))
            assert "XAUTHORITY" in caught.value.hint
        with authority(ours, number), pytest.raises(NoServer, match="it has no screen 1"):
            asyncio.run(works(f":{number}.1"))


def test_a_server_on_an_abstract_socket() -> None:
    with x_server(options=("-nolisten", "unix", "-listen", "local")) as (environment, _):
        with socket.socket(socket.AF_UNIX) as client:
            assert client.connect_ex(f"/tmp/.X11-unix/X{environment['DISPLAY'][1:]}") != 0
        asyncio.run(works(environment["DISPLAY"]))


@pytest.mark.parametrize(
    ("display", "reason"),
    [
        (":59999", "No such file or directory"),
        ("localhost:59", "Connection refused"),
        ("no-such-host.invalid:0", ""),
        ("nonsense", "'nonsense' is no display"),
        ("", "DISPLAY is not set"),
    ],
)
def test_no_server(display: str, reason: str) -> None:
    with pytest.raises(NoServer, match=f"^no connection to the X server: .*{reason}") as caught:
        asyncio.run(X11Clipboard(display).connect())
    assert caught.value.hint == "is DISPLAY set, and XAUTHORITY?"


def test_a_server_that_takes_nothing_any_more_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_UNSENT", 4 * MIB)

    async def test(display: str, server: subprocess.Popen[bytes]) -> None:
        async with X11Clipboard(display) as clipboard:
            assert isinstance(clipboard, X11Clipboard)
            offers = Offers(clipboard)
            server.send_signal(signal.SIGSTOP)
            while (connected := clipboard._connection) is not None:
                connected.send(change_property(clipboard._window, ONE, ONE, 8, MIB), bytes(MIB))
                assert connected._unsent_bytes < 6 * MIB
                await asyncio.sleep(0)
            with pytest.raises(Disconnected, match="takes no more requests"):
                await offers.next()

    with x_server() as (environment, server):
        asyncio.run(test(environment["DISPLAY"], server))


# --- servers that say what no server says ----------------------------------------------------------------------


@contextlib.asynccontextmanager
async def saying(*answers: bytes) -> AsyncIterator[str]:
    """A server that answers so to what it is sent, whatever it is, and then hangs up; the display of it."""
    serving: list[asyncio.Future[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            for answer in answers:
                await reader.read(65536)
                writer.write(answer)
            await reader.read(65536)

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.ensure_future(serve(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1] - 6000}"
        await asyncio.wait_for(asyncio.gather(*serving), PATIENCE)


async def fails(*answers: bytes) -> str:
    async with saying(*answers) as display:
        with pytest.raises(Unavailable) as caught:
            await asyncio.wait_for(X11Clipboard(display).connect(), PATIENCE)
        return caught.value.message


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        (b"", "no connection to the X server: it hangs up"),
        (b"\0\7\x0b\0\0\0\2\0go away\0", "no connection to the X server: it refuses: go away"),
        (b"\1\0\x0b\0\0\0\1\0\0\0\0\0", "no connection to the X server: its answer is too short"),
        (SETUP[:7], "no connection to the X server: it does not answer"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no connection to the X server: it does not answer"),
    ],
)
def test_a_setup_that_is_none(setup: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 1.0)
    assert asyncio.run(fails(*([setup] if setup else []))) == message


def test_a_server_without_xfixes() -> None:
    message = asyncio.run(fails(SETUP, NO_XFIXES + NO_BIG_REQUESTS))
    assert message == "the X server lacks XFIXES, which tells who copies"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (XFIXES + NO_BIG_REQUESTS + reply(3, length=0xFFFFFFFF), "a message of 17179869212 bytes"),
        (XFIXES + NO_BIG_REQUESTS + reply(9), "a reply to request 9, which asks for none"),
        (NO_BIG_REQUESTS, "a reply to request 2, which asks for none"),
        (b"\x23" + XFIXES[1:4] + b"\xff\xff\xff\x7f" + XFIXES[8:], "a message of 8589934620 bytes"),
    ],
)
def test_replies_that_are_none_end_the_connection(answer: bytes, message: str) -> None:
    assert asyncio.run(fails(SETUP, answer)) == f"what the X server says is not understood: {message}"


def test_a_server_that_hangs_up_is_gone() -> None:
    """It answers to the setup and the first requests, and to the next ones no more."""
    assert asyncio.run(fails(SETUP, XFIXES + NO_BIG_REQUESTS)) == "the X server has gone"


def test_an_error_instead_of_a_reply_is_told() -> None:
    error = b"\0\2\3\0" + words([0x8A]) + bytes(24)
    message = asyncio.run(fails(SETUP, XFIXES + NO_BIG_REQUESTS, error))
    assert message == "the X server's extensions do not work: X error 2 of request 0.0, for 0x8a"


def test_descriptors_are_closed() -> None:
    async def test() -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            await fails()
            await fails(SETUP, NO_XFIXES + NO_BIG_REQUESTS)
            await fails(SETUP, reply(9))
        await asyncio.sleep(0.1)  # the server of this test closes its own
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(test())
