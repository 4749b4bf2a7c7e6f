"""In the guest: programs at the ends of vsock streams. `vsock.py WHAT ARGUMENT…` prints its result as JSON."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import threading
import time

HOST = 2
CHUNK = 64 << 10


def connected(port: int, source: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_VSOCK)
    if source:
        sock.bind((socket.VMADDR_CID_ANY, source))
    sock.connect((HOST, port))
    return sock


def listening(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_VSOCK)
    sock.bind((socket.VMADDR_CID_ANY, port))
    sock.listen(1024)
    return sock


def read_all(sock: socket.socket) -> bytes:
    data = bytearray()
    while part := sock.recv(CHUNK):
        data += part
    return bytes(data)


def echo(sock: socket.socket) -> None:
    """Sends back what comes, until it ends."""
    with sock:
        while data := sock.recv(CHUNK):
            sock.sendall(data)


def ready(path: str) -> None:
    """Tells the host, by a file on the share, that it may begin."""
    with open(path, "w"):
        pass


def serve_echo(port: str, count: str, path: str) -> None:
    """`count` clients of the host, all at once."""
    listener = listening(int(port))
    ready(path)
    threads = []
    for _ in range(int(count)):
        sock, (cid, _port) = listener.accept()
        assert cid == HOST, cid
        threads.append(threading.Thread(target=echo, args=(sock,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    print(json.dumps("done"))


def many(port: str, count: str) -> None:
    """`count` connections to the host at once, each with a word of its own."""
    socks = [connected(int(port)) for _ in range(int(count))]
    for index, sock in enumerate(socks):
        sock.sendall(b"word %d" % index)
        sock.shutdown(socket.SHUT_WR)
    print(json.dumps([read_all(sock).decode() for sock in socks]))


def send(port: str, size: str) -> None:
    """`size` bytes to the host; what the host says then, and the hash of what was sent."""
    data = os.urandom(1 << 20)
    digest = hashlib.sha256()
    with connected(int(port)) as sock:
        for _ in range(int(size) >> 20):
            sock.sendall(data)
            digest.update(data)
        sock.shutdown(socket.SHUT_WR)
        print(json.dumps([digest.hexdigest(), read_all(sock).decode()]))


def receive(port: str) -> None:
    """All that the host sends: how much, and its hash."""
    digest, size = hashlib.sha256(), 0
    with connected(int(port)) as sock:
        while data := sock.recv(CHUNK):
            digest.update(data)
            size += len(data)
    print(json.dumps([size, digest.hexdigest()]))


def reach(port: str, source: str, uid: str) -> None:
    """What becomes of a connection from port `source` (0: any) to `port` of the host, by user `uid`."""
    if user := int(uid):  # only now: Python and this file may lie where only root can read
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    try:
        connected(int(port), int(source)).close()
        print(json.dumps("connected"))
    except OSError as error:
        print(json.dumps(error.strerror))


def flow(port: str, path: str) -> None:
    """Sends and receives until both end: how, and how long that took since the first of them did."""
    ends: dict[str, tuple[float, str]] = {}

    def run(name: str, work) -> None:
        try:
            while work():
                pass
            how = "end"
        except OSError as error:
            how = error.strerror
        ends[name] = (time.monotonic(), how)

    with connected(int(port)) as sock:
        block = bytes(CHUNK)
        names = {"sent": lambda: sock.send(block), "received": lambda: sock.recv(CHUNK)}
        threads = [threading.Thread(target=run, args=item) for item in names.items()]
        for thread in threads:
            thread.start()
        ready(path)
        for thread in threads:
            thread.join()
    times = [moment for moment, _ in ends.values()]
    print(json.dumps({"ends": {name: how for name, (_, how) in ends.items()}, "apart": max(times) - min(times)}))


globals()[sys.argv[1].replace("-", "_")](*sys.argv[2:])
