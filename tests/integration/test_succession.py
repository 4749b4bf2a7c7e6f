"""A supervisor dies before or after any of its system calls, and another one goes on: neither the front end nor the
worker notices."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from subos_devices.supervisor.zygote import Zygote
from subos_devices.testing import FrontEnd
from subos_devices.testing.serving import kind_of
from subos_devices.vhost_user.device import DeviceSpec
from support.processes import descriptors
from support.share_client import ShareClient
from support.strangers import Reverser
from support.succession import NAME, survives

STRIDE = 7
"""Of the stops: some 400 in all, so one in this many, and each time others of the loop's turns."""


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    made = Zygote.start()
    yield made
    made.close()


def _reverses(path: Path) -> None:
    """All that QEMU does with a device's connection, and each answer is the right one."""
    with FrontEnd.connect(path, timeout=20) as vm:
        first, second = vm.queue(0, size=16), vm.queue(1, size=16)
        assert first.request([b"abc"], [3]) == [b"cba"]
        vm.write_config(8, b"written")
        assert vm.config() == (b"reverserwritten" + bytes(241))
        base = vm.stop(first)
        assert base == 1
        vm.start(first, base=base)
        waits = first.add([b"while it is replaced"], [20])
        vm.replace_call(first)
        first.kick()
        assert first.wait(waits).buffers == [b"decalper si ti elihw"]
        assert second.request([b"two"], [3]) == [b"owt"]
        vm.reboot()
        assert [first.request([b"%d" % number], [1]) for number in range(3)] == [[b"0"], [b"1"], [b"2"]]
        assert (vm.stop(first), vm.stop(second)) == (3, 0)


@pytest.mark.parametrize("offset", range(3))
def test_a_supervisor_dies_at_any_system_call(zygote: Zygote, tmp_path: Path, offset: int) -> None:
    spec = DeviceSpec(kind_of(Reverser), NAME, {})
    before = descriptors()
    for stop in count(offset * 2, STRIDE):
        if not survives(spec, zygote, tmp_path, stop, _reverses):
            break
        gc.collect()  # mappings have descriptors of their own
        assert descriptors() == before
    print("stops", stop)
    assert stop > 200


def test_what_a_guest_has_open_stays_open(zygote: Zygote, tmp_path: Path) -> None:
    """Its keeper lives on, and so do the questions that its worker asks."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "there").write_bytes(b"from before")

    def works(path: Path) -> None:
        with FrontEnd.connect(path, timeout=20) as vm:
            client = ShareClient(vm.queue(1, size=64))
            client.init()
            node = client.lookup(b"there")
            handle = client.open(node)
            made, written = client.create(b"made")
            client.write(made, written, b"data", 0)
            (shared / "made").unlink()
            vm.replace_call(client.queue)
            base = vm.stop(client.queue)
            vm.start(client.queue, base=base)
            assert client.read(node, handle) == b"from before"
            assert client.read(made, written) == b"data"
            client.release(made, written)
            assert client.lookup(b"there") == node

    spec = DeviceSpec("fs", NAME, {"shared_dir": str(shared)})
    for stop in count(0, 3 * STRIDE):
        if not survives(spec, zygote, tmp_path, stop, works):
            break
    assert stop > 200
