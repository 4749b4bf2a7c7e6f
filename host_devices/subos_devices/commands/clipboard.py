"""`subos-devices clipboard`: what is copied in a guest, from scripts; and what may pass between its clipboard and ours.

Where both sides have a desktop, what is copied on one can be pasted on the other by itself. The guest's side is the
session part of its agent (`subos-agent session`).
"""

from __future__ import annotations

import argparse
import json
import re
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
  subos-devices clipboard work policy primary=both      what is marked with the mouse passes to the guest, too
  subos-devices clipboard work yes 7                    what question 7 asks for may pass; or no 7

rules: DIRECTION[.TYPE]=ACTION, limit[.TYPE]=SIZE and primary=DIRECTION; directions: to-guest, from-guest, both, and for
primary off; types: text, html, image, files, other; actions: allow, deny, ask, text-only. Without rules, policy shows
them. A guest may read what it is offered at once, without a paste. What is marked passes only from the guest by
default, and what a password manager says is secret never does. What has passed is logged in
~/.local/state/subos/clipboard-VM.log: when, type, size and hash, never what it was.
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
    parser.add_argument("rules", nargs="*", metavar="RULE", help="for policy; for yes and no: the question's number")
    parser.add_argument(
        "--type", metavar="MIME", help=f"the format (default for set: {TEXT}; for get: text, or the first)"
    )
    parser.add_argument("--primary", action="store_true", help="what is marked with the mouse, instead of copied")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from .. import signals
    from ..errors import UserError

    if args.action in ("yes", "no"):
        if len(args.rules) > 1 or not all(re.fullmatch("[0-9]{1,9}", number) for number in args.rules):
            raise UserError(f"{args.action} takes the number of a question", "formats shows what is being asked")
    elif args.rules and args.action != "policy":
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
    import os

    from ..errors import UserError
    from ..streams import unblocked
    from ..text import Shown

    offered = await peer.ask(_head(args, "formats"))
    there = [str(name) for name in offered.get("primary" if args.primary else "clipboard") or [TEXT]]
    wanted = args.type or (TEXT if TEXT in there else there[0])
    shown = Shown() if os.isatty(1) else None
    if shown is not None and not wanted.startswith("text/"):
        raise UserError(f"{wanted} is nothing for a terminal", "write it to a file: … get >FILE")
    with unblocked(1) as output:
        async with peer.call(_head(args, "get", type=wanted)) as stream:
            while (message := await stream.receive()) is not None:
                if isinstance(message.content, bytes):
                    await output.write(message.content if shown is None else shown.feed(message.content))
            await stream.result()
        if shown is not None:
            await output.write(shown.feed(b"", last=True))


async def _set(args: argparse.Namespace, peer: Peer) -> None:
    import asyncio

    from ..agent.standard import StandardInput

    source = StandardInput()
    try:
        async with peer.call(_head(args, "set", type=args.type or TEXT)) as stream:
            while data := await asyncio.to_thread(source.read, 1 << 16):
                await stream.send(data)
            stream.end()
            await stream.result()
    finally:
        source.give_up()


async def _formats(args: argparse.Namespace, peer: Peer) -> None:
    offered = await peer.ask(_head(args, "formats"))
    if args.json:
        print(json.dumps(offered, indent=2))
        return
    from ..text import printable

    for name in offered.get("primary" if args.primary else "clipboard") or []:
        print(printable(str(name)))
    if offered.get("question"):
        number, way, mime = (offered["question"][name] for name in ("number", "direction", "type"))
        answer = f"subos-devices clipboard {args.name} yes {number} (or no {number})"
        print(f"being asked: may {printable(str(mime))} pass {way}? {answer}")


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
        print(f"what is marked: {'neither way' if table['primary'] == 'off' else table['primary']}")
        print("limits: " + ", ".join(f"{kind} {_size(size)}" for kind, size in table["limits"].items()))


def _size(size: int) -> str:
    for unit, shift in (("G", 30), ("M", 20), ("K", 10)):
        if size and not size % (1 << shift):
            return f"{size >> shift}{unit}"
    return str(size)


async def _answer(args: argparse.Namespace, peer: Peer) -> None:
    number = {"number": int(args.rules[0])} if args.rules else {}
    await peer.ask(_head(args, "answer", yes=args.action == "yes", **number))


def _transfer(transfer: dict[str, Any]) -> str:
    from ..text import printable

    mib = transfer["bytes"] / (1 << 20)
    return f"passing {transfer['direction']}: {printable(str(transfer['type']))}, {mib:.1f} MiB so far"
