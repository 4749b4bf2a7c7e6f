"""Expected bytes are by the kernel's description of the format, and checked against cpio where it is there."""

from subos_devices.launcher.cpio import Archive


def header(inode: int, mode: int, links: int, size: int, name_size: int, major: int = 0, minor: int = 0) -> bytes:
    numbers = (inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0)
    return b"070701" + "".join(f"{number:08X}" for number in numbers).encode()


def test_a_file_byte_by_byte() -> None:
    archive = Archive()
    archive.file("init", b"#!/bin/sh\n", 0o755)
    expected = (
        b"070701" b"00000001" b"000081ED" b"00000000" b"00000000" b"00000001" b"00000000" b"0000000A"
        b"00000000" b"00000000" b"00000000" b"00000000" b"00000005" b"00000000" b"init\0\0"
        b"#!/bin/sh\n\0\0"
        b"070701" b"00000000" b"00000000" b"00000000" b"00000000" b"00000001" b"00000000" b"00000000"
        b"00000000" b"00000000" b"00000000" b"00000000" b"0000000B" b"00000000" b"TRAILER!!!\0\0\0\0"
    )  # fmt: skip
    assert archive.finish() == expected.ljust(512, b"\0")


def test_folders_are_made_on_the_way_and_once() -> None:
    archive = Archive()
    archive.file("a/b/c", b"1")
    archive.link("a/l", "b/c")
    archive.character_device("a/console", 5, 1)
    data = archive.finish()
    assert header(1, 0o40755, 2, 0, 2) + b"a\0" in data
    assert header(2, 0o40755, 2, 0, 4) + b"a/b\0" in data
    assert header(3, 0o100644, 1, 1, 6) + b"a/b/c\0" in data
    assert header(4, 0o120777, 1, 3, 4) + b"a/l\0\0\0b/c\0" in data
    assert header(5, 0o20600, 1, 0, 10, 5, 1) + b"a/console\0" in data
    assert data.count(b"070701") == 6


def test_archives_can_follow_each_other() -> None:
    archive = Archive()
    archive.file("x", bytes(700))
    assert len(archive.finish()) % 512 == 0
