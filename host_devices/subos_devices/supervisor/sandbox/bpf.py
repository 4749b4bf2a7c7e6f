"""A seccomp filter: rules in, a classic BPF program out (linux/filter.h, linux/seccomp.h).

Every system call has one rule. What has none gets the default action.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

# linux/seccomp.h
KILL_PROCESS, ERRNO, LOG, ALLOW = 0x8000_0000, 0x0005_0000, 0x7FFC_0000, 0x7FFF_0000
AUDIT_ARCH = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}  # linux/audit.h
MOST = 4096  # instructions, BPF_MAXINSNS

_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, jt, jf, k
_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_ALU|BPF_AND|BPF_K, BPF_RET|BPF_K
_EQUAL, _AT_LEAST = 0x15, 0x35  # BPF_JMP|BPF_K with BPF_JEQ, BPF_JGE
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_X32 = 0x4000_0000  # __X32_SYSCALL_BIT: another table under the same arch
_WORD = 0xFFFF_FFFF


class Where(NamedTuple):
    """Argument number `argument`, as far as `mask` goes, is `value`: both 64 bits."""

    argument: int
    mask: int
    value: int


class Rule(NamedTuple):
    """Allowed where all of one of `either` hold (None: always); else the errno `refused`, or the default action."""

    either: tuple[tuple[Where, ...], ...] | None = None
    refused: int = 0


class Instruction(NamedTuple):
    code: int
    if_true: int
    if_false: int
    constant: int


def assemble(rules: Mapping[int, Rule], machine: str, otherwise: int) -> list[Instruction]:
    """The program for `rules` by number; `otherwise` is the default action. Raises ValueError where it is too long."""
    program = [
        Instruction(_LOAD, 0, 0, _ARCH),
        Instruction(_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        Instruction(_RETURN, 0, 0, KILL_PROCESS),
        Instruction(_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        program += [Instruction(_AT_LEAST, 0, 1, _X32), Instruction(_RETURN, 0, 0, KILL_PROCESS)]
    for number, rule in sorted(rules.items()):
        body = _body(rule, ERRNO | rule.refused if rule.refused else otherwise)
        program += [Instruction(_EQUAL, 0, _short(len(body)), number), *body]
    program.append(Instruction(_RETURN, 0, 0, otherwise))
    if len(program) > MOST:
        raise ValueError(f"a filter of {len(program)} instructions")
    return program


def _body(rule: Rule, action: int) -> list[Instruction]:
    """What is done with a call once its number fits: each way through it returns."""
    if rule.either is None:
        return [Instruction(_RETURN, 0, 0, ALLOW)]
    body: list[Instruction] = []
    for conditions in rule.either:
        body += _all(list(_words(conditions)))
    return [*body, Instruction(_RETURN, 0, 0, action)]


def _words(conditions: Iterable[Where]) -> Iterable[tuple[int, int, int]]:
    """Offset, mask and value of each half of an argument that a condition looks at. Both machines are little-endian."""
    for argument, mask, value in conditions:
        if value & ~mask:
            raise ValueError("a condition on bits that its mask leaves out")
        for half in (0, 32):
            if mask >> half & _WORD:
                yield _ARGUMENTS + 8 * argument + half // 8, mask >> half & _WORD, value >> half & _WORD


def _all(words: Sequence[tuple[int, int, int]]) -> list[Instruction]:
    """ALLOW where all of `words` fit; falls through where one does not."""
    body: list[Instruction] = []
    for index, (offset, mask, value) in enumerate(words):
        rest = 3 * (len(words) - index - 1) + 1
        body += [
            Instruction(_LOAD, 0, 0, offset),
            Instruction(_AND, 0, 0, mask),
            Instruction(_EQUAL, 0, _short(rest), value),
        ]
    return [*body, Instruction(_RETURN, 0, 0, ALLOW)]


def _short(distance: int) -> int:
    if distance > 0xFF:
        raise ValueError("a rule with too many conditions")
    return distance


def pack(program: Iterable[Instruction]) -> bytes:
    """An array of struct sock_filter."""
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)
