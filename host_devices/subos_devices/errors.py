"""What a person sees when something is wrong: one line, and a hint what to do.

SubosError
├── UserError        the request cannot be met as it was made (exit 2)
└── GuestLost        the VM ended before its command did (exit 125)
"""


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
