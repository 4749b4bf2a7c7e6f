"""What another program takes to be executed in a jail: found from its file."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_devices.errors import UserError
from subos_devices.supervisor.sandbox.program import Program, _is_dynamic, find
from support.compiled import ENTROPY, compile_c

HEADER = b"\x7fELF\x02\x01\x01" + bytes(25) + struct.pack("<Q14xHH", 64, 56, 2)
LOAD, INTERPRETER = (struct.pack("<I52x", kind) for kind in (1, 3))


def written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    path.chmod(0o755)
    return str(path)


def test_a_static_program_sees_nothing_and_another_one_its_libraries(tmp_path: Path) -> None:
    static, dynamic = (compile_c(ENTROPY, tmp_path, static=static) for static in (True, False))
    assert find([str(static), "word"]) == Program(str(static), (str(static), "word"), ())
    found = find([str(dynamic)])
    assert (found.file, found.arguments) == (str(dynamic), (str(dynamic),))
    assert {"/usr", str(dynamic)} <= set(found.sees)
    assert [name for name, _ in find([str(static)]).without] == ["undumpable"]
    assert [name for name, _ in found.without] == ["undumpable", "no new code"]


def test_what_it_sees_is_named_once() -> None:
    seen = find([os.path.realpath("/bin/sh")]).sees
    assert not [path for path in seen for other in seen if path != other and path.startswith(other + "/")]


def test_headers_as_bytes(tmp_path: Path) -> None:
    static = written(tmp_path / "static", HEADER.ljust(64, b"\0") + LOAD + LOAD)
    dynamic = written(tmp_path / "dynamic", HEADER.ljust(64, b"\0") + LOAD + INTERPRETER)
    assert find([static]).sees == ()
    assert "/usr" in find([dynamic]).sees


def test_a_script_is_its_interpreter_with_the_words_of_its_first_line(tmp_path: Path) -> None:
    interpreter = written(tmp_path / "interpreter", HEADER.ljust(64, b"\0") + LOAD + INTERPRETER)
    script = written(tmp_path / "a script", f"#! {interpreter} -x one word\nrest".encode())
    found = find([script, "argument"])
    assert (found.file, found.arguments) == (interpreter, (interpreter, "-x one word", script, "argument"))
    assert {"/usr", interpreter, script} <= set(found.sees)


@pytest.mark.parametrize(
    "content", [b"", b"#!", b"#!\n/bin/sh", b"#!sh\n", b"MZ", b"\x7fELF\x01\x01", b"\x7fELF\x02\x02"]
)
def test_what_is_no_program_is_an_error_with_a_hint(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError) as caught:
        find([written(tmp_path / "file", content)])
    assert caught.value.hint


def test_a_script_of_a_script_is_none(tmp_path: Path) -> None:
    inner = written(tmp_path / "inner", b"#!/bin/sh\n")
    with pytest.raises(UserError, match="whose first line names no program"):
        find([written(tmp_path / "outer", f"#!{inner}\n".encode())])


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(UserError, match="/no/such cannot be read: No such file"):
        find(["/no/such"])


@given(st.binary(max_size=4096))
def test_whatever_its_headers_hold(rest: bytes) -> None:
    assert _is_dynamic(b"\x7fELF\x02\x01" + rest) in (True, False)
