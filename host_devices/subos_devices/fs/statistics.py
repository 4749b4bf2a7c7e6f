"""What a share has done, in memory that its worker writes and the supervisor reads: `status` costs the worker nothing.

As u64: requests by opcode, errors by opcode, totals and gauges, then a histogram of times by opcode. Times are taken of
one request in `SAMPLED`, from its arguments to its reply, in buckets that are half a power of two wide.
"""

from __future__ import annotations

from typing import Any

from subos_protocol.fuse_opcodes import FuseOpcode

OPCODES = 64
REQUESTS, ERRORS = 0, OPCODES
BYTES_READ, BYTES_WRITTEN, NODES, NODES_OPEN, FILES, DIRECTORIES = range(2 * OPCODES, 2 * OPCODES + 6)
WATCHED, UNWATCHED, REPLAYED, MISSED = range(2 * OPCODES + 6, 2 * OPCODES + 10)
TIMES = 2 * OPCODES + 10
BUCKETS = 48
SIZE = 8 * (TIMES + OPCODES * BUCKETS)  # bytes
SAMPLED = 8
UNIT = 7  # times are counted in 2**UNIT nanoseconds


class Statistics:
    """`words` is the memory, as u64. Hot operations write to it directly."""

    def __init__(self, memory: memoryview | None = None) -> None:
        self.words = (memory or memoryview(bytearray(SIZE)))[:SIZE].cast("Q")
        for gauge in (NODES, NODES_OPEN, FILES, DIRECTORIES, WATCHED, UNWATCHED):
            self.words[gauge] = 0  # an earlier worker's

    def took(self, opcode: int, nanoseconds: int) -> None:
        """One sampled request's time."""
        self.words[TIMES + opcode * BUCKETS + bucket(nanoseconds)] += 1


def bucket(nanoseconds: int) -> int:
    """The bucket of a time: two to a power of two, the last for everything beyond a second."""
    units = nanoseconds >> UNIT
    bits = units.bit_length()
    if bits < 2:
        return bits
    return min(2 * bits - 2 + (units >> bits - 2 & 1), BUCKETS - 1)


def bounds(index: int) -> tuple[float, float]:
    """The times in a bucket, in microseconds: from, to."""
    edges = []
    for at in (index, index + 1):
        bits, half = divmod(at + 2, 2)
        units = at if at < 2 else (2 + half) << bits - 2
        edges.append((units << UNIT) / 1000)
    return edges[0], edges[1]


def percentile(counts: memoryview | list[int], share: float) -> float:
    """Microseconds within which `share` of the counted times are, to within half a bucket. 0 without any."""
    wanted = share * sum(counts)
    for index, count in enumerate(counts):
        wanted -= count
        if count and wanted <= 0:
            low, high = bounds(index)
            return round((low + high) / 2, 1)
    return 0.0


def describe(memory: memoryview) -> dict[str, Any]:
    """What `status` shows of a share."""
    words = memory[:SIZE].cast("Q")
    kinds = {}
    for opcode in FuseOpcode:
        if opcode < OPCODES and words[REQUESTS + opcode]:
            times = words[TIMES + opcode * BUCKETS : TIMES + (opcode + 1) * BUCKETS]
            kinds[opcode.name.removeprefix("FUSE_").lower()] = {
                "requests": words[REQUESTS + opcode],
                "errors": words[ERRORS + opcode],
                "p50_us": percentile(times, 0.5),
                "p99_us": percentile(times, 0.99),
            }
    return {
        "kinds": kinds,
        "errors": sum(words[ERRORS : ERRORS + OPCODES]),
        "bytes_read": words[BYTES_READ],
        "bytes_written": words[BYTES_WRITTEN],
        "inodes": words[NODES],
        "inodes_open": words[NODES_OPEN],
        "files_open": words[FILES],
        "directories_open": words[DIRECTORIES],
        "directories_watched": words[WATCHED],
        "directories_unwatched": words[UNWATCHED],
        "changes_told": words[REPLAYED],
        "changes_missed": words[MISSED],
    }
