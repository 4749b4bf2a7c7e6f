"""subos-agent-VERSION.tar.gz: what `rpmbuild -ta` makes the rpm of. It holds the spec and the files as installed."""

from __future__ import annotations

import gzip

from subos_protocol import __version__

from . import payload, tar
from .payload import File


def source(version: str = __version__) -> File:
    """The source archive. Raises UserError."""
    files = [File(f"root/{file.path}", file.content, file.mode) for file in payload.installed(version)]
    files += [
        File("root/usr/share/man/man1/subos-agent.1", payload.data("subos-agent.1")),
        File("subos-agent.spec", payload.data("rpm/subos-agent.spec", version=version)),
    ]
    name = f"subos-agent-{version}"
    return File(f"{name}.tar.gz", gzip.compress(tar.archive(files, payload.timestamp(), f"{name}/"), mtime=0))
