"""Commands for the host, run for real, asked for over a socket pair."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import pwd
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_agent import execute
from subos_agent.configuration import Configuration
from subos_agent.execute import Command, session
from subos_agent.service import handlers
from subos_protocol.agent.errors import RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.peer import Peer
from subos_protocol.agent.stream import Stream
from support.agents import asking, on_a_loop
from support.waiting import eventually

TERMINAL = {"rows": 33, "columns": 101, "name": "dumb"}


class Done(NamedTuple):
    result: Head
    out: bytes
    err: bytes


async def finish(stream: Stream) -> Done:
    parts = {1: bytearray(), 2: bytearray()}
    while (message := await stream.receive()) is not None:
        assert isinstance(message.content, bytes)
        parts[message.part] += message.content
    return Done(await stream.result(), bytes(parts[1]), bytes(parts[2]))


async def run(peer: Peer, *argv: str, stdin: bytes = b"", **fields: Any) -> Done:
    async with peer.call({"op": "exec", "argv": list(argv), **fields}) as stream:
        await stream.send(stdin)
        stream.end()
        return await finish(stream)


async def shown(stream: Stream, wanted: bytes) -> bytes:
    """Reads until `wanted` was printed."""
    seen = b""
    while wanted not in seen:
        message = await stream.receive()
        assert message is not None, seen
        assert isinstance(message.content, bytes)
        seen += message.content
    return seen


async def refusal(peer: Peer, *argv: str, **fields: Any) -> RemoteError:
    with pytest.raises(RemoteError) as caught:
        await run(peer, *argv, **fields)
    return caught.value


@on_a_loop
async def test_streams_status_folder_and_variables(tmp_path: Path) -> None:
    async with asking() as peer:
        shell = "cat; echo oops >&2; pwd; echo $A; exit 7"
        done = await run(peer, "sh", "-c", shell, stdin=b"in\n", cwd=str(tmp_path), environment={"A": "ü 'x'"})
        assert done == ({"status": 7}, f"in\n{tmp_path}\nü 'x'\n".encode(), b"oops\n")
        me = pwd.getpwuid(os.geteuid())
        environment = (await run(peer, "env")).out.decode().splitlines()
        assert {f"HOME={me.pw_dir}", f"USER={me.pw_name}"} < set(environment)
        assert not [line for line in environment if line.startswith("PYTEST")]
        assert (await run(peer, "pwd")).out.decode().strip() == os.path.realpath(me.pw_dir)
        assert (await run(peer, os.fsdecode(b"/bin/echo"), os.fsdecode(b"\xff"))).out == b"\xff\n"


@on_a_loop
async def test_signals() -> None:
    async with asking() as peer:
        assert (await run(peer, "sh", "-c", "kill -KILL $$")).result == {"signal": 9}
        async with peer.call(
            {"op": "exec", "argv": ["sh", "-c", "trap 'echo got; exit 3' USR1; echo on; sleep 9 & wait"]}
        ) as s:
            await shown(s, b"on\n")
            await s.event({"signal": "x"})
            await s.event({"signal": 10_000})
            await s.event({"signal": int(signal.SIGUSR1)})
            assert await finish(s) == ({"status": 3}, b"got\n", b"")


@on_a_loop
async def test_signals_after_the_end_of_input() -> None:
    async with (
        asking() as peer,
        peer.call({"op": "exec", "argv": ["sh", "-c", "cat; echo on; exec sleep 100"]}) as stream,
    ):
        await stream.send(b"in\n")
        await stream.event({"input_ends": True})
        await shown(stream, b"in\non\n")
        await asyncio.sleep(0.2)
        await stream.event({"signal": int(signal.SIGTERM)})
        assert (await finish(stream)).result == {"signal": 15}


@contextlib.asynccontextmanager
async def cancelled_in_the_middle(**fields: Any) -> AsyncIterator[None]:
    """A shell with a deaf program, and one in the background, is cancelled; the block then looks for them."""
    script = 'trap "" HUP TERM; set -m 2>/dev/null; sleep 1000 & echo started $$; sleep 1001; sleep 1002'
    async with asking() as peer:
        async with peer.call({"op": "exec", "argv": ["sh", "-c", script], **fields}) as stream:
            said = await shown(stream, b"\n")
            leader = int(said.split()[1])
            await asyncio.sleep(0.1)
            assert len(session(leader)) == 3
        try:
            yield
            await asyncio.to_thread(eventually, lambda: not session(leader))
        finally:
            for pid in session(leader):
                os.kill(pid, signal.SIGKILL)


@on_a_loop
async def test_cancelling_ends_the_whole_session() -> None:
    began = time.monotonic()
    async with cancelled_in_the_middle():
        pass
    assert time.monotonic() - began < 8


@on_a_loop
async def test_cancelling_ends_a_terminals_session() -> None:
    async with cancelled_in_the_middle(terminal=TERMINAL):
        pass


@on_a_loop
async def test_who_is_cancelled_while_a_commands_end_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command had of us is closed then, not when it is collected: the loop that could do it may be gone."""
    made: list[execute._Process] = []
    begun = asyncio.Event()
    end_session = execute._end_session

    class Noted(execute._Process):
        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            super().__init__(loop)
            made.append(self)

    async def end(leader: int) -> None:
        begun.set()
        await end_session(leader)

    async def ask() -> None:
        script = "trap '' HUP; echo started; sleep 1000; sleep 1001"
        async with asking() as peer, peer.call({"op": "exec", "argv": ["sh", "-c", script]}) as stream:
            await stream.receive()

    monkeypatch.setattr(execute, "_Process", Noted)
    monkeypatch.setattr(execute, "_end_session", end)
    asked = asyncio.ensure_future(ask())
    await begun.wait()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    (process,) = made
    assert process.transport.is_closing()


@on_a_loop
async def test_a_host_that_goes_away_ends_it_too() -> None:
    async with asking() as peer:
        stream = peer.call({"op": "exec", "argv": ["sh", "-c", "echo $$; sleep 1000"]})
        leader = int(await shown(stream, b"\n"))
        peer.close()
        await asyncio.to_thread(eventually, lambda: not session(leader))


@on_a_loop
async def test_what_a_command_leaves_running_lives_on() -> None:
    """And holds nothing up, though it has its output open."""
    async with asking() as peer:
        began = time.monotonic()
        done = await run(peer, "sh", "-c", "sleep 1000 & echo $!")
        pid = int(done.out)
        try:
            assert done.result == {"status": 0}
            assert time.monotonic() - began < 5
            os.kill(pid, 0)
        finally:
            os.kill(pid, signal.SIGKILL)


@on_a_loop
async def test_much_data_and_a_slow_reader_who_loses_nothing() -> None:
    data = os.urandom(1 << 20) * 8
    async with asking() as peer, peer.call({"op": "exec", "argv": ["cat"]}) as stream:

        async def feed() -> None:
            await stream.send(data)
            stream.end()

        feeding = asyncio.create_task(feed())
        digest, size = hashlib.sha256(), 0
        await asyncio.sleep(1.5)  # longer than the agent lingers for a command that has ended
        while (message := await stream.receive()) is not None:
            assert isinstance(message.content, bytes)
            digest.update(message.content)
            size += len(message.content)
            if size > len(data) - (1 << 20):  # cat has written all, and ends
                await asyncio.sleep(0.1)
        await feeding
        assert (size, digest.digest()) == (len(data), hashlib.sha256(data).digest())
        assert await stream.result() == {"status": 0}


@on_a_loop
async def test_a_command_that_reads_nothing_is_not_waited_for() -> None:
    async with (
        asking() as peer,
        peer.call({"op": "exec", "argv": ["sh", "-c", "exec <&-; sleep 0.2; echo over"]}) as stream,
    ):
        with contextlib.suppress(RemoteError):
            await stream.send(bytes(1 << 20))
        assert (await finish(stream)).out == b"over\n"


@on_a_loop
async def test_a_terminal() -> None:
    async with asking() as peer:
        head = {"op": "exec", "argv": ["sh"], "terminal": TERMINAL, "environment": {"PS1": "ready> "}}
        async with peer.call(head) as stream:
            await shown(stream, b"ready> ")
            await stream.send(b"tty; stty size; echo $TERM; test -t 0 -a -t 1 -a -t 2 && echo all''three\n")
            said = await shown(stream, b"allthree")
            assert b"/dev/pts/" in said
            assert b"33 101\r\n" in said
            assert b"dumb\r\n" in said
            await stream.event({"window": [44, 121]})
            await stream.event({"window": [0, 70000]})
            await stream.send(b"until [ \"$(stty size)\" = '44 121' ]; do sleep 0.05; done; echo res''ized\n")
            await shown(stream, b"resized")
            await stream.send(b"echo beg''un; sleep 1000\n")
            await shown(stream, b"begun")
            await asyncio.sleep(0.3)  # now it sleeps
            await stream.send(b"\x03")
            await shown(stream, b"ready> ")
            await stream.send(b"exit 5\n")
            assert (await finish(stream)).result == {"status": 5}


@on_a_loop
async def test_the_end_of_input_on_a_terminal() -> None:
    async with asking() as peer:
        done = await run(peer, "cat", stdin=b"line\n", terminal=TERMINAL)
        assert done.result == {"status": 0}
        assert done.out.endswith(b"line\r\n")
        assert done.err == b""


@on_a_loop
async def test_a_login_shell_where_nothing_is_said() -> None:
    async with asking() as peer:
        done = await run(peer, stdin=b"echo $0 $HOME; exit 4\n")
        assert done.result == {"status": 4}
        assert pwd.getpwuid(os.geteuid()).pw_dir in done.out.decode()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
@on_a_loop
async def test_another_user() -> None:
    nobody = pwd.getpwnam("nobody")
    async with asking() as peer:
        done = await run(peer, "sh", "-c", "id -u; id -g; id -G; echo $USER; pwd", user="nobody")
        group = str(nobody.pw_gid)
        assert done.out.decode().split() == [str(nobody.pw_uid), group, group, "nobody", "/"]
        done = await run(peer, "sh", "-c", "echo hello >$(tty); id -un", user="nobody", terminal=TERMINAL)
        assert done.out == b"hello\r\nnobody\r\n"  # the terminal is theirs


@on_a_loop
async def test_what_cannot_be_started(tmp_path: Path) -> None:
    async with asking() as peer:
        for said, argv, fields in (
            ("cannot run no-such: No such file or directory", ["no-such"], {}),
            ("cannot run true in /no/where: No such file or directory", ["true"], {"cwd": "/no/where"}),
            (f"cannot run {tmp_path}: Permission denied", [str(tmp_path)], {}),
            ("there is no user 'no-such-user' in the guest", ["true"], {"user": "no-such-user"}),
            ("cannot run true: illegal environment variable name", ["true"], {"environment": {"a=b": "c"}}),
        ):
            for more in ({}, {"terminal": TERMINAL}):
                error = await refusal(peer, *argv, **fields, **more)
                assert (error.code, error.message) == ("not-started", said)
        error = await refusal(peer, "true", "x" * 70_000)
        assert error.code == "too-large"
        assert "at most 65536" in error.message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can stop being root")
@on_a_loop
async def test_an_agent_that_is_not_root() -> None:
    async with asking() as peer:
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
        try:
            error = await refusal(peer, "true", user="root")
        finally:
            os.seteuid(0)
        assert error.code == "not-started"
        assert "cannot become another one" in error.message


@on_a_loop
async def test_a_guest_where_it_is_off() -> None:
    async with asking(handlers(Configuration())) as peer:
        for operation in ("exec", "get", "put"):
            with pytest.raises(RemoteError) as caught:
                await peer.ask({"op": operation, "argv": ["true"], "path": "/"})
            assert caught.value.code == "refused"
            assert "subos-agent allow exec" in caught.value.hint


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 70000) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("argv", "cwd", "environment", "user", "terminal")
WINDOW = st.fixed_dictionaries({"rows": ANY, "columns": ANY}, optional={"name": ANY})


@given(st.fixed_dictionaries({}, optional={**dict.fromkeys(FIELDS, ANY), "terminal": ANY | WINDOW}))
def test_any_request_is_a_command_or_refused(head: dict[str, Any]) -> None:
    try:
        command = Command.from_head(head)
    except RemoteError:
        return
    assert all(isinstance(word, str) and "\0" not in word for word in [*command.argv, *command.environment.values()])
    assert command.window is None or all(0 < size < 1 << 16 for size in command.window)
