"""The shell texts for the guest are given to a shell: what it makes of them is what counts."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_devices.launcher import guest_run, initramfs
from subos_devices.launcher.guest_run import GuestRun, Mode, command_script, description, guest_environment
from subos_devices.launcher.initramfs import APPLETS, base_archive, guest_script, is_static, module_order
from subos_devices.launcher.kernel import Kernel
from subos_devices.launcher.modules import ModuleTree
from subos_devices.launcher.shares import Share

KERNEL = Kernel(Path("/boot/k"), "6.1-test", None)


def told(text: bytes, then: str) -> list[str]:
    """What a shell prints that has read a description, with the guest's functions replaced."""
    functions = (
        'keep() { printf "keep|%s\\n" "$1"; }\nboot_share() { printf "share|%s|%s|%s|%s\\n" "$1" "$2" "$3" "$4"; }\n'
    )
    script = functions.encode() + text + then.encode()
    return subprocess.run(["sh", "-s"], input=script, capture_output=True, check=True).stdout.decode().splitlines()


def test_the_description_as_a_shell_reads_it() -> None:
    run = GuestRun(
        hostname="it's a box",
        command=["true"],
        mode=Mode.TERMINAL,
        cwd="/tmp/a b",
        shares=[
            Share(Path("/srv/x/y"), "inner"),
            Share(Path("/else"), "outer", True, Path("/srv/x")),
            Share(Path("/it's a file"), "file", at=Path("/zoo"), single=True),
        ],
        keep=["/usr/lib", "/run/venv"],
        window=(40, 120),
    )
    kernel = Kernel(Path("/boot/k"), "6.1-test", ModuleTree(Path("/cache/it's/6.1-test")))
    then = 'printf "%s|" "$hostname" "$mode" "$version" "$modules" "$rows" "$columns"; echo; mounts\n'
    assert told(description(run, kernel), then) == [
        "it's a box|terminal|6.1-test|/cache/it's/6.1-test|40|120|",
        "keep|/run/venv",
        "keep|/tmp/a b",
        "share|outer|/srv/x|ro|",
        "share|inner|/srv/x/y|rw|",
        "share|file|/zoo|rw|it's a file",
    ]


def test_a_description_without_mounts_and_modules() -> None:
    assert told(description(GuestRun("box", ["true"]), KERNEL), 'mounts && echo "[$modules]"\n') == ["[]"]


WORDS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=20)


@given(st.lists(WORDS, max_size=4), st.dictionaries(st.from_regex("[A-Z]{1,8}", fullmatch=True), WORDS, max_size=3))
def test_any_words_and_variables_arrive(words: list[str], variables: dict[str, str]) -> None:
    show = 'printf "%s\\0" "$@"; env -0'
    run = GuestRun("box", ["/bin/sh", "-c", show, "sh", *words], environment={**variables, "PATH": "/usr/bin:/bin"})
    output = subprocess.run(["sh", "-s"], input=command_script(run), capture_output=True, check=True).stdout
    parts = output.split(b"\0")[:-1]
    assert parts[: len(words)] == [os.fsencode(word) for word in words] or not words
    for name, value in variables.items():
        assert name == "PATH" or os.fsencode(f"{name}={value}") in parts


def test_the_command_starts_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a 'b'"
    folder.mkdir()
    for cwd, seen in ((folder, folder), (tmp_path / "none", Path("/"))):
        script = command_script(GuestRun("box", ["/bin/pwd"], cwd=str(cwd)))
        result = subprocess.run(["sh", "-s"], input=script, capture_output=True, check=True)
        assert result.stdout == f"{seen}\n".encode()


def test_what_is_the_hosts_alone_stays_there() -> None:
    host = {
        "PATH": "/bin",
        "LANG": "C",
        "DISPLAY": ":0",
        "DBUS_SESSION_BUS_ADDRESS": "x",
        "_": "y",
        "_X": "z",
        "PWDX": "1",
    }
    assert guest_environment(host) == {"PATH": "/bin", "LANG": "C", "_X": "z", "PWDX": "1"}


@pytest.mark.parametrize("name", ["init", "boot"])
def test_the_guests_scripts_are_valid_and_find_their_programs(name: str) -> None:
    script = guest_script(name).decode()
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    known = {*APPLETS, "busybox"}
    for program in (
        "mount",
        "insmod",
        "switch_root",
        "mkfifo",
        "stty",
        "setsid",
        "poweroff",
        "hostname",
        "ip",
        "umount",
    ):
        assert program not in script or program in known


def static_elf(*kinds: int) -> bytes:
    header = b"\x7fELF\x02\x01".ljust(32, b"\0") + (64).to_bytes(8, "little") + bytes(14)
    header += (56).to_bytes(2, "little") + len(kinds).to_bytes(2, "little")
    return header.ljust(64, b"\0") + b"".join(kind.to_bytes(4, "little").ljust(56, b"\0") for kind in kinds)


def test_a_static_program_has_no_interpreter() -> None:
    assert is_static(static_elf(1, 1, 4))
    assert not is_static(static_elf(6, 3, 1))
    assert not is_static(b"#!/bin/sh\n")


def test_the_initial_file_system_holds_what_the_kernel_lacks(tmp_path: Path) -> None:
    (tmp_path / "kernel").mkdir()
    for name, needs in (("overlay", ""), ("virtiofs", "fuse"), ("fuse", ""), ("evdev", "")):
        (tmp_path / f"kernel/{name}.ko").write_bytes(f"MODULE-{name}\0depends={needs}\0".encode())
    built_in = ("virtio_pci", "virtio_console", "virtio_input")  # and no virtio_rng at all
    (tmp_path / "modules.builtin").write_text("".join(f"kernel/{name}.ko\n" for name in built_in))
    kernel = Kernel(Path("/boot/k"), "6.1-test", ModuleTree(tmp_path))
    assert module_order(kernel) == ["fuse", "virtiofs", "overlay", "evdev"]
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"BUSYBOX")
    archive = base_archive(kernel, busybox)
    for part in (b"BUSYBOX", b"MODULE-fuse", b"bin/switch_root\0", b"fuse\nvirtiofs\noverlay\nevdev\n"):
        assert part in archive


def test_a_runs_files_follow_the_cached_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "base"
    base.write_bytes(b"BASE".ljust(512, b"\0"))
    monkeypatch.setattr(guest_run, "base_file", lambda _kernel, _busybox: base)
    monkeypatch.setattr(guest_run, "find_busybox", lambda: Path("/bin/busybox"))
    monkeypatch.setattr(guest_run, "fastest_image", lambda image: image)
    files = guest_run.write_boot_files(GuestRun("box", ["uname"]), KERNEL, tmp_path)
    data = files.initrd.read_bytes()
    assert files.kernel == KERNEL.image
    assert data.startswith(base.read_bytes() + b"070701")
    assert b"subos/description\0" in data
    assert b"exec /usr/bin/env -i  uname\n" in data


def test_no_static_busybox_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "busybox").write_bytes(static_elf(3))
    (tmp_path / "busybox").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(initramfs.UserError, match="no static busybox") as caught:
        initramfs.find_busybox()
    assert "busybox-static" in caught.value.hint
