"""`subos-devices clipboard`: what is copied in a guest, from scripts; and what may pass between its clipboard and ours.

Where both sides have a desktop, what is copied on one can be pasted on the other by itself. The guest's side is the
session part of its agent (`subos-agent session`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subos_protocol.agent.peer import Peer

EXAMPLES = """\
examples, for a VM called work (subos-devices status lists the names):
  subos-devices clipboard work get                      what is copied in the guest, as text
  subos-devices clipboard work get --type image/png >shot.png
  date | subos-devices clipboard work set               from here on to be pasted in the guest
  subos-devices clipboard work set --type image/png <shot.png
  subos-devices clipboard work formats                  the types that the guest offers
  subos-devices clipboard work watch                    a line at each change, and how far transfers are
  subos-devices clipboard work off                      nothing passes; on again: on
  subos-devices clipboard work policy both=text-only from-guest.text=ask limit=1M
  subos-devices clipboard work yes                      what is being asked may pass; or no

rules: DIRECTION[.TYPE]=ACTION and limit[.TYPE]=SIZE; directions: to-guest, from-guest, both; types: text, html, image,
files, other; actions: allow, deny, ask, text-only. Without rules, policy shows them. What has passed is logged in
~/.local/state/subos/clipboard.log: when, type, size and hash, never what it was.
"""

TEXT = "text/plain;charset=utf-8"
ACTIONS = ("get", "set", "formats", "watch", "policy", "on", "off", "yes", "no")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "clipboard",
        help="a guest's clipboard, and what of it may pass",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="VM", help="as subos-devices status lists it")
    parser.add_argument("action", choices=ACTIONS, help="see the examples")
    parser.add_argument("rules", nargs="*", metavar="RULE", help="for policy")
    parser.add_argument(
        "--type", metavar="MIME", help=f"the format (default for set: {TEXT}; for get: text, or the first)"
    )
    parser.add_argument("--primary", action="store_true", help="what is marked with the mouse, instead of copied")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from .. import signals
    from ..errors import UserError

    if args.rules and args.action != "policy":
        raise UserError(f"{args.action} takes no {args.rules[0]!r}", "rules are for policy")
    return signals.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    from ..agent.caller import connected, told

    work = {"get": _get, "set": _set, "formats": _formats, "watch": _watch, "yes": _answer, "no": _answer}
    async with connected(args.name) as peer:
        with told():
            await work.get(args.action, _policy)(args, peer)
    return 0


def _head(args: argparse.Namespace, operation: str, **fields: object) -> dict[str, Any]:
    selection = "primary" if args.primary else "clipboard"
    return {"op": f"host-clipboard.{operation}", "selection": selection, **fields}


async def _get(args: argparse.Namespace, peer: Peer) -> None:
    import asyncio
    import sys

    offered = await peer.ask(_head(args, "formats"))
    there = offered.get("primary" if args.primary else "clipboard") or []
    wanted = args.type or (TEXT if TEXT in there else None)
    async with peer.call(_head(args, "get", type=wanted)) as stream:
        while (message := await stream.receive()) is not None:
            if isinstance(message.content, bytes):
                await asyncio.to_thread(sys.stdout.buffer.write, message.content)
        await stream.result()


async def _set(args: argparse.Namespace, peer: Peer) -> None:
    import asyncio
    import os

    async with peer.call(_head(args, "set", type=args.type or TEXT)) as stream:
        while data := await asyncio.to_thread(os.read, 0, 1 << 16):
            await stream.send(data)
        stream.end()
        await stream.result()


async def _formats(args: argparse.Namespace, peer: Peer) -> None:
    offered = await peer.ask(_head(args, "formats"))
    if args.json:
        print(json.dumps(offered, indent=2))
        return
    from ..text import printable

    for name in offered.get("primary" if args.primary else "clipboard") or []:
        print(printable(str(name)))
    if offered.get("question"):
        way, mime = offered["question"]
        print(f"being asked: may {printable(str(mime))} pass {way}? subos-devices clipboard {args.name} yes (or no)")


async def _watch(args: argparse.Namespace, peer: Peer) -> None:
    before: dict[str, Any] = {}
    async with peer.call(_head(args, "watch")) as stream:
        while (message := await stream.receive()) is not None:
            if args.json:
                print(json.dumps(message.content), flush=True)
            elif isinstance(message.content, dict):
                for line in _changes(before, message.content):
                    print(line, flush=True)
                before = message.content
        await stream.result()


def _changes(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    from ..text import printable

    for selection in ("clipboard", "primary"):
        if now.get(selection, []) != before.get(selection, []) or (not before and selection in now):
            yield f"{selection}: {printable(', '.join(map(str, now.get(selection, []))) or 'nothing')}"
    for transfer in now.get("transfers", []):
        yield _transfer(transfer)


async def _policy(args: argparse.Namespace, peer: Peer) -> None:
    rules = args.rules if args.action == "policy" else [args.action]
    table = await peer.ask(_head(args, "policy", rules=rules))
    if args.json:
        print(json.dumps(table, indent=2))
    elif args.action == "policy":
        print("on" if table["on"] else "off: nothing passes")
        for way in ("to-guest", "from-guest"):
            print(f"{way}: " + ", ".join(f"{kind} {action}" for kind, action in table[way].items()))
        print("limits: " + ", ".join(f"{kind} {_size(size)}" for kind, size in table["limits"].items()))


def _size(size: int) -> str:
    for unit, shift in (("G", 30), ("M", 20), ("K", 10)):
        if size and not size % (1 << shift):
            return f"{size >> shift}{unit}"
    return str(size)


async def _answer(args: argparse.Namespace, peer: Peer) -> None:
    await peer.ask(_head(args, "answer", yes=args.action == "yes"))


def _transfer(transfer: dict[str, Any]) -> str:
    from ..text import printable

    mib = transfer["bytes"] / (1 << 20)
    return f"passing {transfer['direction']}: {printable(str(transfer['type']))}, {mib:.1f} MiB so far"
