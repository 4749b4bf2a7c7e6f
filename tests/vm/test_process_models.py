"""A booted guest whose devices are served by a group, by a program in C, and inline: killed, they come back."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from support.command import running, status_of, subos, wait_for_file
from support.compiled import ENTROPY, compile_c
from support.ordinary import open_folder
from support.steps import step
from support.waiting import eventually

pytestmark = pytest.mark.vm

NAME = "models"
GROUP = ("mouse", "keyboard", "vsock")


def test_a_guest_goes_on_over_the_deaths_of_a_group_and_of_a_program(tmp_path: Path) -> None:
    share, up = tmp_path / "a share", tmp_path / "a share" / "up"
    share.mkdir()
    rules = [f"{name}=group:small" for name in GROUP] + ["pen=inline"]
    with open_folder() as folder:
        rules.append(f"rng=own:{compile_c(ENTROPY, folder, static=True)}")
        flags = [word for rule in rules for word in ("--process", rule)]
        inside = ("sh", "-c", f"head -c 32 /dev/hwrng > '{up}'; sleep 600")
        with running("run", "--name", NAME, "--pen", "--share", share, *flags, "--", *inside) as process:
            step("the guest reads what the program in C gives it")
            wait_for_file(up, process)
            eventually(lambda: up.stat().st_size == 32, timeout=60)
            step("the agent comes over the group's vsock")
            eventually(lambda: status_of(NAME)["agent"], timeout=60)
            before = devices()
            assert len({before[name]["pid"] for name in GROUP}) == 1
            assert before["pen"]["pid"] == status_of(NAME)["supervisor"]["pid"]
            for pid in (before["rng"]["pid"], before["mouse"]["pid"]):
                step(f"kill process {pid}")
                os.kill(pid, signal.SIGKILL)
            eventually(lambda: all(devices()[name]["restarts"] == 1 for name in (*GROUP, "rng")))
            step("all of them serve the guest again")
            eventually(lambda: status_of(NAME)["agent"], timeout=60)
            said = subos("exec", NAME, "--", "sh", "-c", "head -c 4096 /dev/hwrng | wc -c", check=0)
            assert said.stdout.strip() == b"4096"  # more than the guest can have had left
            subos("input", NAME, "move 50% 50%, key a", check=0)
            assert len({devices()[name]["pid"] for name in GROUP}) == 1


def devices() -> dict[str, dict[str, Any]]:
    return {device["name"]: device for device in status_of(NAME)["devices"]}
