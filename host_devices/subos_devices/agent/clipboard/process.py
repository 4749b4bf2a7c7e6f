"""The process that holds the host's end of a VM's clipboard: `python -m subos_devices.agent.clipboard.process`.

Its only way to the VM is a descriptor that it is given, a socket to the hub. The desktop's libraries block, and its
programs may be hostile: neither is to be near the supervisor, on which the VM itself waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

from subos_desktop.clipboard.bridge import Bridge, Remote
from subos_desktop.clipboard.choosing import choose
from subos_desktop.clipboard.formats import is_mime
from subos_desktop.clipboard.interface import Clipboard, ClipboardError, Selection, TooLarge
from subos_desktop.clipboard.pace import Pace
from subos_desktop.clipboard.policy import OUT, Passed
from subos_desktop.clipboard.streams import closing
from subos_protocol import __version__
from subos_protocol.agent.errors import ChannelLost, RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.hello import Hello
from subos_protocol.agent.peer import Handler, Peer
from subos_protocol.agent.stream import Stream

from ...errors import UserError
from . import audit
from .policy import FROM_GUEST, TO_GUEST, Rules, type_of
from .questions import Questions

FIRST_RETRY, LAST_RETRY = 1.0, 60.0
"""Seconds until a desktop that is not there, or has gone, is looked for again."""
PROGRESS_SECONDS = 0.5
"""How often those who watch are told how far transfers are."""
READS, READS_A_SECOND = 20, 4.0
"""How often the guest may read one type of one copy: at once, and then. Programs that paste read a few times."""

log = logging.getLogger("subos.clipboard")


class HostPolicy:
    """Rules, the questions that they make a person answer, and the log of what has passed."""

    logs = True

    def __init__(self, vm: str, rules: Rules) -> None:
        self.rules = rules
        self.questions = Questions(vm)
        self._log = audit.Log(vm)
        self._answers: dict[int, dict[tuple[str, str], asyncio.Future[bool | None]]] = {}
        """Of each copy that is not over, by direction and type as rules name them."""
        self._paces: dict[int, dict[str, Pace]] = {}
        """Of each copy that is not over, by MIME type: of those that the guest reads."""

    def allows(self, direction: str, selection: Selection, mime: str) -> bool:
        return self.rules.action(_way(direction), mime, selection is Selection.PRIMARY) != "deny"

    def limit(self, mime: str) -> int:
        return self.rules.limit(mime)

    async def approve(self, direction: str, selection: Selection, mime: str, copy: int) -> bool:
        """An answer holds for what was copied, so programs that paste it again and again do not ask each time."""
        way = _way(direction)
        self._log.begin(copy)
        if direction == OUT:
            pace = self._paces.setdefault(copy, {}).setdefault(mime, Pace(READS, READS_A_SECOND))
            while wait := pace.take():
                await asyncio.sleep(wait)
            if copy not in self._paces:
                return False  # it is over
        if self.allows(direction, selection, mime) and self.rules.action(way, mime) == "ask":
            answers, key = self._answers.setdefault(copy, {}), (way, type_of(mime))
            if key not in answers or (answers[key].done() and answers[key].result() is None):
                answers[key] = self.questions.ask(way, mime, copy)
            if not await asyncio.shield(answers[key]):
                return False
        return self.allows(direction, selection, mime)

    def over(self, copy: int) -> None:
        self._answers.pop(copy, None)
        self._paces.pop(copy, None)
        self.questions.over(copy)
        with _log_errors():
            self._log.over(copy)

    def record(self, passed: Passed) -> None:
        line = (
            _way(passed.direction),
            passed.selection.value,
            passed.mime,
            passed.size,
            passed.digest,
            passed.complete,
        )
        with _log_errors():
            self._log.record(passed.copy, audit.Line(*line))

    def close(self) -> None:
        with _log_errors():
            self._log.close()


@contextlib.contextmanager
def _log_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.warning("the clipboard's log cannot be written: %s", error)


def _way(direction: str) -> str:
    return TO_GUEST if direction == OUT else FROM_GUEST


class Commands:
    """What `subos-devices clipboard` asks for."""

    def __init__(self, bridge: Bridge, policy: HostPolicy) -> None:
        self._bridge = bridge
        self._policy = policy
        self.desktop = "none"

    def handlers(self) -> dict[str, Handler]:
        return {
            "host-clipboard.get": self._get,
            "host-clipboard.set": self._set,
            "host-clipboard.formats": self._formats,
            "host-clipboard.watch": self._watch,
            "host-clipboard.policy": self._change_policy,
            "host-clipboard.answer": self._answer,
        }

    async def _get(self, stream: Stream) -> Head:
        selection, mime = _selection(stream.head), stream.head.get("type")
        formats = self._bridge.remote[selection].formats if selection in self._bridge.remote else ()
        if not formats:
            hint = "what was copied here, or given by set, is not the guest's" if self._bridge.local else ""
            raise RemoteError("not-found", f"the guest has nothing in {selection.value} that may be had", hint)
        if not isinstance(mime, str):
            mime = formats[0]
        try:
            async with closing(self._bridge.fetch(selection, mime)) as chunks:
                async for chunk in chunks:
                    await stream.send(chunk)
        except ClipboardError as error:
            code = "too-large" if isinstance(error, TooLarge) else "not-found"
            raise RemoteError(code, error.message, error.hint or f"it offers {', '.join(formats)}") from error
        return {"type": mime}

    async def _set(self, stream: Stream) -> Head:
        selection, mime = _selection(stream.head), stream.head.get("type")
        if not isinstance(mime, str) or not is_mime(mime):
            raise RemoteError("malformed", f"{mime} is no MIME type", "text/plain;charset=utf-8, image/png, …")
        if not self._policy.allows(OUT, selection, mime):
            what = f"{mime} may not pass to the guest" + (
                " as what is marked" if selection is Selection.PRIMARY else ""
            )
            raise RemoteError("refused", what, "subos-devices clipboard VM policy")
        data = bytearray()
        while (message := await stream.receive()) is not None:
            if isinstance(message.content, bytes):
                data += message.content
                if len(data) > self._policy.limit(mime):
                    raise RemoteError("too-large", f"more than {self._policy.limit(mime)} bytes of {mime}")
        try:
            taken = await self._bridge.push(selection, {mime: bytes(data)})
        except ChannelLost as error:
            raise RemoteError("lost", str(error)) from error
        if not taken:
            raise RemoteError("no-session", "the guest did not take it: no desktop session of it is connected")
        return {"size": len(data)}

    async def _formats(self, stream: Stream) -> Head:
        return self._offered() | {
            "question": self._policy.questions.table(),
            "desktop": self.desktop,
            "transfers": self._transfers(),
        }

    def _offered(self) -> Head:
        nothing = Remote()
        return {each.value: list(self._bridge.remote.get(each, nothing).formats) for each in Selection}

    async def _watch(self, stream: Stream) -> Head:
        told: Head = {}
        async for _ in self._bridge.changes():
            while True:
                transfers = self._transfers()
                if told != (told := self._offered() | {"transfers": transfers}):
                    await stream.event(told)
                if not transfers:
                    break
                await asyncio.sleep(PROGRESS_SECONDS)
        raise AssertionError("changes do not end")

    def _transfers(self) -> list[Head]:
        """Those under way: a short one is over before anybody sees it."""
        return [
            {"direction": _way(transfer.direction), "type": transfer.mime, "bytes": transfer.done}
            for transfer in self._bridge.transfers
        ]

    async def _change_policy(self, stream: Stream) -> Head:
        """All of the rules, or none where one of them is none."""
        texts = stream.head.get("rules", [])
        rules = copy.deepcopy(self._policy.rules)
        try:
            for text in texts if isinstance(texts, list) else []:
                rules.apply(str(text))
        except UserError as error:
            raise RemoteError("malformed", error.message, error.hint) from error
        if texts:
            self._policy.rules = rules
            await self._bridge.review()
        return rules.table()

    async def _answer(self, stream: Stream) -> Head:
        number = stream.head.get("number")
        self._policy.questions.answer(stream.head.get("yes") is True, number if type(number) is int else None)
        return {}


def _selection(head: Head) -> Selection:
    try:
        return Selection(head.get("selection", "clipboard"))
    except ValueError as error:
        raise RemoteError("malformed", "there are clipboard and primary") from error


async def run(channel: socket.socket, vm: str, rules: Rules) -> None:
    """Until the hub hangs up."""
    policy = HostPolicy(vm, rules)
    bridge = Bridge(None, policy, wins=True)
    commands = Commands(bridge, policy)
    table = bridge.handlers() | commands.handlers()
    peer = Peer(Hello("subos-devices", __version__, sorted(table)), table, opener=True)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: peer, channel)
    sharing = asyncio.ensure_future(_share(bridge, peer, commands))
    gone = asyncio.ensure_future(peer.lost())
    await asyncio.wait({sharing, gone}, return_when=asyncio.FIRST_COMPLETED)
    for task in (sharing, gone):
        task.cancel()
    failed, _ = await asyncio.gather(sharing, gone, return_exceptions=True)
    peer.close()
    policy.close()
    if isinstance(failed, Exception) and not isinstance(failed, ChannelLost):
        raise failed  # this process is of no more use; the launcher starts another one


async def _share(bridge: Bridge, peer: Peer, commands: Commands) -> None:
    """With a desktop while there is one; without one commands alone use the clipboard. Until the hub hangs up."""
    await peer.ready()
    clipboard = await _desktop(commands)
    while not peer.is_lost:
        bridge.use(clipboard)
        work: list[asyncio.Future[Any]] = [asyncio.ensure_future(bridge.run(peer, announce=True))]
        if clipboard is None:
            work.append(asyncio.ensure_future(_appears(commands)))
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            clipboard = next((task.result() for task in work if task.done()), None)
        except ClipboardError as error:
            commands.desktop = f"none: {error.message}"
            clipboard = None
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)


async def _appears(commands: Commands) -> Clipboard:
    wait = FIRST_RETRY
    while True:
        await asyncio.sleep(wait)
        if (clipboard := await _desktop(commands)) is not None:
            return clipboard
        wait = min(2 * wait, LAST_RETRY)


async def _desktop(commands: Commands) -> Clipboard | None:
    try:
        choice = await choose()
    except ClipboardError as error:
        commands.desktop = f"none: {error.message}"
        return None
    commands.desktop = choice.reason
    return choice.clipboard


def main() -> int:
    """Arguments: the descriptor, the VM's name, then rules."""
    logging.basicConfig(format="subos: %(message)s", level=logging.WARNING, stream=sys.stderr)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C is the launcher's, whose end is ours
    channel, vm, *rules = sys.argv[1:]
    asyncio.run(run(socket.socket(fileno=int(channel)), vm, Rules.parse(rules)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
