"""Signals end a command in order, with the status that shells know."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

MAIN = """\
import asyncio, os, sys
from subos_devices import signals

async def main():
    try:
        print("up", flush=True)
        await asyncio.sleep(600)
    finally:
        print("cleaning", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        print("cleaned", flush=True)

sys.exit(signals.run(main()))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_ends_it_and_no_other_disturbs_the_cleaning_up(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MAIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        assert process.stdout.readline() == "cleaning\n"
        for another in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process.send_signal(another)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "cleaned\n"
        assert process.stderr.read() == ""
        assert process.wait(10) == 128 + number
