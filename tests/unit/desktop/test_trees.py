"""Trees of files: there and back again, and what a hostile sender can do."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subos_desktop.trees import Piece, TreeError, Unpacker, pack, unpacking
from subos_desktop.trees.errors import NotATree
from support.contained import contained, run_contained


def unpack(pieces: Iterable[Piece], path: Path, name: str = "x", *, trusted: bool = False) -> Unpacker:
    """As it comes over the channel: dicts have been JSON."""
    with Unpacker(str(path), name, trusted=trusted) as unpacker:
        for piece in pieces:
            unpacker.take(piece if isinstance(piece, bytes) else json.loads(json.dumps(piece)))
        unpacker.finish()
    return unpacker


def described(folder: Path) -> dict[str, Any]:
    """All that a copy keeps, by path."""
    found: dict[str, Any] = {}
    for path in sorted([folder, *folder.rglob("*")]):
        info = path.lstat()
        content: Any = None
        if stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(info.st_mode):
            content = path.read_bytes()
        times = None if stat.S_ISLNK(info.st_mode) else info.st_mtime_ns
        found[str(path.relative_to(folder))] = (stat.filemode(info.st_mode), info.st_uid, info.st_gid, times, content)
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "sub" / "empty").mkdir(parents=True)
    (top / "file").write_bytes(bytes(range(256)) * 1000)
    (top / "nothing").touch()
    (top / os.fsdecode(b"odd \xff\n")).write_text("odd")
    (top / "sub" / "program").write_text("#!/bin/sh\n")
    (top / "sub" / "program").chmod(0o750)
    (top / "sub" / "link").symlink_to("/etc/passwd")
    (top / "sub" / "broken").symlink_to("../nowhere")
    os.link(top / "file", top / "sub" / "again")
    os.utime(top / "file", ns=(1, 1_600_000_000_123_456_789))
    os.utime(top / "sub", ns=(1, 1_500_000_000_000_000_001))
    (top / "sub" / "empty").chmod(0o500)
    if os.geteuid() == 0:
        os.chown(top / "sub" / "program", 1234, 4321)
    return top


def test_there_and_back(tree: Path, tmp_path: Path) -> None:
    done = unpack(pack(str(tree)), tmp_path / "copy")
    assert described(tmp_path / "copy") == described(tree)
    assert (tmp_path / "copy/file").samefile(tmp_path / "copy/sub/again")
    assert (done.path, done.files, done.skipped) == (str(tmp_path / "copy"), 10, [])
    assert done.bytes == 256_000 + 3 + 10


def test_places(tree: Path, tmp_path: Path) -> None:
    """As docker cp: into a folder that is there, else renamed; an empty name means what is in it."""
    there = tmp_path / "there"
    there.mkdir()
    assert unpack(pack(str(tree)), there, "tree").path == str(there / "tree")
    (there / "tree").chmod(0o711)
    unpack(pack(str(tree)), there, "tree")  # again, over itself: folders that are there keep their own modes
    assert stat.S_IMODE((there / "tree").stat().st_mode) == 0o711
    assert described(there / "tree").keys() == described(tree).keys()
    unpack(pack(str(tree / "file")), there, "file")
    unpack(pack(str(tree / "file")), there / "renamed", "file")
    unpack(pack(f"{tree}/."), there, "")
    assert {"tree", "file", "renamed", "sub", "nothing"} < set(os.listdir(there))
    (tmp_path / "link").symlink_to(there)
    assert unpack(pack(str(tree / "nothing")), tmp_path / "link", "nothing").path == str(tmp_path / "link/nothing")
    for pieces, path, said in (
        (pack(str(tree)), there / "file", "is not a folder"),
        (pack(str(tree / "file")), tmp_path / "no" / "where", "No such file"),
        (pack(str(tree / "file")), f"{tmp_path}/none/", "does not exist"),
        (pack(str(tree)), f"{tmp_path}/none/.", "does not exist"),
        (pack(str(tree / "file")), there, "has no name"),
    ):
        with pytest.raises(TreeError, match=said):
            unpack(pieces, Path(path) if isinstance(path, Path) else path, "" if path == there else "x")  # type: ignore[arg-type]
    (there / "folder").mkdir()
    (there / "folder" / "file").mkdir()
    with pytest.raises(TreeError, match="is a folder"):
        unpack(pack(str(tree / "file")), there / "folder", "file")
    assert not [name for name in os.listdir(there / "folder") if name.startswith(".subos")]


def test_what_is_replaced_is_not_written_through(tree: Path, tmp_path: Path) -> None:
    there, precious = tmp_path / "there", tmp_path / "precious"
    there.mkdir()
    precious.write_text("precious")
    (there / "file").symlink_to(precious)
    os.link(precious, there / "nothing")
    (there / "sub").symlink_to(tmp_path)
    unpack(pack(str(tree / "file")), there, "file")
    unpack(pack(str(tree / "nothing")), there, "nothing")
    assert precious.read_text() == "precious"
    assert (there / "file").is_file()
    with pytest.raises(TreeError, match="sub is there already, and is not a folder"):
        unpack(pack(f"{tree}/."), there, "")
    assert not (tmp_path / "program").exists()


def test_holes_are_kept_and_not_read(tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.seek(5 << 30)
        file.write(b"middle")
        file.truncate(9 << 30)
    pieces = list(pack(str(sparse)))
    assert sum(len(piece) for piece in pieces if isinstance(piece, bytes)) < 1 << 20
    unpack(pieces, tmp_path / "copy")
    copy = tmp_path / "copy"
    assert copy.stat().st_size == 9 << 30
    assert copy.stat().st_blocks < 4096
    with copy.open("rb") as file:
        file.seek((5 << 30) - 2)
        assert file.read(10) == b"\0\0middle\0\0"


def test_what_cannot_be_read_is_skipped(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    os.mkfifo(top / "fifo")
    (top / "file").touch()
    with pytest.raises(TreeError, match="fifo: it is neither"):
        next(pack(str(top / "fifo")))
    with pytest.raises(TreeError, match="none: No such file"):
        next(pack(str(tmp_path / "none")))
    done = unpack(pack(f"{top}/."), tmp_path / "copy")
    assert done.skipped == [f"{top}/./fifo: it is neither a file, a folder nor a link"]
    assert done.skipped_count == 1


def test_deep_trees_have_an_end(tmp_path: Path) -> None:
    before, path = os.getcwd(), tmp_path / "deep"
    path.mkdir()
    os.chdir(path)
    try:
        for _ in range(300):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(before)
    done = unpack(pack(str(path)), tmp_path / "copy")
    assert done.skipped_count == 1
    assert "deep" in done.skipped[0]
    assert done.files == 256


def test_a_file_that_changes_its_size(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100_000))
    growing = pack(str(path))
    assert isinstance(next(growing), dict)
    path.write_bytes(b"x" * 200_000)
    assert sum(len(piece) for piece in growing) == 100_000
    shrinking = pack(str(path))
    first = next(shrinking)
    path.write_bytes(b"short")
    unpack([first, *shrinking], tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"short"


def test_what_is_not_whole_is_taken_back(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x").write_text("before")
    for pieces in ([{"file": "", "size": 10}, b"12345"], [{"file": "", "size": 10}, b"12345678901"]):
        with pytest.raises(RuntimeError), Unpacker(str(tmp_path / "there"), "x") as unpacker:  # noqa: PT012
            for piece in pieces[:-1]:
                unpacker.take(piece)  # type: ignore[arg-type]
            raise RuntimeError("interrupted")
    with pytest.raises(NotATree, match="ended before"):
        unpack([{"folder": ""}, {"file": "a", "size": 1}, b"a"], tmp_path / "there" / "new")
    assert os.listdir(tmp_path / "there" / "new") == ["a"]
    assert sorted(os.listdir(tmp_path / "there")) == ["new", "x"]
    assert (tmp_path / "there" / "x").read_text() == "before"


def test_set_user_id_is_for_those_who_are_trusted(tmp_path: Path) -> None:
    pieces: list[Piece] = [{"file": "", "size": 0, "mode": 0o6755}]
    unpack(pieces, tmp_path / "guest")
    unpack(pieces, tmp_path / "host", trusted=True)
    assert stat.S_IMODE((tmp_path / "guest").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "host").stat().st_mode) == 0o6755


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b"data"],
        [{"hole": 1}],
        [{"leave": True}],
        [{"folder": "name"}],
        [{"folder": ""}, {"folder": ""}],
        [{"folder": ""}, {"leave": True}, {"leave": True}],
        [{"folder": ""}, {"leave": True}, {"file": "", "size": 0}],
        *([{"folder": ""}, {kind: "../x", "size": 0, "target": "y"}] for kind in ("file", "folder", "symlink")),
        *([{"folder": ""}, {"file": name, "size": 0}] for name in ("", ".", "..", "a/b", "a\0", "x" * 256, 3, None)),
        [{"folder": ""}, {"file": "a"}],
        *([{"folder": ""}, {"file": "a", "size": size}] for size in (-1, 1 << 63, "1", True, 1.5)),
        [{"folder": ""}, {"file": "a", "size": 4}, b"12345"],
        [{"folder": ""}, {"file": "a", "size": 4}, {"hole": 5}],
        [{"folder": ""}, {"file": "a", "size": 4}, b"123", {"hole": 2}],
        *([{"folder": ""}, {"file": "a", "size": 0, "mode": mode}] for mode in (-1, 0o10000, "7", [])),
        [{"folder": "", "uid": 1 << 32}],
        [{"folder": "", "mtime": 1 << 64}],
        [{"folder": ""}, {"symlink": "a", "target": ""}],
        [{"folder": ""}, {"symlink": "a", "target": "x" * 5000}],
        [{"folder": ""}, {"hardlink": "a", "to": ["..", "x"]}],
        [{"folder": ""}, {"hardlink": "a", "to": []}],
        [{"folder": ""}, {"hardlink": "a", "to": "x"}],
        [{"folder": ""}, {"hardlink": "a", "to": ["none"]}],
        [{"folder": ""}, {"symlink": "s", "target": "/"}, {"hardlink": "a", "to": ["s"]}],
        [{"folder": ""}, {"symlink": "s", "target": "/"}, {"hardlink": "a", "to": ["s", "etc", "passwd"]}],
        [{"folder": ""}, {"symlink": "s", "target": "/"}, {"folder": "s"}],
        [{"hardlink": "", "to": ["x"]}],
        [{"folder": ""}, {"skipped": 3}],
        [{"folder": ""}, *([{"folder": "d"}] * 300)],
    ],
)
def test_what_is_no_tree_is_refused(tmp_path: Path, pieces: list[Piece]) -> None:
    with pytest.raises(TreeError):
        unpack(pieces, tmp_path / "copy")
    assert set(os.listdir(tmp_path)) <= {"copy"}


NAMES = st.sampled_from(["", ".", "..", "a", "b", "/", "a/b", "../x", "\0", "\udcff", "etc", 3, None])
NUMBERS = st.sampled_from([0, 1, 5, -1, 0o755, 0o4777, 1 << 31, 1 << 63, 1 << 70, None, "x", True])
HOSTILE: st.SearchStrategy[Any] = st.one_of(
    st.binary(max_size=8),
    st.just({"leave": True}),
    st.just({"folder": ""}),
    st.fixed_dictionaries({"folder": NAMES}, optional={"mode": NUMBERS, "mtime": NUMBERS, "uid": NUMBERS}),
    st.fixed_dictionaries({"file": NAMES, "size": NUMBERS}, optional={"mode": NUMBERS, "mtime": NUMBERS}),
    st.fixed_dictionaries({"symlink": NAMES, "target": st.sampled_from(["/", "..", ".", "a", "../../etc", "", 3])}),
    st.fixed_dictionaries({"hardlink": NAMES, "to": st.lists(NAMES, max_size=3)}),
    st.fixed_dictionaries({"hole": NUMBERS}),
    st.dictionaries(st.sampled_from(["x", "file", "folder", "skipped", "why"]), NAMES, max_size=3),
)


@contained
def test_nothing_lands_outside_whatever_is_sent(tmp_path: Path) -> None:
    count = 0

    @settings(max_examples=400, database=None)
    @given(st.lists(HOSTILE, max_size=12))
    def send(pieces: list[Piece]) -> None:
        nonlocal count
        count += 1
        place = tmp_path / str(count)
        place.mkdir()
        outside = place / "outside"
        outside.write_text("as it was")
        (place / "target").mkdir()
        (place / "target" / "a").symlink_to("..")
        (place / "target" / "b").symlink_to("../outside")
        for path, name in ((place / "target", ""), (place / "target", "etc"), (place / "target" / "new", "x")):
            with pytest.MonkeyPatch.context(), Unpacker(str(path), name) as unpacker:
                try:
                    for piece in pieces:
                        unpacker.take(piece)
                    unpacker.finish()
                except TreeError:
                    pass
        assert sorted(os.listdir(place)) == ["outside", "target"]
        assert outside.read_text() == "as it was"
        assert outside.stat().st_nlink == 1
        assert not [name for name in os.listdir(place / "target") if name.startswith(".subos-copy")]

    send()


def write_on(unpacker: Unpacker) -> None:
    """A terabyte."""
    for _ in range(1 << 25):
        unpacker.take(bytes(1 << 15))


def make_files(unpacker: Unpacker, begin: int, end: int) -> None:
    for number in range(begin, end):
        unpacker.take({"file": str(number), "size": 0})


def test_a_disk_is_not_filled_up(tmp_path: Path) -> None:
    def fill() -> None:
        (tmp_path / "there").mkdir()
        with Unpacker(str(tmp_path / "there"), "x") as unpacker:
            unpacker.take({"file": "", "size": 1 << 40})
            with pytest.raises(TreeError, match="is full"):
                write_on(unpacker)
        assert os.listdir(tmp_path / "there") == []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(unpacking, "LOOK_BYTES", 1 << 30)  # one who does not look meets the end of it
            with Unpacker(str(tmp_path / "there"), "x") as unpacker:
                unpacker.take({"file": "", "size": 1 << 40})
                with pytest.raises(TreeError, match="No space left"):
                    write_on(unpacker)
        assert os.listdir(tmp_path / "there") == []

    run_contained(tmp_path, fill)


def test_there_is_an_end_to_the_number_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.statvfs(tmp_path)
    left = list(found)
    left[5:8] = [1_000_000, 5000, 5000]  # f_files, f_ffree, f_favail

    def statvfs(_descriptor: int) -> os.statvfs_result:
        return os.statvfs_result(left)

    monkeypatch.setattr(unpacking.os, "fstatvfs", statvfs)
    with Unpacker(str(tmp_path), "x") as unpacker:
        unpacker.take({"folder": ""})
        make_files(unpacker, 0, 2000)
        left[7] = 900
        with pytest.raises(TreeError, match="takes no more files"):
            make_files(unpacker, 2000, 2000 + 2 * unpacking.LOOK_ENTRIES)
