import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_protocol.control import Reply, ReplyHead, Request, RequestHead
from subos_protocol.errors import Malformed

REQUEST = b'{"argv":["cat","\\udcff"],"cwd":"/srv","environment":{"A":"b"},"timeout":2.5,"stdin":3}\n' + b"a\0b"
REPLY = b'{"status":-9,"error":"timeout","stdout":2,"stderr":1}\n' + b"o\nE"


def test_a_request_byte_by_byte() -> None:
    request = Request(["cat", "\udcff"], b"a\0b", "/srv", {"A": "b"}, 2.5)
    assert request.pack() == REQUEST
    head = RequestHead.unpack(REQUEST[:-3])
    assert head == RequestHead(Request(["cat", "\udcff"], b"", "/srv", {"A": "b"}, 2.5), 3)


def test_a_reply_byte_by_byte() -> None:
    assert Reply(-9, b"o\n", b"E", "timeout").pack() == REPLY
    assert ReplyHead.unpack(REPLY[:-3]) == ReplyHead(-9, "timeout", 2, 1)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}\n",
        b"[]\n",
        b"nonsense\n",
        b'{"argv":["x"],"cwd":"/","environment":null,"timeout":null,"stdin":0}',  # no end
        b'{"argv":[],"cwd":"/","environment":null,"timeout":null,"stdin":0}\n',
        b'{"argv":[1],"cwd":"/","environment":null,"timeout":null,"stdin":0}\n',
        b'{"argv":["x"],"cwd":1,"environment":null,"timeout":null,"stdin":0}\n',
        b'{"argv":["x"],"cwd":"/","environment":{"A":1},"timeout":null,"stdin":0}\n',
        b'{"argv":["x"],"cwd":"/","environment":null,"timeout":true,"stdin":0}\n',
        b'{"argv":["x"],"cwd":"/","environment":null,"timeout":null,"stdin":-1}\n',
        b'{"argv":["x"],"cwd":"/","environment":null,"timeout":null,"stdin":1e9}\n',
        b'{"argv":["x"],"cwd":"/","environment":null,"timeout":null,"stdin":99999999999}\n',
        b"[" * 100_000 + b"\n",
    ],
)
def test_a_malformed_request_is_refused(line: bytes) -> None:
    with pytest.raises(Malformed):
        RequestHead.unpack(line)


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    for unpack in (RequestHead.unpack, ReplyHead.unpack):
        with pytest.raises(Malformed):
            unpack(data + b"\n")
