"""What a person sees when something is wrong: one line, and a hint what to do.

SubosError
├── UserError        the request cannot be met as it was made (exit 2)
└── GuestLost        the VM ended before its command did (exit 125)
"""

from __future__ import annotations

from collections.abc import Collection


class SubosError(Exception):
    """`message` says what is wrong, `hint` what to do about it; `exit_code` is the command's."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UserError(SubosError):
    """The request cannot be met as it was made."""

    exit_code = 2


class GuestLost(SubosError):
    """The VM ended before its command did: a panic, a killed QEMU, a closed console."""

    exit_code = 125


def did_you_mean(name: str, known: Collection[str], otherwise: str = "") -> str:
    """The hint where `name` is none of `known`: the nearest of them; where none is near `otherwise`, or all of them."""
    import difflib  # here, as workers are forked from who imports this, and need none

    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]}?" if near else otherwise or f"there are {', '.join(known)}"
