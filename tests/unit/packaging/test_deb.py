"""The deb, read as deb(5) and deb-control(5) have it."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from subos_devices.packaging import deb


def members(package: bytes) -> dict[str, bytes]:
    """By ar(5)."""
    assert package.startswith(b"!<arch>\n")
    found, at = {}, 8
    while at < len(package):
        head = package[at : at + 60]
        assert head.endswith(b"`\n")
        size = int(head[48:58])
        found[head[:16].decode().strip()] = package[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    return found


def tree(archive: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: member for member in tar}


def contents(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isreg()}  # type: ignore[union-attr]


def test_its_three_members_in_order() -> None:
    file = deb.build("1.2.3")
    assert file.path == "subos-agent_1.2.3_all.deb"
    found = members(file.content)
    assert list(found) == ["debian-binary", "control.tar.xz", "data.tar.xz"]
    assert found["debian-binary"] == b"2.0\n"


def test_control() -> None:
    control = contents(members(deb.build("1.2.3").content)["control.tar.xz"])
    assert sorted(control) == ["./conffiles", "./control", "./md5sums", "./postinst", "./postrm", "./prerm"]
    fields = dict(line.split(": ", 1) for line in control["./control"].decode().splitlines() if line[0] != " ")
    assert (fields["Package"], fields["Version"], fields["Architecture"]) == ("subos-agent", "1.2.3", "all")
    assert "python3 (>= 3.9)" in fields["Depends"]
    assert 100 < int(fields["Installed-Size"]) < 2000
    assert control["./conffiles"] == b"/etc/xdg/autostart/subos-agent-session.desktop\n"


def test_data() -> None:
    found = members(deb.build("1.2.3").content)
    data = tree(found["data.tar.xz"])
    files = contents(found["data.tar.xz"])
    for name, member in data.items():
        assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "root", "root")
        assert member.mode == (0o755 if member.isdir() or name == "./usr/bin/subos-agent" else 0o644)
        parent = name.rpartition("/")[0]
        assert not parent or parent in (".", *data), f"{name} comes before its folder"
    assert b'__version__ = "1.2.3"' in files["./usr/lib/subos-agent/subos_protocol/__init__.py"]
    assert b"ExecStart=/usr/bin/subos-agent serve\n" in files["./usr/lib/systemd/system/subos-agent.service"]
    assert not [name for name, content in files.items() if b"@AGENT@" in content or b"@VERSION@" in content]
    sums = contents(found["control.tar.xz"])["./md5sums"].decode().splitlines()
    assert {line[34:]: line[:32] for line in sums} == {
        name[2:]: hashlib.md5(content).hexdigest() for name, content in files.items()
    }


@pytest.mark.parametrize(
    ("python", "debian"),
    [("0.1.0", "0.1.0"), ("0.2.0.dev3", "0.2.0~dev3"), ("1.0rc1", "1.0~rc1"), ("1.0a2", "1.0~a2"), ("1.0b1", "1.0~b1")],
)
def test_versions_before_a_release_come_before_it(python: str, debian: str) -> None:
    assert deb.debian_version(python) == debian
    if python != debian and shutil.which("dpkg"):
        release = debian.partition("~")[0]
        subprocess.run(["dpkg", "--compare-versions", debian, "lt", release], check=True)


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="only Debian's relatives have dpkg-deb")
def test_dpkg_reads_it(tmp_path: Path) -> None:
    package = tmp_path / "package.deb"
    package.write_bytes(deb.build("1.2.3").content)
    subprocess.run(["dpkg-deb", "-x", package, tmp_path / "root"], check=True)
    done = subprocess.run(["dpkg-deb", "-f", package, "Package", "Version"], capture_output=True, check=True)
    assert done.stdout == b"Package: subos-agent\nVersion: 1.2.3\n"
    assert (tmp_path / "root/usr/bin/subos-agent").stat().st_mode & 0o777 == 0o755
