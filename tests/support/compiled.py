"""Programs in C, for tests of workers that are no Python."""

from __future__ import annotations

import subprocess
from pathlib import Path

ENTROPY = Path(__file__).parents[2] / "host_devices/examples/entropy.c"


def compile_c(source: Path, folder: Path, *, static: bool) -> Path:
    """The program, which whoever may look into `folder` may execute; warnings are errors."""
    program = folder / (source.stem + ("" if static else "-dynamic"))
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", *(["-static"] if static else [])]
    subprocess.run(["cc", *flags, "-o", program, source], check=True, timeout=120)
    program.chmod(0o755)
    return program
