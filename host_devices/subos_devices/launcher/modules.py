"""Kernel modules: which exist, which are built in, what they need, in which order to load them.

Dependencies are read from the modules themselves (`depends=` in .modinfo), so a tree that was only
unpacked, without modules.dep, will do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from .compression import decompress

_DEPENDS = re.compile(rb"(?:^|\0)depends=([^\0]*)")
_SUFFIX = re.compile(r"\.ko(\.gz|\.xz|\.zst)?$")


class MissingModule(LookupError):
    """A driver that is neither a module of this tree nor built in; `args[0]` is its name."""


def module_name(path: str) -> str | None:
    """`kernel/fs/fuse/virtio-fs.ko.xz` is `virtio_fs`; None if the path is no module's."""
    stem, found = _SUFFIX.subn("", path.rpartition("/")[2])
    return stem.replace("-", "_") if found else None


def depends(module: bytes) -> list[str]:
    """The names in a (decompressed) module's `depends=`."""
    match = _DEPENDS.search(module)
    return [name.replace("-", "_") for name in match[1].decode("ascii").split(",") if name] if match else []


@dataclass(frozen=True)
class ModuleTree:
    """The folder `lib/modules/VERSION` of a kernel."""

    folder: Path
    _contents: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def files(self) -> dict[str, Path]:
        """Module name → file. `updates` and `extra` win over `kernel`, as depmod has it."""
        found: dict[str, Path] = {}
        paths = sorted(self._walk(), key=lambda path: path.relative_to(self.folder).parts[0] == "kernel")
        for path in paths:
            name = module_name(path.name)
            if name is not None:
                found.setdefault(name, path)
        return found

    def _walk(self) -> Iterator[Path]:
        # `build` and `source` are links to whole kernel sources: os.walk does not follow them.
        for root, _folders, names in os.walk(self.folder):
            yield from (Path(root, name) for name in names if ".ko" in name)

    @cached_property
    def built_in(self) -> frozenset[str]:
        """The drivers compiled into the kernel, by modules.builtin."""
        try:
            lines = (self.folder / "modules.builtin").read_text().splitlines()
        except OSError:
            return frozenset()
        return frozenset(name for line in lines if (name := module_name(line)))

    def read(self, name: str) -> bytes:
        """A module's bytes, decompressed. Raises MissingModule."""
        if name not in self._contents:
            if name not in self.files:
                raise MissingModule(name)
            self._contents[name] = decompress(self.files[name].read_bytes())
        return self._contents[name]

    def load_order(self, names: Iterable[str]) -> list[str]:
        """`names` and all that they need, each after what it needs, without what is built in.

        Raises MissingModule.
        """
        order: dict[str, None] = {}

        def visit(name: str, above: tuple[str, ...]) -> None:
            if name in order or name in self.built_in or name in above:
                return
            for needed in depends(self.read(name)):
                visit(needed, (*above, name))
            order[name] = None

        for name in names:
            visit(name, ())
        return list(order)

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that this kernel does not have at all."""
        return [name for name in names if name not in self.built_in and name not in self.files]
