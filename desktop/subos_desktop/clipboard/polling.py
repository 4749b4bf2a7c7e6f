"""The last resort: text alone, by pyperclip, which starts a program (xclip, xsel, wl-paste) each time.

It tells of nothing by itself, so it is asked every second, and what we offer is handed over at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, AsyncIterator, Optional, Sequence

from .formats import TEXT
from .interface import CHUNK, Clipboard, ClipboardError, Disconnected, Provider, Selection, TooLarge, Unavailable
from .streams import closing

INTERVAL = 1.0  # seconds
MAX_TEXT = 16 << 20  # bytes; all of it is in memory


class PyperclipClipboard(Clipboard):
    """Knows only CLIPBOARD; what is offered for PRIMARY goes nowhere."""

    name = "pyperclip"
    detail = "text only, asked for once a second"

    def __init__(self, marker: Optional[str] = None) -> None:
        super().__init__(marker)
        self._text = ""  # what was there last, or what we have put there
        self._polling: Optional[asyncio.Task[None]] = None

    async def connect(self) -> None:
        try:
            import pyperclip
        except ImportError as error:
            raise Unavailable("pyperclip is not installed", "Debian calls the package python3-pyperclip") from error
        self._failures = (pyperclip.PyperclipException, OSError, UnicodeError)
        self._lost, self._one = None, asyncio.Lock()
        # pyperclip.copy and paste would stay with what was there when they were first called.
        self._copy, self._paste = pyperclip.determine_clipboard()
        try:
            self._text = await self._call(self._paste)
        except ClipboardError as error:
            raise Unavailable(
                "pyperclip finds no program that it could use", "install xclip or wl-clipboard"
            ) from error
        if self._text:
            self._announce(Selection.CLIPBOARD, (TEXT,))
        self._polling = asyncio.get_running_loop().create_task(self._poll())

    async def close(self) -> None:
        if self._polling is not None:
            self._polling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._polling
            self._polling = None
            self._lose(Disconnected("the clipboard is closed"))

    async def read(self, selection: Selection, mime: str, serial: Optional[int] = None) -> AsyncIterator[bytes]:
        self._offered(selection, mime, serial)
        data = self._text.encode("utf-8", "replace")
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]

    async def offer(self, selection: Selection, formats: Sequence[str], provider: Provider) -> None:
        if self._lost:
            raise self._lost
        self._forget(selection)
        if selection is not Selection.CLIPBOARD or TEXT not in formats:
            return
        data = bytearray()
        async with closing(provider(TEXT)) as chunks:
            async for chunk in chunks:
                data += chunk
                if len(data) > MAX_TEXT:
                    raise TooLarge(f"pyperclip is given no text of more than {MAX_TEXT >> 20} MiB")
        await self._put(bytes(data).decode("utf-8", "replace"))

    async def release(self, selection: Selection) -> None:
        """Leaves the text: it is not ours any more since it was handed over."""

    async def _put(self, text: str) -> None:
        async with self._one:
            await self._call(self._copy, text)
            self._text = text

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            async with self._one:
                try:
                    text = await self._call(self._paste)
                except ClipboardError as error:
                    self._lose(Disconnected(error.message))
                    return
                if text == self._text:
                    continue
                self._text = text
            self._announce(Selection.CLIPBOARD, (TEXT,) if text else ())

    async def _call(self, function: Any, *arguments: str) -> str:
        """In a thread, since it waits for a program."""
        try:
            result = await asyncio.get_running_loop().run_in_executor(None, function, *arguments)
        except self._failures as error:
            raise ClipboardError(f"pyperclip failed: {str(error).strip().partition(chr(10))[0]}") from error
        return str(result or "")
