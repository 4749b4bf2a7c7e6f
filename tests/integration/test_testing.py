"""The simulated front end: what its README shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import subos_devices.testing
from subos_devices.testing import FrontEnd, serve
from subos_devices.testing.fuse import FuseClient
from subos_protocol.fuse import FUSE_ATTR_OUT, FUSE_ENTRY_OUT, FUSE_GETATTR_IN, fuse_getattr_in
from subos_protocol.fuse_opcodes import FuseOpcode


def test_the_example_of_the_readme() -> None:
    readme = Path(subos_devices.testing.__file__).with_name("README.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})


def test_a_fuse_client(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    with serve("fs", "--shared-dir", str(tmp_path)) as served, FrontEnd.connect(served.path) as vm:
        client = FuseClient(vm.queue(1))
        assert client.init().major == 7
        question = FUSE_GETATTR_IN.pack(fuse_getattr_in(0, 0, 0))
        root = FUSE_ATTR_OUT.unpack(client.request(FuseOpcode.FUSE_GETATTR, 1, question, reply=FUSE_ATTR_OUT.size))
        assert root
        entry = client.request(FuseOpcode.FUSE_LOOKUP, 1, b"file\0", reply=FUSE_ENTRY_OUT.size)
        assert len(entry) == FUSE_ENTRY_OUT.size
        with pytest.raises(FileNotFoundError):
            client.request(FuseOpcode.FUSE_LOOKUP, 1, b"no such file\0", reply=FUSE_ENTRY_OUT.size)
