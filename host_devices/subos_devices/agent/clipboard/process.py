"""The process that holds the host's end of a VM's clipboard: `python -m subos_devices.agent.clipboard.process`.

Its only way to the VM is a descriptor that it is given, a socket to the hub. The desktop's libraries block, and its
programs may be hostile: neither is to be near the supervisor, on which the VM itself waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import shutil
import signal
import socket
import sys
from typing import Any

from subos_desktop.clipboard.bridge import Bridge, Remote
from subos_desktop.clipboard.choosing import choose
from subos_desktop.clipboard.formats import is_mime
from subos_desktop.clipboard.interface import Clipboard, ClipboardError, Selection, TooLarge
from subos_desktop.clipboard.policy import OUT
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

FIRST_RETRY, LAST_RETRY = 1.0, 60.0
"""Seconds until a desktop that is not there, or has gone, is looked for again."""
PROGRESS_SECONDS = 0.5
"""How often those who watch are told how far transfers are."""
ANSWER_SECONDS = 60.0
"""How long a person may think about whether something may pass."""

log = logging.getLogger("subos.clipboard")


class HostPolicy:
    """Rules, the questions that they make a person answer, and the log of what has passed."""

    logs = True

    def __init__(self, vm: str, rules: Rules) -> None:
        self.vm = vm
        self.rules = rules
        self.question: tuple[str, str] | None = None
        self._answer: asyncio.Future[bool] | None = None
        self._asking = asyncio.Lock()
        self._asked: dict[tuple[str, str, int], asyncio.Future[bool | None]] = {}

    def allows(self, direction: str, mime: str) -> bool:
        return self.rules.action(_way(direction), mime) != "deny"

    def limit(self, mime: str) -> int:
        return self.rules.limit(mime)

    async def approve(self, direction: str, mime: str, copy: int) -> bool:
        """An answer holds for what was copied, so programs that paste it again and again do not ask each time."""
        way = _way(direction)
        if self.rules.action(way, mime) == "ask":
            key = (way, type_of(mime), copy)
            asked = self._asked.get(key)
            if asked is None or (asked.done() and asked.result() is None):
                self._asked = {old: future for old, future in self._asked.items() if old[0] != way or old[2] == copy}
                asked = self._asked[key] = asyncio.ensure_future(self._ask(way, mime))
            if not await asyncio.shield(asked):
                return False
        return self.rules.action(way, mime) != "deny"

    async def _ask(self, way: str, mime: str) -> bool | None:
        """What a person says; None: nobody did."""
        async with self._asking:
            self.question, self._answer = (way, mime), asyncio.get_running_loop().create_future()
            text = f"may {mime} pass {way} in {self.vm}? subos-devices clipboard {self.vm} yes (or no)"
            log.warning("%s", text)
            notifier = shutil.which("notify-send")
            if notifier is not None:
                with contextlib.suppress(OSError):
                    await asyncio.create_subprocess_exec(notifier, "--app-name=SubOS", "SubOS clipboard", text)
            try:
                return await asyncio.wait_for(self._answer, ANSWER_SECONDS)
            except TimeoutError:
                return None
            finally:
                self.question = self._answer = None

    def answer(self, yes: bool) -> None:
        """Raises RemoteError where nothing was asked."""
        if self._answer is None or self._answer.done():
            raise RemoteError("not-found", "nothing is being asked")
        self._answer.set_result(yes)

    def record(self, direction: str, mime: str, size: int, digest: str, complete: bool) -> None:
        try:
            audit.record(self.vm, _way(direction), mime, size, digest, complete)
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
        if not self._policy.allows(OUT, mime):
            raise RemoteError("refused", f"{mime} may not pass to the guest", "subos-devices clipboard VM policy")
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
            "question": self._policy.question,
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
        self._policy.answer(stream.head.get("yes") is True)
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
