"""The control socket of a VM: whatever a client asks, and whatever a handler does, there is an answer."""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from subos_devices import runtime
from subos_devices.commands import detach, status
from subos_devices.errors import UserError
from subos_devices.supervisor import control


async def give(request: dict[str, Any]) -> Any:
    return request["gift"]


async def refuse(_request: dict[str, Any]) -> Any:
    raise UserError("no", "ask nicely")


async def fail(_request: dict[str, Any]) -> Any:
    raise KeyError("mouse")


async def unspeakable(_request: dict[str, Any]) -> Any:
    return object()


HANDLERS = {"give": give, "refuse": refuse, "fail": fail, "unspeakable": unspeakable}


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    base = tmp_path_factory.mktemp("c")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    return base


def ask(*lines: bytes) -> list[dict[str, Any]]:
    """The answers on one connection."""

    async def converse() -> list[dict[str, Any]]:
        with runtime.claim("vm") as folder:
            async with control.serve(folder, HANDLERS):
                reader, writer = await asyncio.open_unix_connection(folder / control.SOCKET)
                writer.writelines(line + b"\n" for line in lines)
                answers = [json.loads(await asyncio.wait_for(reader.readline(), 20)) for _ in lines]
                writer.close()
                return answers

    return asyncio.run(converse())


def test_a_fault_of_a_handler_is_answered_and_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    failed, after = ask(b'{"op": "fail"}', b'{"op": "give", "gift": 7}')
    assert failed["ok"] is False
    assert "KeyError: 'mouse'" in failed["message"]
    assert failed["hint"]
    assert caplog.records[0].exc_info
    assert after == {"ok": True, "result": 7}


def test_a_result_that_is_no_json_is_answered(folder: Path) -> None:
    assert ask(b'{"op": "unspeakable"}')[0]["ok"] is False


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b"7", b'{"op": []}', b'{"op": "none"}', b"{}", b"\xff", b"[" * 100_000, b""]
)
def test_nonsense_is_answered(folder: Path, line: bytes) -> None:
    nonsense, after = ask(line, b'{"op": "refuse"}')
    assert nonsense == {"ok": False, "message": "no such request", "hint": "there are give, refuse, fail, unspeakable"}
    assert after == {"ok": False, "message": "no", "hint": "ask nicely"}


def test_detach_waits_as_long_as_it_takes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each device may keep it waiting for longer than a client waits otherwise."""

    asked, done = threading.Event(), threading.Event()

    async def slow(request: dict[str, Any]) -> Any:
        asked.set()
        await asyncio.to_thread(done.wait, 20)
        return request["devices"]

    async def main() -> None:
        with runtime.claim("vm") as folder:
            async with control.serve(folder, {"detach": slow, "slow": slow}):
                with pytest.raises(UserError, match="answers"):
                    await asyncio.to_thread(control.ask, "vm", "slow")
                asked.clear()
                waiting = asyncio.create_task(
                    asyncio.to_thread(detach.run, argparse.Namespace(name="vm", devices=["mouse"]))
                )
                await asyncio.to_thread(asked.wait, 20)
                await asyncio.wait((waiting,), timeout=0.2)  # well over what another request would have waited
                done.set()
                assert await waiting == 0

    monkeypatch.setattr(control.ask, "__kwdefaults__", {"timeout": 0.02})
    asyncio.run(main())


def test_status_shows_the_others_where_one_does_not_answer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It starts, or ends."""

    def ask(name: str, _operation: str) -> dict[str, Any]:
        if name == "silent":
            raise UserError("no VM called 'silent' answers")
        return {"name": name}

    monkeypatch.setattr(control, "ask", ask)
    with runtime.claim("silent"), runtime.claim("work"):
        assert status.run(argparse.Namespace(name=None, json=True)) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == [{"name": "work", "guest": None, "monitors": None}]
    assert "'silent'" in said.err
