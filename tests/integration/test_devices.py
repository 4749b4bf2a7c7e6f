"""Whole devices behind a front end, in processes of their own: ours, and a stranger's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from subos_devices.errors import UserError
from subos_devices.testing import (
    DeviceFault,
    Disconnected,
    FrontEnd,
    GuestRam,
    NoAnswer,
    Refused,
    RingFull,
    serve,
    supervise,
)
from subos_devices.testing.serving import importable
from subos_protocol.virtio import DescFlag, Feature
from support.strangers import Reverser, Unwilling

EVERY_RING = [
    pytest.param(True, True, id="indirect, event_idx"),
    pytest.param(True, False, id="indirect"),
    pytest.param(False, True, id="event_idx"),
    pytest.param(False, False, id="neither"),
]


def features(indirect: bool, event_idx: bool) -> int:
    mask = (1 << 64) - 1
    if not indirect:
        mask &= ~Feature.RING_INDIRECT_DESC
    if not event_idx:
        mask &= ~Feature.RING_EVENT_IDX
    return mask


def fills_buffers(vm: FrontEnd) -> None:
    """A generator of random numbers fills them, however a request is framed."""
    queue = vm.queue(0, size=16)
    seen = set()
    for sizes in ([64], [1, 63], [16] * 4, [4000, 5]):
        buffers = queue.request(writable=sizes)
        assert [len(buffer) for buffer in buffers] == sizes
        assert len(set(b"".join(buffers))) > 8
        seen.add(b"".join(buffers)[:16])
    assert len(seen) == 4


@pytest.mark.parametrize(("indirect", "event_idx"), EVERY_RING)
def test_rng_fills_buffers_of_any_framing(indirect: bool, event_idx: bool) -> None:
    with serve("rng") as served, FrontEnd.connect(served.path, features=features(indirect, event_idx)) as vm:
        fills_buffers(vm)


def test_rng_limits_one_request() -> None:
    with serve("rng") as served, FrontEnd.connect(served.path) as vm:
        pending = vm.queue(0).add(writable=[50_000, 50_000])
        vm.queues[0].kick()
        assert vm.queues[0].wait(pending).written == 64 << 10


@pytest.mark.parametrize(("indirect", "event_idx"), EVERY_RING)
def test_a_full_ring_many_times_over(indirect: bool, event_idx: bool) -> None:
    """Indices wrap around 65536, every request is answered, and with its own answer."""
    with serve(Reverser) as served, FrontEnd.connect(served.path, features=features(indirect, event_idx)) as vm:
        queue = vm.queue(0, size=64, start=False)
        queue.reset(index=65_000)
        vm.start(queue, base=65_000)
        asked = answered = 0
        waiting = {}
        while answered < 3000:
            while asked < 3000:
                data = b"%d" % asked
                try:
                    waiting[queue.add([data], [16])] = data[::-1]
                except RingFull:
                    break
                asked += 1
            queue.kick()
            finished = queue.collect() or [queue.wait()]
            for pending in finished:
                assert pending.buffers == [waiting.pop(pending)]
                answered += 1
        assert queue.used_index == 68_000 & 0xFFFF


def test_a_strangers_device_has_its_queues_and_its_configuration() -> None:
    with serve(Reverser, "--option", "batch=3") as served, FrontEnd.connect(served.path) as vm:
        assert vm.max_queues == 2
        assert vm.config(0, 8) == b"reverser"
        assert vm.config(4, 8) == b"rser\0\0\0\0"
        vm.write_config(8, b"written")
        assert vm.config(0, 16) == b"reverserwritten\0"
        first, second = vm.queue(0), vm.queue(1)
        assert first.request([b"abc", b"", b"def"], [4, 4]) == [b"fedc", b"ba"]
        kept = [second.add([b"%d%d" % (i, i + 1)], [2]) for i in range(2)]
        second.kick()
        with pytest.raises(NoAnswer):
            second.wait(timeout=0.2)
        last = second.request([b"xy"], [2])
        assert last == [b"yx"]
        assert [pending.buffers for pending in kept] == [[b"10"], [b"21"]]


def test_a_bug_in_a_strangers_control_plane_is_a_refusal() -> None:
    with supervise() as supervised, FrontEnd.connect(supervised.add(Reverser)) as vm:
        with pytest.raises(Refused):
            vm.write_config(0, b"crash")
        assert vm.config(0, 8) == b"reverser"


def test_a_device_that_cannot_be_is_an_error_with_a_hint() -> None:
    with supervise() as supervised:
        with pytest.raises(UserError, match="not there"):
            supervised.add(Unwilling)
        with pytest.raises(UserError, match="batch is no number"):
            supervised.add(Reverser, batch="three")
        with pytest.raises(UserError, match="no device is called"):
            supervised.add("wheel")
        supervised.add("rng")
        (supervised.folder / "device0.sock").unlink()
        with pytest.raises(UserError, match="two devices"):
            supervised.add("rng")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["wheel", "--socket-path", "s"], "no device is called 'wheel'"),
        (["no.such.module:Class", "--socket-path", "s"], "cannot be loaded"),
        (["rng", "--socket-path", "/no/such/folder/s"], "cannot be made"),
        (["support.strangers:Reverser", "--socket-path", "s", "--option", "batch=x"], "batch is no number"),
        (["support.strangers:Reverser", "--socket-path", "s", "--option", "batch"], "has no value"),
        (["support.strangers:Unwilling", "--socket-path", "s"], "not there"),
        (["fs", "--socket-path", "s"], "--shared-dir"),
    ],
)
def test_serve_says_what_is_wrong_in_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    command = [sys.executable, "-m", "subos_devices.cli", "serve", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=importable(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("one_file", [False, True])
def test_two_regions_with_a_gap_and_buffers_in_both(one_file: bool) -> None:
    ram = GuestRam([(0, 1 << 20), (0x1_0000_0000, 1 << 21)], one_file=one_file)
    with ram, serve(Reverser) as served, FrontEnd.connect(served.path, ram=ram) as vm:
        low, high = vm.queue(0, region=0), vm.queue(1, region=1)
        assert low.request([b"abc"], [3]) == [b"cba"]
        assert high.request([b"abc"], [3]) == [b"cba"]
        # A chain that has buffers here and there.
        question, answer = ram.alloc(2, region=1), ram.alloc(2, region=0)
        ram.write(question, b"hi")
        low.write_descriptor(5, question, 2, DescFlag.NEXT, 6)
        low.write_descriptor(6, answer, 2, DescFlag.WRITE)
        low.publish(5)
        low.kick()
        with pytest.raises(DeviceFault, match="which it did not have"):
            low.wait()  # the simulated driver does not know of it
        assert ram.read(answer, 2) == b"ih"


def test_a_back_end_without_its_worker_ready_is_not_connected_to() -> None:
    with serve(Unwilling) as served:
        with pytest.raises(Disconnected):
            FrontEnd.connect(served.path)
        assert served.process.wait(10) == 2
