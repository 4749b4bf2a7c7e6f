"""A device of somebody's whose module starts a thread when it is loaded."""

from __future__ import annotations

import _thread
import time

from .strangers import Reverser

_thread.start_new_thread(time.sleep, (1000,))


class Eager(Reverser):
    """Serves like a Reverser, where it may."""
