"""Our disk images, read by pycdlib; that Linux mounts them is seen in tests/vm/test_debian.py."""

from __future__ import annotations

import io
from typing import Any

import pycdlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subos_devices.packaging import iso, media
from subos_devices.packaging.payload import File

WHEN = 1767225600
NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,15}(\.[a-z0-9]{1,5})?", fullmatch=True)


def read(image: bytes) -> tuple[str, dict[str, bytes]]:
    """The label, and the files by their Rock Ridge names."""
    disk: Any = pycdlib.PyCdlib()
    disk.open_fp(io.BytesIO(image))
    found = {}
    for child in disk.list_children(rr_path="/"):
        if child.is_dot() or child.is_dotdot():
            continue
        name = child.rock_ridge.name().decode()
        buffer = io.BytesIO()
        disk.get_file_from_iso_fp(buffer, rr_path=f"/{name}")
        found[name] = buffer.getvalue()
    label = disk.pvd.volume_identifier.decode().rstrip()
    disk.close()
    return label, found


@pytest.mark.parametrize(("image", "label"), [(media.disk(), "SUBOS"), (media.seed(), "CIDATA")])
def test_the_agents_disks(image: bytes, label: str) -> None:
    seen, found = read(image)
    assert seen == label
    files = {file.path: file.content for file in media.files()}
    assert found.items() >= files.items()
    assert set(found) - set(files) == (set() if label == "SUBOS" else {"user-data", "meta-data"})


@given(st.dictionaries(NAMES, st.binary(max_size=5000), max_size=60))
@settings(max_examples=40)
def test_any_files(files: dict[str, bytes]) -> None:
    try:
        image = iso.build("LABEL_1", [File(name, content) for name, content in files.items()], WHEN)
    except ValueError:
        names = {iso._iso_name(name) for name in files}
        assert len(names) < len(files)
        return
    assert read(image) == ("LABEL_1", files)
    assert len(image) == iso.SECTOR * int.from_bytes(image[16 * 2048 + 80 : 16 * 2048 + 84], "little")


def test_a_folder_of_several_sectors() -> None:
    files = {f"file-number-{number:04}": b"%d" % number for number in range(200)}
    assert read(iso.build("MANY", [File(name, content) for name, content in files.items()], WHEN))[1] == files


def test_the_first_bytes_of_a_volume() -> None:
    """By ECMA-119, 8.4: type 1, "CD001", version 1; 40: the volume's identifier; 128: 2048 bytes a block, both ways."""
    volume = iso.build("SUBOS", [], WHEN)[16 * 2048 : 17 * 2048]
    assert volume[:7] == b"\1CD001\1"
    assert volume[40:72] == b"SUBOS" + b" " * 27
    assert volume[128:132] == b"\x00\x08\x08\x00"
    assert volume[156:190] == (
        b"\x22\0" + b"\x14\0\0\0\0\0\0\x14" + b"\0\x08\0\0\0\0\x08\0" + b"\x7e\1\1\0\0\0\0" + b"\2\0\0\1\0\0\1\1\0"
    )
    assert volume[813:830] == b"2026010100000000\0"


@pytest.mark.parametrize(
    ("label", "names"),
    [("lower", ["a"]), ("L" * 33, ["a"]), ("OK", ["a.b.c", "a_b.c"]), ("OK", ["x" * 65]), ("OK", ["a/b"])],
)
def test_what_cannot_be_written_is_refused(label: str, names: list[str]) -> None:
    with pytest.raises(ValueError):
        iso.build(label, [File(name, b"") for name in names], WHEN)
