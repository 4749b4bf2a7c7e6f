import gzip
import lzma
from collections.abc import Sequence
from pathlib import Path

import pytest

from subos_devices.launcher.modules import MissingModule, ModuleTree, depends, module_name


def module(*needs: str) -> bytes:
    return b"\x7fELF.modinfo\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=x\0"


@pytest.fixture
def tree(tmp_path: Path) -> ModuleTree:
    def put(path: str, content: bytes) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)

    put("kernel/fs/fuse/virtiofs.ko.xz", lzma.compress(module("fuse", "virtio_ring")))
    put("kernel/fs/fuse/fuse.ko", module())
    put("kernel/drivers/virtio/virtio-ring.ko.gz", gzip.compress(module("virtio")))
    put("kernel/drivers/loop/a.ko", module("b"))
    put("kernel/drivers/loop/b.ko", module("a"))
    put("kernel/drivers/broken.ko", module("not_there"))
    put("updates/fuse.ko", module("virtio"))
    put("modules.builtin", b"kernel/drivers/virtio/virtio.ko\nkernel/drivers/char/hw-random.ko\n")
    return ModuleTree(tmp_path)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("kernel/fs/fuse/virtio-fs.ko.xz", "virtio_fs"),
        ("a.ko", "a"),
        ("b.ko.zst", "b"),
        ("c.ko.gz", "c"),
        ("modules.dep", None),
        ("d.ko.xz.part", None),
    ],
)
def test_module_names(path: str, name: str | None) -> None:
    assert module_name(path) == name


def test_dependencies_are_read_from_modinfo() -> None:
    assert depends(module("fuse", "virtio-ring")) == ["fuse", "virtio_ring"]
    assert depends(module()) == []
    assert depends(b"\x7fELF") == []


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["virtiofs"], ["fuse", "virtio_ring", "virtiofs"]),
        (["fuse", "virtiofs", "fuse"], ["fuse", "virtio_ring", "virtiofs"]),
        (["virtio", "hw_random"], []),
        (["a"], ["b", "a"]),  # a circle, which no kernel has, does not hang
    ],
)
def test_each_module_comes_after_what_it_needs(tree: ModuleTree, names: Sequence[str], order: list[str]) -> None:
    assert tree.load_order(names) == order


def test_an_update_wins_over_the_kernels_own(tree: ModuleTree) -> None:
    assert tree.files["fuse"] == tree.folder / "updates/fuse.ko"
    assert tree.read("fuse") == module("virtio")


def test_a_missing_module_is_named(tree: ModuleTree) -> None:
    with pytest.raises(MissingModule, match="not_there"):
        tree.load_order(["broken"])
    assert tree.missing(["virtio", "fuse", "evdev"]) == ["evdev"]
