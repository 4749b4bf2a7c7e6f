"""The filter of system calls: what is assembled is what the rules say, for every call and argument."""

from __future__ import annotations

import signal
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_devices.supervisor.sandbox import bpf, numbers, seccomp
from subos_devices.supervisor.sandbox.bpf import ALLOW, ERRNO, KILL_PROCESS, Instruction, Rule, Where
from subos_devices.supervisor.sandbox.policies import Policy, system_calls

X86, ARM = 0xC000_003E, 0xC000_00B7
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def run(program: list[Instruction], number: int, arguments: tuple[int, ...] = (0,) * 6, arch: int = X86) -> int:
    """What the kernel would do: the program's result for a system call."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *arguments)
    at = accumulator = 0
    while True:
        code, if_true, if_false, constant = program[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, constant)
        elif code == 0x54:
            accumulator &= constant
        elif code == 0x06:
            return constant
        else:
            holds = {0x15: accumulator == constant, 0x35: accumulator >= constant}[code]
            at += if_true if holds else if_false


def meant(rules: Mapping[int, Rule], number: int, arguments: tuple[int, ...]) -> int:
    rule = rules.get(number)
    if rule is None:
        return KILL_PROCESS
    if rule.either is None or any(all(arguments[a] & m == v for a, m, v in each) for each in rule.either):
        return ALLOW
    return ERRNO | rule.refused if rule.refused else KILL_PROCESS


words = st.one_of(st.integers(0, 7), st.sampled_from([1 << 31, 1 << 32, (1 << 64) - 1]), st.integers(0, (1 << 64) - 1))
wheres = st.builds(lambda a, m, v: Where(a, m, v & m), st.integers(0, 5), words, words)
alternatives = st.lists(st.lists(wheres, max_size=3).map(tuple), max_size=3).map(tuple)
some_rules = st.dictionaries(
    st.integers(0, 20), st.builds(Rule, st.one_of(st.none(), alternatives), st.sampled_from([0, 1, 13])), max_size=6
)


@given(some_rules, st.integers(0, 21), st.tuples(*[words] * 6))
def test_a_filter_does_what_its_rules_say(rules: dict[int, Rule], number: int, arguments: tuple[int, ...]) -> None:
    program = bpf.assemble(rules, "x86_64", KILL_PROCESS)
    assert run(program, number, arguments) == meant(rules, number, arguments)


def test_a_filter_in_bytes() -> None:
    """struct sock_filter of linux/filter.h, put together by hand; both machines are little-endian."""
    program = bpf.assemble({60: Rule()}, "x86_64", KILL_PROCESS)
    assert bpf.pack(program) == bytes.fromhex(
        "2000000004000000"  # ld [4]
        "150001003e0000c0"  # jeq #AUDIT_ARCH_X86_64, 1, 0
        "0600000000000080"  # ret #SECCOMP_RET_KILL_PROCESS
        "2000000000000000"  # ld [0]
        "3500000100000040"  # jge #__X32_SYSCALL_BIT, 0, 1
        "0600000000000080"
        "150000013c000000"  # jeq #60, 0, 1
        "060000000000ff7f"  # ret #SECCOMP_RET_ALLOW
        "0600000000000080"
    )


@pytest.mark.parametrize("machine", numbers.MACHINES)
def test_calls_of_another_machine_or_table_are_never_made(machine: str) -> None:
    program = bpf.assemble({0: Rule(), 1: Rule()}, machine, KILL_PROCESS)
    ours, other = (X86, ARM) if machine == "x86_64" else (ARM, X86)
    assert run(program, 0, arch=ours) == ALLOW
    assert run(program, 0, arch=other) == KILL_PROCESS
    assert run(program, 0x4000_0000, arch=ours) == KILL_PROCESS


def test_what_cannot_be_assembled() -> None:
    with pytest.raises(ValueError, match="its mask leaves out"):
        bpf.assemble({0: Rule(((Where(0, 1, 2),),))}, "x86_64", KILL_PROCESS)
    with pytest.raises(ValueError, match="too many conditions"):
        bpf.assemble({0: Rule((tuple(Where(0, 1 << n, 0) for n in range(63)),) * 2)}, "x86_64", KILL_PROCESS)
    with pytest.raises(ValueError, match="instructions"):
        bpf.assemble(dict.fromkeys(range(2100), Rule()), "x86_64", KILL_PROCESS)


@pytest.mark.parametrize("machine", numbers.MACHINES)
def test_numbers_are_the_kernel_s(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip(f"the kernel's header {HEADERS[machine]} is not here")
    known: dict[str, int] = {}
    for line in HEADERS[machine].read_text().splitlines():
        match line.split():
            case ["#define", name, number] if name.startswith("__NR") and number.isdecimal():
                known.setdefault(name.removeprefix("__NR3264_").removeprefix("__NR_"), int(number))
    known["newfstatat"] = known.get("newfstatat", known.get("fstatat", -1))
    ours = numbers.table(machine)
    assert len(ours) > 150
    assert {name: number for name, number in ours.items() if known.get(name, number) != number} == {}
    assert len(set(ours.values())) == len(ours)


@pytest.mark.parametrize("machine", numbers.MACHINES)
def test_every_name_of_a_policy_has_a_number(machine: str) -> None:
    named = {*seccomp.RUNTIME, *seccomp.FILES, *seccomp.CHANGES, *seccomp.SHARING, *seccomp.NETWORK}
    named |= set(seccomp.rules((), pid=1))
    everywhere = numbers.table("x86_64")
    assert named <= set(everywhere)
    assert seccomp.program(seccomp.rules(named, pid=1), machine, KILL_PROCESS)


@pytest.mark.parametrize("pid", [1, 5, 4194303])
@pytest.mark.parametrize("calls", [(), seccomp.FILES, (*seccomp.FILES, *seccomp.SHARING, *seccomp.CHANGES)])
def test_a_filter_that_was_compiled_for_anybody_is_the_process_s_own(calls: tuple[str, ...], pid: int) -> None:
    names = (*seccomp.RUNTIME, *calls)
    anybody, own = (seccomp.compiled(seccomp.rules(names, pid=each), kill=True) for each in (seccomp.ANYBODY, pid))
    assert anybody != own
    assert seccomp.addressed(anybody, pid) == own
    rules = seccomp.keepers(seccomp.rules(names, pid=seccomp.ANYBODY))  # which look at no pid
    assert seccomp.addressed(seccomp.compiled(rules, kill=True), pid) == seccomp.compiled(rules, kill=True)


def decide(
    name: str,
    *arguments: int,
    pid: int = 5,
    threads: bool = False,
    calls: tuple[str, ...] = (),
    keeper: bool = False,
) -> int:
    """What becomes of a call of a worker with this pid, or of its keeper."""
    rules = seccomp.rules(system_calls(Policy(calls=calls)), pid=pid) | (seccomp.threads() if threads else {})
    if keeper:
        rules = seccomp.keepers(rules)
    table = numbers.table("x86_64")
    program = bpf.assemble({table[each]: rule for each, rule in rules.items()}, "x86_64", KILL_PROCESS)
    return run(program, table[name], (*arguments, *[0] * (6 - len(arguments))))


@pytest.mark.parametrize(
    ("name", "arguments", "allowed"),
    [
        ("mmap", (0, 4096, 3, 0x22), True),  # private, anonymous
        ("mmap", (0, 4096, 3, 0x01), True),  # shared, of a file
        ("mmap", (0, 4096, 3, 0x21), False),  # shared, anonymous
        ("mmap", (0, 4096, 3, 0x23), False),  # MAP_SHARED_VALIDATE, anonymous
        ("mmap", (0, 4096, 7, 0x22), False),  # executable
        ("mprotect", (0, 4096, 3), True),
        ("mprotect", (0, 4096, 5), False),
        ("fcntl", (3, 4), True),  # F_SETFL
        ("fcntl", (3, 8), False),  # F_SETOWN
        ("fcntl", (3, 10), False),  # F_SETSIG
        ("fcntl", (3, 15), False),  # F_SETOWN_EX
        ("ioctl", (0, 0x5421), True),  # FIONBIO
        ("ioctl", (0, 0x5412), False),  # TIOCSTI: keys into a terminal
        ("prctl", (15,), True),  # PR_SET_NAME
        ("prctl", (4, 1), False),  # PR_SET_DUMPABLE
        ("prlimit64", (0, 7), True),
        ("prlimit64", (5, 7), True),
        ("prlimit64", (6, 7), False),
        ("tgkill", (5, 5, 10), True),
        ("tgkill", (6, 6, 10), False),
        ("newfstatat", (3, 0, 0, 0x1000), True),
        ("newfstatat", (3, 0, 0, 0x100), False),
        ("openat", (-100 & 0xFFFF_FFFF,), False),
        ("socket", (1,), False),
        ("clone", (0x3D0F00,), False),
        ("execve", (), False),
        ("kill", (1, 9), False),
        ("open_by_handle_at", (), False),
    ],
)
def test_arguments_are_looked_at(name: str, arguments: tuple[int, ...], allowed: bool) -> None:
    assert (decide(name, *arguments) == ALLOW) == allowed


@pytest.mark.parametrize(
    ("name", "arguments", "allowed"),
    [
        ("clone", (seccomp.CLONE_FILES | signal.SIGCHLD,), True),
        ("clone", (signal.SIGCHLD,), False),  # a table of its own, which nobody would know of
        ("clone", (seccomp.CLONE_FILES | signal.SIGCHLD | 0x1000_0000,), False),  # CLONE_NEWUSER
        ("clone", (1 << 32 | seccomp.CLONE_FILES | signal.SIGCHLD,), False),
        ("wait4", (7,), True),
        ("kill", (7, signal.SIGKILL), True),
        ("kill", (7, signal.SIGTERM), False),
        ("seccomp", (1,), True),
        ("seccomp", (0,), False),
        ("prctl", (1,), True),  # PR_SET_PDEATHSIG
        ("prctl", (4,), False),  # PR_SET_DUMPABLE
        ("mmap", (0, 4096, 3, 0x21), True),  # shared, of no file
        ("mmap", (0, 4096, 7, 0x22), False),  # and executable
        ("execve", (), False),
        ("ptrace", (), False),
        ("socket", (), False),
    ],
)
def test_a_keeper_can_make_workers_and_little_else(name: str, arguments: tuple[int, ...], allowed: bool) -> None:
    assert (decide(name, *arguments, keeper=True) == ALLOW) == allowed


@given(
    st.sampled_from(sorted(numbers.table("x86_64"))),
    st.tuples(*[st.one_of(st.sampled_from([0, 1, 2, 5, 15, 17, 0x10F00, 0x5421]), words)] * 6),
)
def test_whatever_a_worker_may_its_keeper_may(name: str, arguments: tuple[int, ...]) -> None:
    """Else the filter of the one would end the other, which has both."""
    for threads, calls in ((False, ()), (True, (*seccomp.FILES, *seccomp.SHARING, *seccomp.CHANGES))):
        if decide(name, *arguments, threads=threads, calls=calls) == ALLOW:
            assert decide(name, *arguments, threads=threads, calls=calls, keeper=True) == ALLOW


def test_threads_are_no_processes_and_no_namespaces() -> None:
    assert decide("clone", 0x3D0F00, threads=True) == ALLOW  # as the C library starts one
    assert decide("clone", 0x11, threads=True) != ALLOW  # fork
    assert decide("clone", 0x3D0F00 | 0x1000_0000, threads=True) != ALLOW
    assert decide("clone3", threads=True) == ERRNO | 38  # the C library then takes clone
    assert decide("openat", calls=seccomp.FILES) == ALLOW
