"""Which of two twins is in use: the compiled module, or the plain Python that it does the same as.

The compiled ones are made while the package is installed, where there are a C compiler and Python's headers
(installers/fast_build.py). SUBOS_FAST=0 in the environment leaves them alone.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

WANTED = os.environ.get("SUBOS_FAST", "") != "0"


def compiled(name: str) -> Any:
    """The compiled module `name`, or None where the plain one is to be used."""
    if not WANTED:
        return None
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def reason() -> tuple[str, str]:
    """Why plain Python is in use, and a hint; ("", "") where it is not."""
    if not WANTED:
        return "SUBOS_FAST=0 in the environment asks for it", ""
    try:
        importlib.import_module("subos_devices.vhost_user._ring")
    except ModuleNotFoundError:
        import sysconfig  # a worker needs none

        headers = os.path.join(sysconfig.get_path("include"), "Python.h")
        missing = "" if os.path.exists(headers) else " and Python's headers (python3-dev, python3-devel)"
        return "the fast path was not compiled", f"with a C compiler{missing} there, install SubOS again"
    except ImportError as error:
        return f"the compiled modules do not load: {error}", "install SubOS again"
    return "", ""
