"""What keeps a worker from the rest of the machine, besides its own checks: nothing yet.

Whoever starts a worker is told so in plain words, and so is whoever asks the doctor: a sandbox that people believe in
and that is not there is worse than none.
"""

from __future__ import annotations

WHAT = "workers are not sandboxed: each has all the rights of the user who starts it"
HINT = "share with guests you do not trust only as a user who may do little"
