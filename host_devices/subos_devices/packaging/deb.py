"""subos-agent_VERSION_all.deb, by deb(5): an ar archive of two tar archives. dpkg-deb is not everywhere; this is."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import re
from email.utils import formatdate

from subos_protocol import __version__

from . import payload, tar
from .payload import File

SCRIPTS = ("postinst", "prerm", "postrm")


def build(version: str = __version__) -> File:
    """The package. Raises UserError."""
    time, number = payload.timestamp(), debian_version(version)
    files = [*payload.installed(version), *_documents(number, time)]
    control = _control(number, files)
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": lzma.compress(tar.archive(control, time, "./")),
        "data.tar.xz": lzma.compress(tar.archive(files, time, "./")),
    }
    return File(f"subos-agent_{number}_all.deb", _ar(members, time))


def debian_version(version: str) -> str:
    """A version of PEP 440 as Debian orders it: 1.0.dev1 and 1.0rc1 come before 1.0."""
    return re.sub(r"\.?(dev|a|b|rc)(?=\d)", r"~\1", version)


def _control(number: str, files: list[File]) -> list[File]:
    """Installed-Size is in KiB, with one for each file and folder (deb-substvars(5))."""
    size = sum(-(-len(file.content) // 1024) for file in files) + len(list(tar.folders(files)))
    sums = "".join(f"{hashlib.md5(file.content).hexdigest()}  {file.path}\n" for file in files)
    conffiles = "".join(f"/{file.path}\n" for file in files if file.path.startswith("etc/"))
    return [
        File("control", payload.data("deb/control", version=number, size=str(size))),
        File("md5sums", sums.encode()),
        File("conffiles", conffiles.encode()),
        *(File(name, payload.data(f"deb/{name}"), 0o755) for name in SCRIPTS),
    ]


def _documents(number: str, time: int) -> list[File]:
    """What Debian's policy wants of every package."""
    folder = "usr/share/doc/subos-agent"
    entry = f"subos-agent ({number}) unstable; urgency=medium\n\n  * Built from SubOS {number}.\n\n"
    entry += f" -- The SubOS authors <subos@subos.invalid>  {formatdate(time)}\n"
    return [
        File(f"{folder}/copyright", payload.data("deb/copyright")),
        File(f"{folder}/changelog.gz", gzip.compress(entry.encode(), mtime=0)),
        File("usr/share/man/man1/subos-agent.1.gz", gzip.compress(payload.data("subos-agent.1"), mtime=0)),
    ]


def _ar(members: dict[str, bytes], time: int) -> bytes:
    """By ar(5): a header of text in fixed columns before each member, which is padded to an even length."""
    parts = [b"!<arch>\n"]
    for name, content in members.items():
        parts += [f"{name:<16}{time:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode(), content]
        parts.append(b"\n" * (len(content) % 2))
    return b"".join(parts)
