"""From what the host does to what the agent is told: bursts, moves, what was missed, and who comes and goes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from subos_devices.fs.events import changes, fanotify
from subos_devices.fs.events.changes import Change, ChangeQueue
from subos_devices.fs.events.replays import WINDOW
from subos_protocol import file_events as kind
from subos_protocol.file_events import Replay, pack_attached
from subos_protocol.fuse_opcodes import FuseOpcode

from .conftest import Followed


def told(replays: list[Replay]) -> list[tuple[str, bytes, bytes]]:
    return [(replay.kind, replay.directory, replay.name) for replay in replays]


def test_nothing_is_watched_without_an_agent(root: Path) -> None:
    share = Followed(root)
    share.host("open('new', 'w').close()")
    assert share.replays() == []
    assert len(share.worker.callbacks) == 3, "the channel and two timers"
    share.close()


def test_only_what_the_guest_knows_is_watched(share: Followed) -> None:
    (share.root / "known/below").mkdir(parents=True)
    (share.root / "unknown").mkdir()
    node = share.guest.lookup(b"known").nodeid
    share.host("open('known/new', 'w').close(); open('unknown/new', 'w').close(); open('known/below/new', 'w').close()")
    first = share.replays()
    assert told(first) == [("create", b"known", b"new"), ("written", b"known", b"new")]
    share.done(*first)
    share.guest.readdir(share.guest.opendir(node), node, plus=True)
    share.host("open('known/below/new', 'a').close()")
    assert told(share.replays()) == [("written", b"known/below", b"new")]


def test_what_is_done_for_the_guest_is_not_told(share: Followed) -> None:
    node, handle = share.guest.create(b"file")
    for _ in range(20):
        share.guest.write(node, handle, b"content")
        share.settle()
    share.guest.ask(FuseOpcode.FUSE_UNLINK, 1, b"file\0")
    assert share.replays() == []
    share.host("open('other', 'w').close()")
    assert told(share.replays())[0] == ("create", b"", b"other")


def test_a_burst_is_one_replay(share: Followed) -> None:
    (share.root / "log").write_text("")
    share.guest.lookup(b"log")
    share.host("file = open('log', 'ab', 0)\nfor n in range(1000): file.write(b'line')\nos._exit(0)")
    replays = share.replays()
    assert told(replays) == [("written", b"", b"log")]
    share.host("file = open('log', 'ab', 0)\nfor n in range(1000): file.write(b'line')\nos._exit(0)")
    assert told(share.replays()) == [("written", b"", b"log")]


def test_so_many_at_a_time_and_the_rest_later(share: Followed) -> None:
    share.host("for n in range(300): os.mkdir(str(n))")
    seen = []
    while replays := share.replays():
        assert len(replays) <= WINDOW
        seen += [int(replay.name) for replay in replays]
        share.done(*replays)
    assert seen == list(range(300))


def test_paths_are_those_after_a_move(share: Followed) -> None:
    (share.root / "before").mkdir()
    share.guest.lookup(b"before")
    share.host("open('before/new', 'w').close(); os.rename('before', 'after'); open('after/last', 'w').close()")
    assert told(share.replays()) == [
        ("create", b"after", b"new"),
        ("written", b"after", b"new"),
        ("rename", b"", b"before"),
        ("create", b"after", b"last"),
        ("written", b"after", b"last"),
    ]


def test_a_move_out_of_sight_is_a_removal_and_into_it_a_new_name(share: Followed) -> None:
    (share.root / "unknown").mkdir()
    (share.root / "file").write_text("")
    share.host("os.rename('file', 'unknown/file')")
    first = share.replays()
    assert told(first) == [("delete", b"", b"file")]
    share.done(*first)
    share.host("os.rename('unknown/file', 'back')")
    assert told(share.replays()) == [("create", b"", b"back")]


def test_names_that_were_swapped_back_and_forth_are_looked_at_again(share: Followed) -> None:
    """fanotify makes one event of the first and the last of these, and the guest would be left with the middle one."""
    (share.root / "a").write_text("")
    share.guest.lookup(b"a")
    share.host("os.rename('a', 'b'); os.rename('b', 'a'); os.rename('a', 'b')")
    replays = share.replays()
    assert {replay.kind for replay in replays} == {"rename"}
    share.done(*replays)
    if len(replays) == 2:
        assert {*told(share.replays())} == {("sync", b"", b"a"), ("sync", b"", b"b")}


def test_names_that_were_exchanged(share: Followed) -> None:
    """The guest's kernel can only do one after the other, by which one name is lost on the way."""
    (share.root / "a").write_text("1")
    (share.root / "b").write_text("2")
    share.guest.lookup(b"a")
    share.guest.lookup(b"b")
    exchange = "import ctypes; assert not ctypes.CDLL(None).renameat2(-100, b'a', -100, b'b', 2)"
    share.host(exchange)
    replays = share.replays()
    assert told(replays) == [("rename", b"", b"a"), ("rename", b"", b"b")]
    share.done(*replays)
    assert {*told(share.replays())} == {("sync", b"", b"a"), ("sync", b"", b"b")}


def test_what_the_agent_could_not_do_is_looked_at(share: Followed) -> None:
    share.host("os.mkdir('new')")
    replays = share.replays()
    share.done(*replays, status=5)
    sync = share.replays()
    assert told(sync) == [("sync", b"", b"new")]
    share.done(*sync, status=5)
    assert share.replays() == []


def test_the_mode_of_a_directory(share: Followed) -> None:
    (share.root / "folder/inner").mkdir(parents=True)
    share.guest.lookup(b"inner", share.guest.lookup(b"folder").nodeid)
    share.host("os.chmod('folder', 0o700); os.chmod('folder/inner', 0o700); os.chmod('.', 0o755)")
    assert told(share.replays()) == [("attrib", b"", b"folder"), ("attrib", b"folder", b"inner")]


def test_a_directory_that_was_moved_meanwhile(share: Followed) -> None:
    (share.root / "before").mkdir()
    share.guest.lookup(b"before")
    share.host("os.mkdir('before/new')")
    early = share.replays()
    assert told(early) == [("create", b"before", b"new")]
    share.host("os.rename('before', 'after')")
    moved = share.replays()
    share.done(*early, status=errno.ESTALE)
    assert told(share.replays()) == [("create", b"after", b"new")]
    share.done(*moved)


def test_an_agent_that_comes_late_hears_of_what_it_missed(share: Followed) -> None:
    for name in ("gone", "replaced", "written", "touched", "kept"):
        (share.root / name).write_text("old")
    nodes = {name: share.guest.lookup(name).nodeid for name in (b"gone", b"replaced", b"written", b"touched", b"kept")}
    for name in nodes:
        os.utime(share.root / os.fsdecode(name), (1, 1))
    share.attach(False)
    share.events._calm += 3600  # so that what was made just now is old
    share.host("for n in ('gone', 'replaced'): os.unlink(n)")
    share.host("open('other', 'w').close(); open('replaced', 'w').close(); open('written', 'a').write('x')")
    share.host("os.chmod('touched', 0o600); os.unlink('kept'); open('keeper', 'w').close(); open('kept', 'w').close()")
    share.events._calm -= 3600 + 10
    share.attach()
    missed = told(share.replays())
    assert ("delete", b"", b"gone") in missed
    assert ("create", b"", b"other") in missed
    assert ("written", b"", b"written") in missed
    assert ("attrib", b"", b"touched") in missed


def test_what_happens_while_there_is_no_worker_is_told_by_the_next(share: Followed) -> None:
    """And what the one before has told, but the agent has not done."""
    (share.root / "folder").mkdir()
    for name in (b"gone", b"removed", b"written", b"folder"):
        (share.root / os.fsdecode(name)).is_dir() or (share.root / os.fsdecode(name)).touch()
        share.guest.lookup(name)
    share.done(*share.replays())
    share.host("open('told', 'x'); os.unlink('gone')")
    assert ("delete", b"", b"gone") in told(share.replays())
    share.die()
    share.host("open('written', 'a').write('more'); open('folder/new', 'x'); os.unlink('removed')")
    share.attach()
    missed = told(share.replays())
    assert ("create", b"", b"told") in missed
    assert ("delete", b"", b"gone") in missed
    assert ("delete", b"", b"removed") in missed
    assert ("written", b"", b"written") in missed
    assert ("create", b"folder", b"new") in missed


def test_what_was_never_there_is_another_thing_to_the_next_worker(share: Followed) -> None:
    ghosts = []
    for name in ("one", "two"):
        share.host("open(sys.argv[1], 'x'); os.unlink(sys.argv[1])", name)
        replays = share.replays()
        gone = next(replay for replay in replays if replay.kind == "delete" and replay.name == name.encode())
        entry = share.ask(gone, FuseOpcode.FUSE_LOOKUP, 1, name.encode() + b"\0", room=128).body
        ghosts.append(int.from_bytes(entry[:8], "little"))
        share.done(*replays)
        share.die()
        share.attach()
        share.done(*share.replays())
    assert all(ghosts)
    assert ghosts[0] != ghosts[1]


def test_the_channel_outlives_the_agent(share: Followed) -> None:
    """Its number is the next worker's, too: no other file may have it meanwhile."""
    share.channel.close()
    share.settle()
    os.fstat(share.spec.fds["events"])


def test_the_name_that_something_left_is_looked_at_when_an_agent_comes_back(share: Followed) -> None:
    """Nobody has replayed the move: by the name that it left the guest still has the folder."""
    for name in ("before", "known"):
        (share.root / name).mkdir()
        share.guest.lookup(name.encode())
    share.host("os.rename('before', 'known/after')")
    assert told(share.replays()) == [("rename", b"", b"before")]
    share.attach(False)
    share.attach()
    missed = told(share.replays())
    assert ("sync", b"", b"before") in missed


def test_a_directory_that_moved_unseen_is_looked_at_and_not_removed(share: Followed) -> None:
    """Removed, the guest's kernel would take it for dead, wherever it meets it."""
    (share.root / "before/inner").mkdir(parents=True)
    share.guest.lookup(b"inner", share.guest.lookup(b"before").nodeid)
    share.attach(False)
    share.host("os.rename('before', 'after'); open('after/new', 'w').close()")
    share.events._calm -= 10
    share.attach()
    missed = told(share.replays())
    assert ("sync", b"", b"before") in missed
    assert not [one for one in missed if one[0] == "delete"]
    assert ("create", b"", b"after") in missed


def test_more_than_is_kept(share: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "MOST", 50)
    (share.root / "file").write_text("old")
    share.guest.lookup(b"file")
    share.host("for n in range(300): os.mkdir(str(n))\nopen('file', 'a').write('new'); os.unlink('file')")
    seen = []
    while replays := share.replays():
        seen += told(replays)
        share.done(*replays)
    assert ("delete", b"", b"file") in seen
    assert {name for what, _directory, name in seen if what == "create"} == {b"%d" % n for n in range(300)}


def test_the_kernel_s_queue_overflows(share: Followed) -> None:
    (share.root / "file").write_text("old")
    share.guest.lookup(b"file")
    share.events._note(fanotify.Event(fanotify.OVERFLOW, b"", b""))
    (share.root / "file").unlink()  # by this process, so that it is not told
    share.events._pump()
    assert ("delete", b"", b"file") in told(share.replays())


def test_a_new_session_knows_nothing(share: Followed) -> None:
    (share.root / "folder").mkdir()
    share.guest.lookup(b"folder")
    share.host("os.mkdir('one')")
    share.guest.init()
    share.done(*share.replays())
    share.host("os.mkdir('folder/inner'); os.mkdir('two')")
    assert ("create", b"", b"two") in told(share.replays())


def test_a_new_session_hears_at_once_of_what_is_new(share: Followed) -> None:
    """What was made when nothing was watched yet waits for no other change."""
    (share.root / "folder").mkdir()
    share.guest.init()
    assert told(share.replays()) == [("create", b"", b"folder")]


def test_what_a_look_at_everything_finds_is_told_once(share: Followed) -> None:
    (share.root / "folder").mkdir()
    share.guest.init()
    share.guest.lookup(b"folder")
    share.host("open('folder/new', 'w').close(); os.mkdir('folder/other')")
    told_of = told(share.replays())
    assert told_of.count(("create", b"folder", b"new")) == told_of.count(("create", b"folder", b"other")) == 1


def test_an_agent_that_does_not_read(share: Followed) -> None:
    """The worker goes on, and tells it later."""
    for number in range(20):
        share.host("for n in range(100): os.mkdir(sys.argv[1] + '-%d' % n)", str(number))
        share.settle()
    assert len(share.events._queue.replaying) <= WINDOW
    share.guest.lookup(b"0-0")
    seen = set()
    while replays := share.replays():
        seen |= {replay.name for replay in replays}
        share.done(*replays)
    assert len(seen) == 2000


def test_the_channel_ends(share: Followed) -> None:
    share.channel.close()
    share.host("os.mkdir('new')")
    share.settle()
    assert share.guest.lookup(b"new").nodeid > 1


@pytest.mark.parametrize("packet", [b"{", b"[]", b'{"done": [[1, 2, 3]]}', b"\xff" * 100])
def test_packets_that_mean_nothing(share: Followed, packet: bytes) -> None:
    share.channel.send(packet)
    share.settle()
    assert "means nothing" in share.worker.said[0]
    share.host("os.mkdir('new')")
    assert told(share.replays()) == [("create", b"", b"new")]


def test_results_of_replays_that_nobody_asked_for(share: Followed) -> None:
    share.done(Replay(77, "create", b"", b"x"))
    share.channel.send(pack_attached(True))
    share.host("os.mkdir('new')")
    assert ("create", b"", b"new") in told(share.replays())


def test_where_things_went_since() -> None:
    queue = ChangeQueue()
    places = [(1, name) for name in (b"a", b"b", b"c")]
    made = Change(kind.CREATE, places[0])
    for change in (made, Change(kind.RENAME, places[0], to=places[1]), Change(kind.RENAME, places[1], to=places[2])):
        queue.add(change)
    queue.add(Change(kind.CREATE, places[0]))
    queue.take(1)
    assert [*queue.moves(places[0], made)] == places
    assert queue.departs(places[0], made)
    assert queue.arrives(places[0], made)
    assert not queue.departs(places[2], made)
    for number in (2, 3, 4):
        queue.take(number)
    assert [*queue.moves(places[0], made)] == places
    for number in (1, 2, 3, 4):
        assert queue.end(number)
    assert not any(map(queue.touches, places))
    assert len(queue) == 0


def test_changes_of_one_file_that_wait_are_one() -> None:
    queue, place = ChangeQueue(), (1, b"a")
    for what in (kind.MODIFY, kind.MODIFY, kind.WRITTEN, kind.WRITTEN, kind.ATTRIB, kind.ATTRIB, kind.MODIFY):
        queue.add(Change(what, place))
    assert [change.kind for change in queue.waiting] == [kind.WRITTEN, kind.ATTRIB, kind.MODIFY]
    queue.take(1)
    queue.add(Change(kind.WRITTEN, place))
    assert [change.kind for change in queue.waiting] == [kind.ATTRIB, kind.WRITTEN]


def test_any_watching_costs_no_request(follow: Callable[..., Followed]) -> None:
    """A share that is followed has the compiled operations too: only tokens go past them."""
    share = follow()
    (share.root / "file").write_text("x")
    before = share.device.server.share.statistics.words[FuseOpcode.FUSE_LOOKUP]
    share.guest.lookup(b"file")
    assert share.device.server.share.statistics.words[FuseOpcode.FUSE_LOOKUP] == before + 1
    assert share.device.server.hot[FuseOpcode.FUSE_LOOKUP] is share.device.server.operations[FuseOpcode.FUSE_LOOKUP]
