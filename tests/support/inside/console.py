"""A program at a terminal.

console.py TERMINAL prints the terminal's name, and then each line that it reads there, until an empty one: JSON texts.
"""

from __future__ import annotations

import json
import os
import sys
import termios

with open(os.open(sys.argv[1], os.O_RDWR), "r+b", buffering=0) as terminal:
    termios.tcflush(terminal, termios.TCIFLUSH)  # what was typed for others
    print(json.dumps(os.ttyname(terminal.fileno())), flush=True)
    while True:
        terminal.write(b"> ")
        line = os.read(terminal.fileno(), 4096).decode()
        print(json.dumps(line), flush=True)
        if line == "\n":
            break
