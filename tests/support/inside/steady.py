"""In the guest: work that must not be disturbed, until a file `FOLDER/enough` is there. `steady.py FOLDER PORT` echoes
what comes on vsock connections to PORT, writes, reads, renames and removes files in FOLDER, and has one open that is
removed; it says what it has done in `FOLDER/done`, as JSON."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import threading
import traceback

CHUNK = 64 << 10


def echo(listener: socket.socket) -> None:
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(sock,), daemon=True).start()


def serve(sock: socket.socket) -> None:
    with sock:
        while data := sock.recv(CHUNK):
            sock.sendall(data)


def work(folder: str) -> int:
    """How many files there were."""
    with open(os.path.join(folder, "held"), "w+b", buffering=0) as held:
        os.unlink(os.path.join(folder, "held"))
        number, said = 0, hashlib.sha256()
        while not os.path.exists(os.path.join(folder, "enough")):
            number += 1
            data = os.urandom(1 + 997 * (number % 50))
            path = os.path.join(folder, f"file-{number}")
            with open(path, "wb") as file:
                file.write(data)
            os.rename(path, path + "-renamed")
            with open(path + "-renamed", "rb") as file:
                if file.read() != data:
                    raise ValueError(f"file {number} is another one")
            os.unlink(path + "-renamed")
            if os.path.lexists(path) or os.listdir(folder).count(f"file-{number}-renamed"):
                raise ValueError(f"file {number} is still there")
            held.write(data)
            said.update(data)
        held.seek(0)
        found = hashlib.sha256()
        while part := held.read(CHUNK):
            found.update(part)
        if found.digest() != said.digest():
            raise ValueError("the file that was held is another one")
        return number


def main(folder: str, port: str) -> None:
    listener = socket.socket(socket.AF_VSOCK)
    listener.bind((socket.VMADDR_CID_ANY, int(port)))
    listener.listen()
    threading.Thread(target=echo, args=(listener,), daemon=True).start()
    with open(os.path.join(folder, "ready"), "w"):
        pass
    result: dict[str, object]
    try:
        result = {"files": work(folder), "error": ""}
    except BaseException:
        result = {"files": 0, "error": traceback.format_exc()}
    with open(os.path.join(folder, "writing"), "w") as said:
        json.dump(result, said)
    os.rename(os.path.join(folder, "writing"), os.path.join(folder, "done"))


main(*sys.argv[1:])
