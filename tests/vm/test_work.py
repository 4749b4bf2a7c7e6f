"""What people do on a share: clone, build, install. The host sees the same files afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from base64 import urlsafe_b64encode
from hashlib import sha256
from pathlib import Path

import pip as pip_package
import pytest

from support.guest import Guest
from support.steps import step

from .test_share import assert_same_trees

pytestmark = pytest.mark.vm

PROGRAM = {
    "Makefile": """\
CFLAGS = -O1 -Wall -Werror
OBJECTS = main.o words.o numbers.o
check: program
\t./program > output && grep -qx 'seven times six is 42' output
program: $(OBJECTS)
\t$(CC) $(CFLAGS) -o $@ $(OBJECTS)
$(OBJECTS): program.h
""",
    "program.h": "const char *word(int number);\nint times(int a, int b);\n",
    "words.c": '#include "program.h"\nconst char *word(int n) { return n == 7 ? "seven" : n == 6 ? "six" : "?"; }\n',
    "numbers.c": '#include "program.h"\nint times(int a, int b) { return a * b; }\n',
    "main.c": """\
#include <stdio.h>
#include "program.h"
int main(void) { return printf("%s times %s is %d\\n", word(7), word(6), times(7, 6)) < 0; }
""",
}


def git(folder: Path, *words: str) -> str:
    """Runs git as a person whose settings are not this machine's."""
    settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(
        ["git", *who, *words], cwd=folder, env=os.environ | settings, check=True, capture_output=True, text=True
    )
    return done.stdout


def write_wheel(folder: Path) -> Path:
    """A pure Python wheel with one module and one command (PEP 427)."""
    files = {
        "greeting.py": "def main():\n    print('hello from the wheel')\n",
        "greeting-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n",
        "greeting-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "greeting-1.0.dist-info/entry_points.txt": "[console_scripts]\ngreet = greeting:main\n",
    }
    record = "greeting-1.0.dist-info/RECORD"
    lines = [f"{name},sha256={_record_hash(text)},{len(text)}" for name, text in files.items()]
    wheel = folder / "greeting-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in (files | {record: "\n".join([*lines, f"{record},,", ""])}).items():
            archive.writestr(name, text)
    return wheel


def _record_hash(text: str) -> str:
    return urlsafe_b64encode(sha256(text.encode()).digest()).rstrip(b"=").decode()


def test_clone_and_make(guest: Guest, folder: Path) -> None:
    step("make a repository on the host")
    origin = folder / "origin"
    origin.mkdir()
    git(origin, "init")
    for number, (name, text) in enumerate(PROGRAM.items()):
        (origin / name).write_text(text)
        git(origin, "add", name)
        git(origin, "commit", "-m", f"file {number}")
    (folder / "gitconfig").write_text("[safe]\n\tdirectory = *\n")  # the guest's root is perhaps not their owner

    step("git clone in the guest")
    settings = ("env", f"GIT_CONFIG_GLOBAL={folder}/gitconfig", "HOME=/nonexistent")
    guest.check(*settings, "git", "clone", "--no-hardlinks", str(origin), str(folder / "clone"))
    clone = str(folder / "clone")
    assert guest.check(*settings, "git", "-C", clone, "status", "--porcelain") == ""
    assert git(folder / "clone", "rev-parse", "HEAD") == git(origin, "rev-parse", "HEAD")
    git(folder / "clone", "fsck", "--strict")

    step("make -j2 in the guest")
    guest.check("make", "-j2", "check", cwd=clone, timeout=180)
    assert (folder / "clone" / "output").read_text() == "seven times six is 42\n"
    ran = subprocess.run([folder / "clone" / "program"], capture_output=True, text=True, check=True)
    assert ran.stdout == "seven times six is 42\n"

    step("make again, after the host has changed a file")
    source = folder / "clone" / "words.c"
    source.write_text(source.read_text().replace('"seven"', '"SEVEN"'))
    again = "until ! make -q program; do sleep 0.1; done; make program && ./program"
    assert "SEVEN times six is 42\n" in guest.check("sh", "-c", again, cwd=clone, timeout=180)
    assert_same_trees(guest, folder)


def test_pip_install(guest: Guest, folder: Path) -> None:
    wheel = write_wheel(folder)
    pip = [str(Path(pip_package.__file__).parent), "install", "--no-index", "--no-cache-dir"]  # any Python can run it

    step("pip install --target in the guest")
    guest.check(sys.executable, *pip, "--target", str(folder / "target"), str(wheel), timeout=180)
    greeting = (f"PYTHONPATH={folder}/target", sys.executable, "-S", "-c", "import greeting; greeting.main()")
    assert guest.check("env", *greeting) == "hello from the wheel\n"

    step("make a virtual environment on the share, and install into it")
    guest.check(sys.executable, "-m", "venv", "--without-pip", str(folder / "venv"), timeout=180)
    python = str(folder / "venv" / "bin" / "python")
    guest.check(python, *pip, str(wheel), timeout=180)
    greet = folder / "venv" / "bin" / "greet"
    assert guest.check(str(greet)) == "hello from the wheel\n"
    step("run what the guest installed on the host")
    assert subprocess.run([greet], capture_output=True, check=True).stdout == b"hello from the wheel\n"
    assert_same_trees(guest, folder)
