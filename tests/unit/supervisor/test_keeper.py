"""A keeper: what a worker has opened outlives it, and little can be asked of the keeper, whoever asks."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator

import pytest

from subos_devices.supervisor.keeper_process import BIRTH, KILL, REBIRTH
from subos_devices.supervisor.process_models import Model
from subos_devices.supervisor.zygote import Wanted, Zygote
from subos_devices.testing.serving import children, importable
from subos_devices.vhost_user.counters import Counters
from subos_devices.vhost_user.device import DeviceSpec
from support.processes import descriptors, is_alive
from support.waiting import eventually

KIND = "support.strangers:Keeping"


@pytest.fixture
def zygote(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zygote]:
    monkeypatch.setenv("PYTHONPATH", importable()["PYTHONPATH"])
    before = descriptors()
    zygote = Zygote.start()
    yield zygote
    zygote.close()
    assert descriptors() == before


class Keeper:
    """One that was asked for; `channel` is the supervisor's end."""

    def __init__(self, zygote: Zygote, **options: str) -> None:
        self.zygote = zygote
        self.pid = -1
        self.status: int | None = None
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(10)
        counters = Counters.create()
        spec = DeviceSpec(KIND, "kept", options)
        with theirs:
            zygote.spawn([Wanted(spec, theirs, counters, False, self._born, self._ended)], Model(), keeper=True)
        os.close(counters)
        hear(zygote, lambda: self.pid > 0)

    def _born(self, pid: int) -> None:
        self.pid = pid

    def _ended(self, status: int) -> None:
        self.status = status

    def bear(self, command: bytes = BIRTH) -> socket.socket:
        """The supervisor's end of a worker's control socket."""
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control.settimeout(10)
        with theirs:
            socket.send_fds(self.channel, [command], [theirs.fileno()])
        return control

    @property
    def worker(self) -> int:
        (pid,) = eventually(lambda: children(self.pid))
        return pid

    def says(self) -> dict[str, object]:
        message: dict[str, object] = json.loads(self.channel.recv(1000) or b'{"op": "gone"}')
        return message

    def has_ended(self) -> int:
        hear(self.zygote, lambda: self.status is not None)
        assert self.status is not None
        return self.status


def hear(zygote: Zygote, until: Callable[[], object]) -> None:
    while not until():
        assert select.select([zygote.channel], [], [], 10)[0], "the zygote says nothing"
        assert zygote.hear()


@pytest.fixture
def keeper(zygote: Zygote) -> Iterator[Keeper]:
    made = Keeper(zygote)
    yield made
    made.channel.close()
    eventually(lambda: not is_alive(made.pid))


def ready(control: socket.socket) -> socket.socket:
    assert json.loads(control.recv(10_000))["op"] == "ready"
    return control


def test_a_worker_is_its_child_and_holds_the_same_descriptors(keeper: Keeper) -> None:
    with ready(keeper.bear()):
        held = descriptors(keeper.worker)
        assert descriptors(keeper.pid) == held
        os.kill(keeper.worker, signal.SIGKILL)
        assert keeper.says() == {"op": "exited", "status": -signal.SIGKILL}
        held.remove("socket")  # its control socket
        eventually(lambda: descriptors(keeper.pid) == held)


def test_the_next_worker_closes_what_it_does_not_need(keeper: Keeper) -> None:
    controls = [ready(keeper.bear())]
    held = descriptors(keeper.worker)
    for _ in range(5):
        os.kill(keeper.worker, signal.SIGKILL)
        assert keeper.says()["op"] == "exited"
        controls.append(ready(keeper.bear(REBIRTH)))
        assert descriptors(keeper.worker) == held
    for control in controls:
        control.close()


def test_its_death_shows_at_the_control_socket_although_others_hold_its_end(keeper: Keeper) -> None:
    with ready(keeper.bear()) as control:
        os.kill(keeper.worker, signal.SIGKILL)
        assert control.recv(10) == b""
        assert is_alive(keeper.pid)


def test_a_worker_is_killed_on_demand_and_the_next_one_made_at_once(keeper: Keeper) -> None:
    with ready(keeper.bear()) as first:
        os.kill(keeper.worker, signal.SIGSTOP)
        keeper.channel.send(KILL)
        with ready(keeper.bear(REBIRTH)) as second:
            assert first.recv(10) == b""
            assert keeper.says() == {"op": "exited", "status": -signal.SIGKILL}
            os.kill(keeper.worker, signal.SIGKILL)
            assert second.recv(10) == b""


def test_where_there_is_none_to_kill_nothing_happens(keeper: Keeper) -> None:
    keeper.channel.send(KILL)
    with ready(keeper.bear()):
        assert is_alive(keeper.worker)


def test_one_that_ends_in_good_order_takes_its_keeper_along(keeper: Keeper) -> None:
    ready(keeper.bear()).close()  # which is how a supervisor lets go
    assert keeper.says() == {"op": "exited", "status": 0}
    assert keeper.says() == {"op": "gone"}
    assert keeper.has_ended() == 0


def test_one_that_cannot_be_built_has_ended_when_its_socket_says_so(zygote: Zygote) -> None:
    """Nothing of a worker's is closed before, by whatever frees objects: the table is its keeper's, too."""
    keeper = Keeper(zygote, unbuildable="yes")
    with keeper.channel, keeper.bear() as control:
        assert json.loads(control.recv(1000))["op"] == "failed"
        assert control.recv(1000) == b""
        keeper.channel.setblocking(False)
        assert keeper.says() == {"op": "exited", "status": 0}
        assert keeper.has_ended() == 0


def test_one_worker_at_a_time(keeper: Keeper) -> None:
    with ready(keeper.bear()), keeper.bear() as second:
        assert second.recv(10) == b""
        keeper.has_ended()


@pytest.mark.parametrize("command", [b"x", b"birth ", b'{"op": "birth"}', bytes(4096)])
def test_nothing_else_can_be_asked_for(keeper: Keeper, command: bytes) -> None:
    with ready(keeper.bear()) as control:
        worker = keeper.worker
        keeper.channel.send(command)
        assert control.recv(10) == b""
        keeper.has_ended()
        assert not is_alive(worker)


def test_a_birth_without_a_socket_ends_it(keeper: Keeper) -> None:
    keeper.channel.send(BIRTH)
    keeper.has_ended()


def test_descriptors_beside_a_command_that_wants_none_are_not_kept(keeper: Keeper) -> None:
    with ready(keeper.bear()), open("/proc/self/status") as unwanted:
        socket.send_fds(keeper.channel, [KILL], [unwanted.fileno()] * 2)
        assert keeper.says()["op"] == "exited"
        with ready(keeper.bear(REBIRTH)):
            assert not [name for name in descriptors(keeper.worker) if name.endswith("/status")]


def test_it_dies_with_its_keeper(keeper: Keeper) -> None:
    with ready(keeper.bear()) as control:
        worker = keeper.worker
        os.kill(keeper.pid, signal.SIGKILL)
        assert control.recv(10) == b""
        eventually(lambda: not is_alive(worker))


def test_both_die_with_the_zygote(keeper: Keeper) -> None:
    with ready(keeper.bear()):
        worker = keeper.worker
        os.kill(keeper.zygote.pid, signal.SIGKILL)
        eventually(lambda: not is_alive(worker) and not is_alive(keeper.pid))


def test_one_that_does_not_let_go_is_not_waited_for_long(keeper: Keeper) -> None:
    with ready(keeper.bear()):
        worker = keeper.worker
        os.kill(worker, signal.SIGSTOP)
        keeper.channel.close()
        eventually(lambda: not is_alive(worker))


def test_a_device_that_has_nothing_to_keep_says_so(zygote: Zygote) -> None:
    keeper = Keeper(zygote, unwilling="yes")
    assert keeper.says() == {"op": "failed", "message": "nothing can be kept here", "hint": "keep less"}
    assert keeper.says() == {"op": "gone"}
    keeper.channel.close()
