"""`subos-devices cp` by way of a real hub and a real agent; the "guest" has this machine's files."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from subos_agent.configuration import Configuration
from subos_agent.service import handlers
from subos_devices import runtime
from subos_devices.agent import copy as copying
from subos_devices.agent.copy import CopyFailed, Place, copy
from subos_devices.agent.hub import AgentError, Hub
from subos_devices.agent.progress import Progress
from subos_devices.agent.tars import StandardOutput
from subos_devices.errors import UserError
from subos_devices.streams import CHUNK, Output
from subos_protocol.agent.frames import Head
from subos_protocol.agent.peer import Handler
from subos_protocol.agent.stream import Stream
from support.agents import ALL_ON, hub_with_agent, on_a_loop
from support.command import COMMAND
from support.contained import run_contained
from support.unread import blocked, status


@pytest.fixture(autouse=True)
def runtime_folder(nothing_is_left: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        yield Path(name)


@contextlib.asynccontextmanager
async def vm(name: str = "vm", table: dict[str, Handler] | None = None) -> AsyncIterator[Hub]:
    folder = runtime.vm_folder(name)
    folder.mkdir(parents=True)
    async with hub_with_agent(folder, handlers(ALL_ON) if table is None else table) as hub:
        yield hub


async def cp(*words: object) -> Progress:
    *sources, target = [Place.parse(str(word)) for word in words]
    with Progress(show=False) as progress:
        await copy(sources, target, progress)
    return progress


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "sub").mkdir(parents=True)
    (top / "big").write_bytes(os.urandom(1 << 20) * 3)
    (top / "sub" / os.fsdecode(b"\xff odd")).write_text("odd\n")
    (top / "sub" / "link").symlink_to("../big")
    os.link(top / "big", top / "sub" / "same")
    return top


def same(one: Path, other: Path) -> None:
    assert [path.relative_to(one) for path in sorted(one.rglob("*"))] == [
        path.relative_to(other) for path in sorted(other.rglob("*"))
    ]
    for path in one.rglob("*"):
        there = other / path.relative_to(one)
        assert path.is_symlink() == there.is_symlink()
        assert path.lstat().st_mode == there.lstat().st_mode
        if path.is_file():
            assert path.read_bytes() == there.read_bytes()


@on_a_loop
async def test_into_a_guest_out_of_it_and_between_two(tree: Path, tmp_path: Path) -> None:
    async with vm(), vm("other"):
        (tmp_path / "guest").mkdir()
        said = await cp(tree, f"vm:{tmp_path}/guest")
        same(tree, tmp_path / "guest/tree")
        assert (said.files, said.bytes) == (6, (3 << 20) + 4)
        assert (tmp_path / "guest/tree/big").samefile(tmp_path / "guest/tree/sub/same")
        await cp(f"vm:{tmp_path}/guest/tree", tmp_path / "back")
        same(tree, tmp_path / "back")
        await cp(f"vm:{tree}", f"other:{tmp_path}/second")
        same(tree, tmp_path / "second")
        await cp(f"{tree}/big", f"{tree}/sub", f"vm:{tmp_path}/guest/.")
        assert sorted(os.listdir(tmp_path / "guest")) == ["big", "sub", "tree"]


class Archive(io.BytesIO):
    """In place of standard input and output."""

    def give_up(self) -> None:
        raise AssertionError("nobody interrupts it")


@on_a_loop
async def test_tar_archives_on_the_streams(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with vm():
        for name in ("tree", "tree/."):
            out = Archive()
            monkeypatch.setattr(copying, "StandardOutput", lambda _output, out=out: out)
            await cp(f"vm:{tmp_path}/{name}", "-")
            place = tmp_path / f"out-{len(name)}"
            place.mkdir()
            with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
                tar.extractall(place, filter="tar")
            same(tree, place / "tree" if name == "tree" else place)
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w:gz") as tar:
            tar.add(tree, "a/b/tree")
            tar.add(tree / "sub" / "link", "z/link")
        monkeypatch.setattr(copying, "StandardInput", lambda: Archive(data.getvalue()))
        (tmp_path / "into").mkdir()
        await cp("-", f"vm:{tmp_path}/into")
        same(tree, tmp_path / "into/a/b/tree")
        assert os.readlink(tmp_path / "into/z/link") == "../big"
        monkeypatch.setattr(copying, "StandardInput", lambda: Archive(b"no tar" * 1000))
        with pytest.raises(CopyFailed, match="no tar archive"):
            await cp("-", f"vm:{tmp_path}/into")


@on_a_loop
async def test_what_cannot_be_copied(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with vm():
        for words, kind, said in (
            ((tree, tmp_path / "x"), UserError, "neither place is in a guest"),
            ((f"vm:{tmp_path}/none", tmp_path), UserError, "none: No such file"),
            ((tmp_path / "none", f"vm:{tmp_path}"), CopyFailed, "none: No such file"),
            ((tree, f"vm:{tmp_path}/no/where"), AgentError, "No such file"),
            ((f"vm:{tree}", f"{tree}/big"), CopyFailed, "big is not a folder"),
            ((tree, "none:/x"), UserError, "no VM called 'none'"),
        ):
            with pytest.raises(kind, match=said):
                await cp(*words)
        os.mkfifo(tree / "pipe")
        with pytest.raises(CopyFailed, match="1 could not be copied; all else was"):
            await cp(f"vm:{tree}", tmp_path / "back")
        assert "left out: " in capsys.readouterr().err
        assert not (tmp_path / "back/pipe").exists()
        assert (tmp_path / "back/big").exists()
    with pytest.raises(UserError, match="begins with /"):
        Place.parse("vm:x")
    assert Place.parse("./vm:x") == Place(None, "./vm:x")
    async with vm("shut", handlers(Configuration())):
        with pytest.raises(UserError, match="off in this guest") as refused:
            await cp(f"shut:{tree}", tmp_path / "y")
        assert "subos-agent allow exec" in refused.value.hint


@on_a_loop
async def test_ctrl_c_leaves_no_half_file(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tree / "endless").open("wb") as file:
        file.truncate(1 << 40)
        file.seek(0)
        for _ in range(64):
            file.write(os.urandom(1 << 20))
    async with vm():
        for number, words in enumerate(((tree, f"vm:{tmp_path}/x0"), (f"vm:{tree}", tmp_path / "x1"))):
            copying_task = asyncio.create_task(cp(*words))
            target = tmp_path / f"x{number}"
            while not (target / "big").exists():
                await asyncio.sleep(0.01)
            copying_task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await copying_task
            said = capsys.readouterr().err
            assert f"{target}; no file is half there" in said
            async with asyncio.timeout(10):
                while [name for name in os.listdir(target) if name.startswith(".subos")]:
                    await asyncio.sleep(0.02)
            assert not (target / "endless").exists()
            assert (target / "big").read_bytes() == (tree / "big").read_bytes()


@on_a_loop
async def test_a_guest_that_sends_nonsense(tmp_path: Path) -> None:
    async def get(stream: Stream) -> Head:
        await stream.event({"folder": ""})
        await stream.event({"file": "../escaped", "size": 1})
        await stream.send(b"x")
        return {}

    async with vm(table={"get": get}):
        with pytest.raises(CopyFailed, match="a name that is none"):
            await cp("vm:/x", tmp_path / "there")
    assert os.listdir(tmp_path) == ["there"]
    assert os.listdir(tmp_path / "there") == []


@on_a_loop
async def test_between_guests_nobody_sets_user_ids_and_what_is_skipped_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def get(stream: Stream) -> Head:
        await stream.event({"folder": "", "mode": 0o2755})
        await stream.event({"file": "program", "size": 2, "mode": 0o4755, "uid": 0, "gid": 0})
        await stream.send(b"hi")
        for number in range(30):
            await stream.event({"skipped": f"/root/{number}", "why": "no"})
        await stream.event({"leave": True})
        return {}

    async with vm("hostile", {"get": get}), vm("other"):
        with pytest.raises(CopyFailed, match="30 could not be copied; all else was"):
            await cp("hostile:/x", f"other:{tmp_path}/there")
    said = capsys.readouterr().err
    assert "left out: /root/0: no" in said
    assert len(said.splitlines()) == 20
    assert (tmp_path / "there/program").read_bytes() == b"hi"
    assert stat.S_IMODE((tmp_path / "there/program").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "there").stat().st_mode) == 0o755


@on_a_loop
async def test_the_host_s_own_set_user_ids_arrive(tmp_path: Path) -> None:
    (tmp_path / "program").touch()
    (tmp_path / "program").chmod(0o4755)
    async with vm():
        await cp(tmp_path / "program", f"vm:{tmp_path}/there")
    assert stat.S_IMODE((tmp_path / "there").stat().st_mode) == 0o4755


@on_a_loop
async def test_an_archive_that_nobody_reads_can_be_interrupted(tree: Path) -> None:
    async with vm():
        line = (*COMMAND, "cp", "--quiet", f"vm:{tree}", "-")
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                await blocked(process)
                process.send_signal(signal.SIGINT)
                assert await status(process) == 128 + signal.SIGINT
                assert process.stderr is not None
                assert process.stderr.read() == b""
            finally:
                process.kill()


@on_a_loop
async def test_what_never_ends_can_be_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest's file of an exabyte of zeros, and a standard input on which nothing comes."""

    async def get(stream: Stream) -> Head:
        await stream.event({"file": "", "size": 1 << 60})
        await stream.event({"hole": 1 << 60})
        return {}

    (tmp_path / "into").mkdir()
    reader, writer = os.pipe()
    before = os.dup(0)
    os.dup2(reader, 0)
    try:
        async with vm(table={**handlers(ALL_ON), "get": get}):
            with open(os.devnull, "wb") as nowhere:
                output = StandardOutput(Output(nowhere.fileno(), CHUNK))
                monkeypatch.setattr(copying, "StandardOutput", lambda _output: output)
                for words in (("vm:/zeros", "-"), ("-", f"vm:{tmp_path}/into")):
                    task = asyncio.create_task(cp(*words))
                    await asyncio.sleep(0.5)
                    assert not task.done()
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await asyncio.wait_for(task, 10)
    finally:
        os.dup2(before, 0)
        for descriptor in (before, reader, writer):
            os.close(descriptor)


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """On either side it is one line."""

    @on_a_loop
    async def fill() -> None:
        runtime_place = tmp_path / "run"
        runtime_place.mkdir()
        os.environ["XDG_RUNTIME_DIR"] = str(runtime_place)
        (tmp_path / "much").write_bytes(bytes(200 << 20))  # of the 256 MiB that there are
        async with vm():
            with pytest.raises(AgentError, match=r"is full|No space left"):
                await cp(tmp_path / "much", f"vm:{tmp_path}/copy")
            with pytest.raises(CopyFailed, match=r"is full|No space left"):
                await cp(f"vm:{tmp_path}/much", tmp_path / "copy")
        assert not (tmp_path / "copy").exists()

    run_contained(tmp_path, fill)
