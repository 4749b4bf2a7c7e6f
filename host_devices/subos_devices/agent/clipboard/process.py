"""The process that holds the host's end of a VM's clipboard: `python -m subos_devices.agent.clipboard.process`.

Its only way to the VM is a descriptor that it is given, a socket to the hub. The desktop's libraries block, and its
programs may be hostile: neither is to be near the supervisor, on which the VM itself waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator

from subos_desktop.clipboard.bridge import OUT, Bridge
from subos_desktop.clipboard.choosing import choose
from subos_desktop.clipboard.formats import is_mime
from subos_desktop.clipboard.interface import Clipboard, ClipboardError, Selection
from subos_protocol import __version__
from subos_protocol.agent.errors import ChannelLost, RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.hello import Hello
from subos_protocol.agent.peer import Handler, Peer
from subos_protocol.agent.stream import Stream

from ...errors import UserError
from . import audit
from .policy import FROM_GUEST, TO_GUEST, Rules

RETRY = 5.0  # seconds until a desktop that has gone is looked for again
ANSWER_SECONDS = 60.0
"""How long a person may think about whether something may pass."""

log = logging.getLogger("subos.clipboard")


class HostPolicy:
    """Rules, the questions that they make a person answer, and the log of what has passed."""

    def __init__(self, vm: str, rules: Rules) -> None:
        self.vm = vm
        self.rules = rules
        self.question: tuple[str, str] | None = None
        self._answer: asyncio.Future[bool] | None = None
        self._asking = asyncio.Lock()

    def allows(self, direction: str, mime: str) -> bool:
        return self.rules.action(_way(direction), mime) != "deny"

    def limit(self, mime: str) -> int:
        return self.rules.limit(mime)

    async def approve(self, direction: str, mime: str) -> bool:
        action = self.rules.action(_way(direction), mime)
        return action == "allow" or (action == "ask" and await self._ask(_way(direction), mime))

    async def _ask(self, way: str, mime: str) -> bool:
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
                return False
            finally:
                self.question = self._answer = None

    def answer(self, yes: bool) -> None:
        """Raises RemoteError where nothing was asked."""
        if self._answer is None or self._answer.done():
            raise RemoteError("not-found", "nothing is being asked")
        self._answer.set_result(yes)

    def record(self, direction: str, mime: str, size: int, digest: str) -> None:
        try:
            audit.record(self.vm, _way(direction), mime, size, digest)
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
        if not isinstance(mime, str):
            mime = next(iter(formats), "")
        try:
            async for chunk in self._bridge.fetch(selection, mime):
                await stream.send(chunk)
        except ClipboardError as error:
            raise RemoteError("not-found", error.message, f"it offers {', '.join(formats) or 'nothing'}") from error
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
        return self._offered() | {"question": self._policy.question, "desktop": self.desktop}

    def _offered(self) -> Head:
        return {
            selection.value: list(remote.formats)
            for selection, remote in sorted(self._bridge.remote.items(), key=lambda item: item[0].value)
        }

    async def _watch(self, stream: Stream) -> Head:
        while True:
            await stream.event(self._offered())
            self._bridge.changed.clear()
            await self._bridge.changed.wait()

    async def _change_policy(self, stream: Stream) -> Head:
        texts = stream.head.get("rules", [])
        try:
            for text in texts if isinstance(texts, list) else []:
                self._policy.rules.apply(str(text))
        except UserError as error:
            raise RemoteError("malformed", error.message, error.hint) from error
        if texts:
            await self._bridge.announce()
        return self._policy.rules.table()

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
    await peer.lost()
    sharing.cancel()
    await asyncio.gather(sharing, return_exceptions=True)


async def _share(bridge: Bridge, peer: Peer, commands: Commands) -> None:
    """With a desktop while there is one; without one commands alone use the clipboard."""
    await peer.ready()
    while True:
        async with _desktop(commands) as clipboard:
            bridge.use(clipboard)
            try:
                async with asyncio.timeout(None if clipboard else RETRY):
                    await bridge.run(peer, announce=True)
            except ClipboardError as error:
                log.info("the desktop has gone: %s", error.message)
            except (TimeoutError, ChannelLost):
                pass
            if peer.is_lost:
                return
        await asyncio.sleep(0.5)


@contextlib.asynccontextmanager
async def _desktop(commands: Commands) -> AsyncIterator[Clipboard | None]:
    try:
        choice = await choose()
    except ClipboardError as error:
        commands.desktop = f"none: {error.message}"
        yield None
        return
    commands.desktop = choice.reason
    try:
        yield choice.clipboard
    finally:
        with contextlib.suppress(ClipboardError):
            await choice.clipboard.close()


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
