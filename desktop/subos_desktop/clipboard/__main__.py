"""A look at the clipboard of this desktop.   python -m subos_desktop.clipboard --help"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from typing import AsyncIterator, List, Optional

from . import BACKENDS, CHUNK, TEXT, Clipboard, ClipboardError, Selection, choose, closing, probe


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m subos_desktop.clipboard", description="A look at the clipboard of this desktop."
    )
    parser.add_argument("--backend", choices=BACKENDS, help="instead of the best one that works")
    parser.add_argument("--primary", action="store_true", help="what is marked with the mouse, not what is copied")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("probe", help="which backends work here, and why not")
    commands.add_parser("watch", help="say what other programs copy, until interrupted")
    commands.add_parser("formats", help="the formats of what is there now")
    get = commands.add_parser("get", help="write what is there to the standard output")
    put = commands.add_parser("set", help="hold the standard input until another program copies something")
    for command in (get, put):
        command.add_argument("mime", nargs="?", default=TEXT, help="the format (plain text)")
    arguments = parser.parse_args(argv)
    try:
        asyncio.run(_run(arguments))
    except ClipboardError as error:
        print(f"clipboard: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 130
    return 0


async def _run(arguments: argparse.Namespace) -> None:
    if arguments.command == "probe":
        for finding in await probe():
            hint = f" ({finding.hint})" if finding.hint else ""
            print(f"{finding.name}: {'works' if finding.works else 'does not work'}: {finding.detail}{hint}")
        return
    selection = Selection.PRIMARY if arguments.primary else Selection.CLIPBOARD
    choice = await choose(arguments.backend)
    clipboard = choice.clipboard
    try:
        if arguments.command == "watch":
            await _watch(clipboard, choice.reason)
        elif arguments.command == "formats":
            print("\n".join(await _formats(clipboard, selection)))
        elif arguments.command == "get":
            await _formats(clipboard, selection)
            async with closing(clipboard.read(selection, arguments.mime)) as chunks:
                async for chunk in chunks:
                    sys.stdout.buffer.write(chunk)
            sys.stdout.flush()
        else:
            await _set(clipboard, selection, arguments.mime)
    finally:
        await clipboard.close()


async def _watch(clipboard: Clipboard, reason: str) -> None:
    print(f"{clipboard.name}: {clipboard.detail} ({reason})", flush=True)
    async for offer in clipboard.offers():
        print(f"{offer.serial} {offer.selection.value}: {', '.join(offer.formats) or 'nothing'}", flush=True)


async def _formats(clipboard: Clipboard, selection: Selection) -> List[str]:
    """Of the present offer, which comes a moment after connecting; nothing where there is none."""

    async def first() -> List[str]:
        async for offer in clipboard.offers():
            if offer.selection is selection:
                return list(offer.formats)
        return []

    with contextlib.suppress(asyncio.TimeoutError):
        return await asyncio.wait_for(first(), 1)
    return []


async def _set(clipboard: Clipboard, selection: Selection, mime: str) -> None:
    data = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)

    async def provide(asked: str) -> AsyncIterator[bytes]:
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]

    await clipboard.offer(selection, [mime], provide)
    async for offer in clipboard.offers():
        if offer.selection is selection:
            return


if __name__ == "__main__":
    sys.exit(main())
