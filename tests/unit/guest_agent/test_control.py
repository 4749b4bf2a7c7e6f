import pytest

from subos_agent import control
from subos_protocol.control import TOO_MUCH, Reply, Request


def test_too_much_output_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAXIMUM_BYTES", 1000)
    assert control.run(Request(["head", "-c", "1000", "/dev/zero"]), b"") == Reply(0, bytes(1000))
    assert control.run(Request(["head", "-c", "1001", "/dev/zero"]), b"") == Reply(0, error=TOO_MUCH)
    assert control.run(Request(["sh", "-c", "head -c 1001 /dev/zero >&2; exit 3"]), b"") == Reply(3, error=TOO_MUCH)
