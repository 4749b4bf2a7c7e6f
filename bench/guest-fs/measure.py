"""Real work in one booted guest, on our share and on virtiofsd's, side by side (see bench/README.md). `run` starts it.

Both shares are plugged at once; each row alternates between them (A B, B A, …) and begins with nothing cached in
the guest. Printed are the medians, their ratio, and the ratios' geometric mean.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from guest import OURS, PEER, Guest, Side, booted
from rows import ROWS, Fixtures

from peers import BUILD, BenchError, main, say, virtiofsd
from subos_devices import signals
from subos_devices.errors import SubosError
from subos_devices.supervisor.holder import Holder

PEER_OPTIONS = ("--sandbox=none", "--thread-pool-size=0")
"""virtiofsd's fastest mode."""


def run() -> None:
    options = parse_arguments()
    fixtures = Fixtures(BUILD / "guest-fs")
    program = shlex.split(options.virtiofsd) if options.virtiofsd else [str(virtiofsd())]
    xattr = ["--xattr"] if options.xattr else []
    peer = [*program, *PEER_OPTIONS, *xattr, f"--cache={options.cache}", *options.peer]
    results: dict[str, dict[str, Any]] = {}
    with closing(Holder.start()) as holder:
        try:
            status = signals.run(measure(results, holder, fixtures, peer, options))
        except SubosError as error:
            raise BenchError(str(error)) from error
    if results:  # of a run that was ended early: the rows that it had
        report(results, peer, options)
    sys.exit(status)


def report(results: dict[str, dict[str, Any]], peer: list[str], options: argparse.Namespace) -> None:
    mean = None
    if options.rounds:
        mean = round(statistics.geometric_mean(result["ratio"] for result in results.values()), 3)
    if options.json:
        facts = {"baseline": PEER, "peer": peer, "ours": options.ours, "geometric_mean": mean, "rows": results}
        print(json.dumps(facts, indent=2))
        return
    if mean is not None:
        print_table(results, mean)
    if options.requests or mean is None:
        print_requests(results)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/guest-fs/run", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)} (default: all)")
    parser.add_argument(
        "--rounds", type=int, default=5, help="after one that counts requests (default: 5; 0: only that)"
    )
    parser.add_argument("--cache", default="auto", metavar="MODE", help="of both (default: auto)")
    parser.add_argument(
        "--ours", action="append", default=[], metavar="KEY=VALUE", help="an option of our device; may be repeated"
    )
    parser.add_argument(
        "--peer", action="append", default=[], metavar="ARGUMENT", help="one more of virtiofsd's: --peer=--writeback"
    )
    parser.add_argument(
        "--device", action="append", default=[], metavar="KEY=VALUE", help="a property of QEMU's devices, of both"
    )
    parser.add_argument("--no-xattr", dest="xattr", action="store_false", help="both without extended attributes")
    parser.add_argument("--virtiofsd", metavar="COMMAND", help="the peer (default: the machine's, or Debian's)")
    parser.add_argument("--store", type=Path, default=BUILD, metavar="DIR", help="where the shares are (bench/build)")
    parser.add_argument(
        "--followed", action="store_true", help="the guest's agent is told what the host changes in our share"
    )
    parser.add_argument("--requests", action="store_true", help="also print the requests by kind")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.rows = options.rows or list(ROWS)
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}")
    for row in options.rows:
        if (needed := ROWS[row].needs) and not shutil.which(needed):
            parser.error(f"the row {row} needs {needed}: install it, or name the other rows")
    options.ours, options.device = pairs(parser, options.ours), pairs(parser, options.device)
    options.ours = {"cache": options.cache, "xattr": "yes" if options.xattr else "no"} | options.ours
    options.store.mkdir(parents=True, exist_ok=True)
    return options


def pairs(parser: argparse.ArgumentParser, words: list[str]) -> dict[str, str]:
    for word in words:
        if "=" not in word:
            parser.error(f"{word} is not KEY=VALUE")
    return dict(word.split("=", 1) for word in words)


async def measure(
    results: dict[str, dict[str, Any]], holder: Holder, fixtures: Fixtures, peer: list[str], options: argparse.Namespace
) -> int:
    """Fills in the rows' results, by name."""
    say("booting")
    async with booted(holder, options.store.resolve(), peer, options.ours, options.device, options.followed) as guest:
        for row in options.rows:
            say(row)
            results[row] = await measure_row(guest, row, fixtures, options.rounds)
    return 0


async def measure_row(guest: Guest, row: str, fixtures: Fixtures, rounds: int) -> dict[str, Any]:
    """The first round is not timed: it fills the caches of all that is not the share, and counts the requests."""
    seconds: dict[str, list[float]] = {OURS: [], PEER: []}
    cpu: dict[str, list[float]] = {OURS: [], PEER: []}
    requests = {}
    for turn in range(-1, rounds):
        for side in sorted(guest.sides.values(), key=lambda side: side.name, reverse=turn % 2 == 0):
            answer, used = await once(guest, row, side, fixtures, count=turn < 0)
            if turn < 0:
                requests[side.name] = answer["requests"]
                continue
            seconds[side.name].append(round(answer["seconds"], 4))
            cpu[side.name].append(round(used, 4))
    if not rounds:
        return {"requests": requests}
    median = {name: round(statistics.median(times), 4) for name, times in seconds.items()}
    median_cpu = {name: round(statistics.median(times), 4) for name, times in cpu.items()}
    ratio = round(median[OURS] / median[PEER], 3)
    say(f"{row}: {median[OURS]:.2f} s, virtiofsd {median[PEER]:.2f} s, ratio {ratio:.2f}")
    return {
        "ratio": ratio,
        "cpu_ratio": round(median_cpu[OURS] / median_cpu[PEER], 3),
        "median": median,
        "median_cpu": median_cpu,
        "seconds": seconds,
        "cpu": cpu,
        "requests": requests,
    }


async def once(guest: Guest, row: str, side: Side, fixtures: Fixtures, count: bool) -> tuple[dict[str, Any], float]:
    """One row on one share: what the guest answered, and the back end's processor time."""
    command = ROWS[row]
    for left in side.folder.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    command.prepare(side.folder, fixtures)
    os.sync()  # so that the disk is not busy with what was before
    before = side.cpu()
    answer = await guest.work(row, side, fixtures.folder, count)
    used = side.cpu() - before
    try:
        command.check(side.folder, fixtures, answer)
    except (OSError, KeyError) as error:
        raise BenchError(f"{row} on {side.name}'s share: {error!r}") from error
    except BenchError as error:
        raise BenchError(f"{row} on {side.name}'s share: {error}") from error
    return answer, used


def print_table(results: dict[str, dict[str, Any]], mean: float) -> None:
    columns = (OURS, PEER, "ratio", "CPU", "CPU", "ratio", "requests", "")
    print(f"{'seconds, median':16}" + "".join(f"{column:>11}" for column in columns))
    for row, result in results.items():
        median, cpu, requests = result["median"], result["median_cpu"], result["requests"]
        print(
            f"{row:16}{median[OURS]:11.3f}{median[PEER]:11.3f}{result['ratio']:11.2f}"
            f"{cpu[OURS]:11.3f}{cpu[PEER]:11.3f}{result['cpu_ratio']:11.2f}"
            f"{sum(requests[OURS].values()):11}{sum(requests[PEER].values()):11}"
        )
    print(f"{'geometric mean':16}{'':22}{mean:11.3f}")


def print_requests(results: dict[str, dict[str, Any]]) -> None:
    for row, result in results.items():
        ours, theirs = result["requests"][OURS], result["requests"][PEER]
        print(f"\n{row}: {sum(ours.values())} requests of {OURS}, {sum(theirs.values())} of {PEER}")
        for kind in sorted(ours | theirs, key=lambda kind: -ours.get(kind, 0)):
            print(f"  {kind:18}{ours.get(kind, 0):9}{theirs.get(kind, 0):9}")


main(run)
