"""In the guest: says of each inotify event in FOLDER, in a file, that it came. Standard library only.

usage: inside.py FOLDER ANSWERS      until a file called "end" is made in FOLDER

ANSWERS gets a line for each event: its mask in hex, and the name. The first line is "ready".
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

WANTED = 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200  # all but what reading causes (linux/inotify.h)
EVENT = struct.Struct("iIII")
libc = ctypes.CDLL(None, use_errno=True)

folder, answers = sys.argv[1:]
fd = libc.inotify_init1(0)
if libc.inotify_add_watch(fd, os.fsencode(folder), WANTED) < 0:
    sys.exit(os.strerror(ctypes.get_errno()))
output = os.open(answers, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(output, b"ready\n")
name = b""
while name != b"end":
    data, at, said = os.read(fd, 1 << 18), 0, b""
    while at < len(data):
        _watch, mask, _cookie, length = EVENT.unpack_from(data, at)
        name = data[at + EVENT.size : at + EVENT.size + length].rstrip(b"\0")
        said += b"%x %b\n" % (mask, name)
        at += EVENT.size + length
    os.write(output, said)
