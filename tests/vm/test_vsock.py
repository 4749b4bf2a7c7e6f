"""Streams between programs of the host and of a booted guest, and what becomes of them when the worker is killed."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from subos_devices.launcher.devices import vsock_path
from subos_devices.vsock import client
from support.command import COMMAND, status_of, subos
from support.guest import Guest
from support.ordinary import NOBODY
from support.steps import step
from support.waiting import eventually

pytestmark = pytest.mark.vm

MIB = 1 << 20
PROGRAM = "vsock.py"


def socket_of(guest: Guest) -> Path:
    return vsock_path(guest.vm.folder)


@contextlib.contextmanager
def listening(guest: Guest, port: int) -> Iterator[socket.socket]:
    """The host's end of `port`."""
    path = Path(f"{socket_of(guest)}_{port}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen(1024)
        listener.settimeout(60)
        try:
            yield listener
        finally:
            path.unlink()


def answer_of(guest: Guest, begun: concurrent.futures.Future[Any]) -> Any:
    done = guest.finish(begun)
    assert done.status == 0, done.stderr.decode()
    return json.loads(done.stdout)


def read_all(sock: socket.socket) -> bytes:
    data = bytearray()
    while part := sock.recv(MIB):
        data += part
    return bytes(data)


class Echo:
    """The guest echoes what `count` clients of the host send to `port`."""

    def __init__(self, guest: Guest, folder: Path, port: int, count: int = 1) -> None:
        ready = folder / f"ready-{port}"
        self._guest = guest
        self._begun = guest.begin(guest.inside_command(PROGRAM, "serve-echo", str(port), str(count), str(ready)))
        eventually(lambda: ready.exists() or self._begun.done(), timeout=60)

    def end(self) -> None:
        assert answer_of(self._guest, self._begun) == "done"


def test_the_guest_has_the_device(guest: Guest) -> None:
    assert guest.check("sh", "-c", "test -c /dev/vsock && echo yes") == "yes\n"
    row = next(row for row in status_of(guest.vm.plan.name)["devices"] if row["name"] == "vsock")
    assert (row["kind"], row["driver"]) == ("vsock", True)
    assert set(row["vsock"]) == {"connections", "opened", "refused", "bytes_to_guest", "bytes_to_host"}


def test_a_program_of_the_host_reaches_one_of_the_guest(guest: Guest, folder: Path) -> None:
    echo = Echo(guest, folder, 5000)
    with client.connect(socket_of(guest), 5000) as sock:
        sock.sendall(b"hello")
        assert sock.recv(64) == b"hello"
        sock.sendall(b"the end")
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b"the end"
    echo.end()


def test_the_command_joins_a_stream_to_its_own(guest: Guest, folder: Path) -> None:
    echo = Echo(guest, folder, 5001)
    data = os.urandom(MIB)
    assert subos("vsock", guest.vm.plan.name, "5001", stdin=data, check=0).stdout == data
    echo.end()
    refused = subos("vsock", guest.vm.plan.name, "5001", check=2)
    assert b"nobody in the guest listens on vsock port 5001" in refused.stderr


def test_the_command_hands_the_stream_over(guest: Guest, folder: Path) -> None:
    """As ssh's ProxyUseFdpass wants it."""
    echo = Echo(guest, folder, 5003)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(60)
        words = [*COMMAND, "vsock", "--pass-fd", guest.vm.plan.name, "5003"]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=theirs)
        _, fds, _, _ = socket.recv_fds(ours, 16, 1)
        assert process.wait(60) == 0
    with socket.socket(fileno=fds[0]) as stream:
        stream.sendall(b"handed over")
        assert stream.recv(64) == b"handed over"
    echo.end()


def test_64_mib_of_the_guests(guest: Guest) -> None:
    with listening(guest, 6000) as listener:
        begun = guest.begin(guest.inside_command(PROGRAM, "send", "6000", str(64 * MIB)), timeout=120)
        sock, _ = listener.accept()
        with sock:
            digest, size = hashlib.sha256(), 0
            while data := sock.recv(MIB):
                digest.update(data)
                size += len(data)
            sock.sendall(b"all of it")
        assert size == 64 * MIB
        assert answer_of(guest, begun) == [digest.hexdigest(), "all of it"]


def test_64_mib_for_the_guest(guest: Guest) -> None:
    data = os.urandom(64 * MIB)
    with listening(guest, 6001) as listener:
        begun = guest.begin(guest.inside_command(PROGRAM, "receive", "6001"), timeout=120)
        sock, _ = listener.accept()
        with sock:
            sock.sendall(data)
        assert answer_of(guest, begun) == [len(data), hashlib.sha256(data).hexdigest()]


def test_500_connections_of_the_guests_at_once(guest: Guest) -> None:
    def answer(sock: socket.socket) -> None:
        with sock:
            sock.sendall(read_all(sock)[::-1])

    with listening(guest, 6002) as listener:
        begun = guest.begin(guest.inside_command(PROGRAM, "many", "6002", "500"), timeout=120)
        socks = [listener.accept()[0] for _ in range(500)]
        for sock in socks:
            answer(sock)
        assert sorted(answer_of(guest, begun)) == sorted(f"word {index}"[::-1] for index in range(500))


def test_500_connections_of_the_hosts_at_once(guest: Guest, folder: Path) -> None:
    echo = Echo(guest, folder, 5002, 500)
    socks = [client.connect(socket_of(guest), 5002) for _ in range(500)]
    for index, sock in enumerate(socks):
        sock.sendall(b"word %d" % index)
    for index, sock in enumerate(socks):
        with sock:
            assert sock.recv(64) == b"word %d" % index
    echo.end()


def test_ports_below_1024_are_for_privileged_programs(guest: Guest) -> None:
    def reach(port: int, source: int, uid: int = 0) -> Any:
        return json.loads(guest.inside(PROGRAM, "reach", str(port), str(source), str(uid)))

    with listening(guest, 253), listening(guest, 6003):
        assert reach(253, 1000) == "connected"
        assert reach(253, 0) == "Connection reset by peer"  # root, from an ordinary port
        assert reach(253, 0, NOBODY) == "Connection reset by peer"
        assert reach(253, 1000, NOBODY) == "Permission denied"
        assert reach(6003, 0, NOBODY) == "connected"
    assert reach(6003, 0) == "Connection reset by peer"  # nobody listens any more


def test_the_worker_is_killed_in_mid_transfer(guest: Guest, folder: Path) -> None:
    """Both ends hear of it at once, nothing hangs, and the next connection works."""
    server = guest.vm.supervisor.devices["vsock"]
    restarts = server.restarts
    with listening(guest, 6004) as listener:
        ready = folder / "ready"
        begun = guest.begin(guest.inside_command(PROGRAM, "flow", "6004", str(ready)))
        sock, _ = listener.accept()
        ended: list[float] = []

        def flow(work: Any) -> None:
            with contextlib.suppress(OSError):
                while work():
                    pass
            ended.append(time.monotonic())

        works = (lambda: sock.recv(MIB), lambda: sock.send(bytes(MIB)))
        threads = [threading.Thread(target=flow, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        moved = statistics(guest)["bytes_to_guest"]
        eventually(ready.exists, timeout=60)
        step("wait for both directions to flow, then kill the worker")
        eventually(lambda: statistics(guest)["bytes_to_guest"] > moved + 4 * MIB, timeout=60)
        killed = time.monotonic()
        os.kill(guest.worker("vsock"), signal.SIGKILL)
        seen = answer_of(guest, begun)
        guest_ended = time.monotonic() - killed
        for thread in threads:
            thread.join()
        sock.close()
        step(f"the host's ends took {[round(moment - killed, 3) for moment in ended]} s, the guest's {guest_ended:.3f}")
        assert max(ended) - killed < 1
        assert guest_ended < 3  # its program's end and the way back included
        assert seen["apart"] < 1
        assert all(how != "Connection timed out" for how in seen["ends"].values())
    assert eventually(lambda: server.restarts == restarts + 1)
    test_a_program_of_the_host_reaches_one_of_the_guest(guest, folder)


def statistics(guest: Guest) -> dict[str, int]:
    server = guest.vm.supervisor.devices["vsock"]
    counted: dict[str, int] = server.describe()["vsock"]
    return counted


def test_nothing_is_left_open(guest: Guest) -> None:
    """But for the guest's agent, which has one of its own."""
    eventually(lambda: statistics(guest)["connections"] <= 1, timeout=15)
