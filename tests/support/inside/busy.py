"""In the guest: every device at work at once.   busy.py SHARE…

The first SHARE is where host and guest say how far they are: the guest makes `.ready`, the host `.begin`; the work goes
on until there is `.end`; then the guest writes what was done to `.done`, and leaves when there is `.leave`:
{"files": {SHARE: {name: SHA-256}}, "pressed": {device: [keys]}, "counts": {…}, "errors": […]}.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from subos_agent import evdev
from subos_protocol.input_codes import Ev, code_name

HOST, HOST_PORT, GUEST_PORT = 2, 6000, 6001
FILES = 40  # of each share at a time
BLOCK = 1 << 16
PATIENCE = 30.0  # seconds in which held keys come up, once no driver is left

ended = threading.Event()
counts: Counter[str] = Counter()
errors: list[str] = []


def until_end(work: Callable[[], Iterator[None]], what: str) -> Callable[[], None]:
    """What a thread does: `work` step by step. Whatever it raises is one of the errors."""

    def live() -> None:
        try:
            for _ in work():
                counts[what] += 1
                if ended.is_set():
                    return
        except BaseException:
            errors.append(f"{what}: {traceback.format_exc(limit=-3)}")

    return live


def write_files(share: Path, known: dict[str, str]) -> Iterator[None]:
    """Makes, appends, renames over others, reads, removes; `known` is what must be there."""
    chance = random.Random(os.fspath(share))
    contents: dict[str, bytes] = {}
    for number in range(1 << 30):
        name = f"{number}"
        data = chance.randbytes(chance.randrange(BLOCK))
        draft = share / "draft"
        with draft.open("wb") as file:
            file.write(data)
            if number % 8 == 0:
                os.fsync(file.fileno())
        if contents and number % 3 == 0:
            name = chance.choice(list(contents))
        draft.rename(share / name)
        contents[name] = data
        other = chance.choice(list(contents))
        if number % 2:
            more = chance.randbytes(100)
            with (share / other).open("ab") as file:
                file.write(more)
            contents[other] += more
        if (share / other).read_bytes() != contents[other]:
            raise AssertionError(f"{share / other} is not what was written")
        if len(contents) > FILES:
            removed = chance.choice(list(contents))
            (share / removed).unlink()
            del contents[removed]
        known.clear()
        known.update({name: hashlib.sha256(data).hexdigest() for name, data in contents.items()})
        yield


def draw() -> Iterator[None]:
    with open("/dev/hwrng", "rb", buffering=0) as file:
        while True:
            if not file.read(64):
                raise AssertionError("no random bytes")
            yield


def call_host() -> Iterator[None]:
    """A stream ends early where the device's process dies; what came is what was sent all the same."""
    while True:
        try:
            with socket.socket(socket.AF_VSOCK) as sock:
                sock.settimeout(30)
                sock.connect((HOST, HOST_PORT))
                for _ in range(8):
                    sent = os.urandom(BLOCK)
                    sock.sendall(sent)
                    if (back := receive(sock, BLOCK)) != sent:
                        if sent.startswith(back):
                            raise ConnectionError
                        raise AssertionError("a stream has brought back other bytes")
                    yield
        except (ConnectionError, TimeoutError):
            counts["streams that ended early"] += 1
            time.sleep(0.05)
            if ended.is_set():
                return


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def serve_host(listener: socket.socket) -> Iterator[None]:
    """Sends back what comes."""
    listener.settimeout(0.2)
    while True:
        yield
        try:
            client = listener.accept()[0]
        except TimeoutError:
            continue
        with client:
            client.settimeout(30)
            try:
                while data := client.recv(BLOCK):
                    client.sendall(data)
            except (ConnectionError, TimeoutError):
                counts["streams that ended early"] += 1


def read_events() -> Iterator[None]:
    """All devices, those too that come meanwhile."""
    opened: dict[Path, evdev.EventDevice] = {}
    while True:
        for device in evdev.devices():
            if device.path in opened:
                device.close()
            else:
                opened[device.path] = device
        poll = select.poll()
        for device in opened.values():
            poll.register(device.fd, select.POLLIN)
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            for fd, _ in poll.poll(200):
                [path] = [path for path, device in opened.items() if device.fd == fd]
                try:
                    counts[f"bytes of {opened[path].name}"] += len(os.read(fd, 1 << 14))
                except OSError:  # it was taken out
                    opened.pop(path).close()
                    deadline = 0
                    break
            yield


def pressed() -> dict[str, list[str]]:
    """Of each device, the keys that are down (EVIOCGKEY)."""
    found = {}
    for device in evdev.devices():
        with device:
            found[f"{device.path.name} {device.name}"] = [code_name(Ev.EV_KEY, code) for code in sorted(device.pressed)]
    return found


def main(shares: list[Path]) -> None:
    files: dict[str, dict[str, str]] = {os.fspath(share): {} for share in shares}
    listener = socket.socket(socket.AF_VSOCK)
    listener.bind((socket.VMADDR_CID_ANY, GUEST_PORT))
    listener.listen()
    work = {
        f"files of {share.name}": lambda share=share: write_files(share, files[os.fspath(share)]) for share in shares
    }
    work |= {"draws": draw, "blocks to the host": call_host, "turns of the server": lambda: serve_host(listener)}
    work["looks at events"] = read_events
    threads = [threading.Thread(target=until_end(function, what), name=what) for what, function in work.items()]
    (shares[0] / ".ready").touch()
    wait_for(shares[0] / ".begin")
    for thread in threads:
        thread.start()
    wait_for(shares[0] / ".end")
    ended.set()
    for thread in threads:
        thread.join(60)
    errors.extend(f"{thread.name} does not end" for thread in threads if thread.is_alive())
    listener.close()
    deadline = time.monotonic() + PATIENCE
    while any((held := pressed()).values()) and time.monotonic() < deadline:
        time.sleep(0.1)
    said = {"files": files, "pressed": held, "counts": counts, "errors": errors}
    (shares[0] / ".draft").write_text(json.dumps(said))
    (shares[0] / ".draft").rename(shares[0] / ".done")
    wait_for(shares[0] / ".leave")
    os._exit(0)  # a thread that hangs is told of above


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.2)


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
