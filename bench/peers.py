"""What the benchmarks share: the peers to measure against, fetched into bench/build, and how a person is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

BENCH = Path(__file__).resolve().parent
PROJECT = BENCH.parent
BUILD = BENCH / "build"
SUBOS_DEVICES = PROJECT / ".venv/bin/subos-devices"

# The peer is the same on every machine: virtiofsd (Rust) of this release, with the libraries it runs with.
DEBIAN_RELEASE = "trixie"
DEBIAN_PACKAGES = ("virtiofsd", "libc6", "libcap-ng0", "libseccomp2", "libgcc-s1")


class BenchError(Exception):
    """What a person should see as one line: the benchmark cannot run."""


def main(run: Callable[[], None]) -> NoReturn:
    """Runs a benchmark's command; ends the program with its exit status."""
    try:
        run()
    except BenchError as error:
        sys.exit(f"{Path(sys.argv[0]).parent.name}/run: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def virtiofsd() -> Path:
    """A virtiofsd: the machine's, else Debian's, unpacked into bench/build and run with its own libraries."""
    program = BUILD / "virtiofsd/virtiofsd"
    for place in (shutil.which("virtiofsd"), "/usr/libexec/virtiofsd", program):
        if place and Path(place).exists():
            return Path(place)
    if not shutil.which("apt-get"):
        raise BenchError("no virtiofsd here: install it, or name one with --virtiofsd")
    say(f"fetching virtiofsd from Debian {DEBIAN_RELEASE}")
    root = program.parent / "root"
    for package in download_from_debian(program.parent / "apt"):
        command("dpkg", "-x", package, root)
    loader = next(root.glob("usr/lib/*-linux-gnu/ld-linux-*.so.*"))
    script = f'exec "{loader}" --library-path "{loader.parent}" "{root}/usr/libexec/virtiofsd" "$@"'
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def download_from_debian(apt: Path) -> list[Path]:
    """The packages' files, by an apt with state of its own on this machine's mirror, trusting its keys."""
    targets = command("apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages")
    mirrors = [line.split()[1] for line in targets.splitlines() if line.startswith("Debian ")]
    if not mirrors:
        raise BenchError("apt knows no Debian mirror: install virtiofsd, or name one with --virtiofsd")
    for folder in ("lists/partial", "cache/archives/partial", "sources.d"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    (apt / "sources.list").write_text(f"deb {mirrors[0]} {DEBIAN_RELEASE} main\n")
    apt_get = (
        "apt-get",
        "-qq",
        *("-o", f"Dir::Etc::SourceList={apt}/sources.list", "-o", f"Dir::Etc::SourceParts={apt}/sources.d"),
        *("-o", f"Dir::State::Lists={apt}/lists", "-o", f"Dir::Cache={apt}/cache"),
        *("-o", "APT::Sandbox::User=root"),
    )
    command(*apt_get, "update")
    command(*apt_get, "download", *DEBIAN_PACKAGES, cwd=apt)
    return sorted(apt.glob("*.deb"))


def virtme_ng() -> Path:
    """The `vng` command of virtme-ng from PyPI, in an environment of its own in the cache.

    Not under bench/build: its guest's kernel is given the environment's path, and panics where that has a space.
    """
    environment = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "subos/bench/virtme-ng").resolve()
    if " " in str(environment):
        raise BenchError(f"virtme-ng does not work in {environment}: set XDG_CACHE_HOME to a path without a space")
    program = environment / "bin/vng"
    if not program.exists():
        say("fetching virtme-ng from PyPI")
        command(sys.executable, "-m", "venv", "--clear", environment)
        command(environment / "bin/python", "-m", "pip", "install", "--quiet", "virtme-ng")
    return program


def command(*arguments: str | Path, cwd: Path | None = None) -> str:
    """Its standard output. Raises BenchError with its own words when it fails."""
    done = subprocess.run(arguments, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"{arguments[0]} failed:\n{done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
