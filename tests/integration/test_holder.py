"""The supervisor is killed, hangs, or is replaced: neither the front end nor the worker notices."""

from __future__ import annotations

from subos_devices.testing import FrontEnd
from support.holding import hold
from support.strangers import Reverser


def test_a_supervisor_that_is_killed_is_succeeded_and_the_worker_lives_on() -> None:
    with hold() as held, FrontEnd.connect(held.add(Reverser)) as vm:
        queue = vm.queue(0)
        assert queue.request([b"abc"], [3]) == [b"cba"]
        old, before = held.supervisor, held.status()
        new = held.kill()
        assert new != old
        assert queue.request([b"def"], [3]) == [b"fed"]
        after = held.status()
        assert after["pid"] == before["pid"] == held.mirror().pid
        assert (after["restarts"], after["connected"], held.disconnections) == (0, True, 0)
        assert vm.stop(queue) == 2
        assert held.holder.status() == {"pid": new, "version": "0.1.0", "restarts": 1}
