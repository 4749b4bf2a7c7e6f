"""Tests that give something up for good, in a forked child that ends with them."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable


def in_child(function: Callable[[], None]) -> None:
    """Runs `function` in a child. Raises AssertionError with what it raised."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            function()
            status = 0
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-60000:])
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    _, wait = os.waitpid(child, 0)
    assert wait == 0, f"in the child (status {os.waitstatus_to_exitcode(wait)}):\n{said}"
