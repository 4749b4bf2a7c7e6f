"""subos-agent.pyz: the agent as one file, which Python 3.9 or newer runs where it lies (zipapp's format)."""

from __future__ import annotations

import io
import time
import zipfile

from subos_protocol import __version__

from . import payload
from .payload import File

SHEBANG = b"#!/usr/bin/env python3\n"
EARLIEST = 315532800  # 1980-01-01: a zip archive knows no time before
MAIN = b"""\
import sys

if sys.version_info < (3, 9):
    sys.exit("subos-agent: Python 3.9 or newer is needed, and this is %d.%d" % sys.version_info[:2])
from subos_agent.cli import main

sys.exit(main())
"""


def build(version: str = __version__) -> File:
    """The program, which can be run. Raises UserError."""
    moment = time.gmtime(max(payload.timestamp(), EARLIEST))[:6]
    buffer = io.BytesIO(SHEBANG)
    buffer.seek(0, io.SEEK_END)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
        for file in [File("__main__.py", MAIN), *payload.modules(version)]:
            member = zipfile.ZipInfo(file.path, moment)
            member.create_system, member.external_attr = 3, (0o100000 | file.mode) << 16  # as on Unix
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, file.content)
    return File("subos-agent.pyz", buffer.getvalue(), 0o755)
