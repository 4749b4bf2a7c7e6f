from pathlib import Path

import pytest

from subos_devices.errors import UserError
from subos_devices.launcher import kernel, packages
from subos_devices.launcher.kernel import BOOT_DRIVERS, DEVICE_DRIVERS, find_kernel, open_kernel, running_kernel

ALL = "".join(f"kernel/{name}.ko\n" for name in BOOT_DRIVERS + DEVICE_DRIVERS)


def put_kernel(
    root: Path, image: str, version: str = "6.1-test", tree: str | None = "lib/modules", built_in: str = ALL
) -> Path:
    """A kernel image, and a module tree that has all drivers built in."""
    path = root / image
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"Linux version %s (by test) " % version.encode())
    if tree is not None:
        (root / tree / version).mkdir(parents=True)
        (root / tree / version / "modules.builtin").write_text(built_in)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.mark.parametrize("tree", ["lib/modules", "usr/lib/modules"])
def test_modules_beside_the_kernel_come_first(root: Path, tmp_path: Path, tree: str) -> None:
    image = put_kernel(root, "boot/vmlinuz-6.1-test", tree=tree)
    (tmp_path / "other/lib/modules/6.1-test").mkdir(parents=True)
    found = open_kernel(image, None, tmp_path / "other")
    assert found.version == "6.1-test"
    assert found.modules is not None
    assert found.modules.folder == root / tree / "6.1-test"


def test_else_the_systems_modules(root: Path, tmp_path: Path) -> None:
    image = put_kernel(tmp_path / "elsewhere", "x/bzImage", tree=None)
    put_kernel(root, "boot/vmlinuz-6.1-test")
    found = open_kernel(image, None, root)
    assert found.modules is not None
    assert found.modules.folder == root / "lib/modules/6.1-test"
    assert open_kernel(image, None, tmp_path / "empty").modules is None


@pytest.mark.parametrize("given", ["", "lib/modules", "lib/modules/6.1-test"])
def test_modules_may_be_named_at_any_depth(root: Path, tmp_path: Path, given: str) -> None:
    put_kernel(root, "boot/vmlinuz-6.1-test")
    image = put_kernel(tmp_path, "bzImage", tree=None)
    found = find_kernel(image, root / given)
    assert found.modules is not None
    assert found.modules.folder == root / "lib/modules/6.1-test"


def test_wrong_modules_are_told(root: Path, tmp_path: Path) -> None:
    image = put_kernel(root, "boot/vmlinuz-6.1-test")
    with pytest.raises(UserError, match=r"holds no modules for the kernel 6\.1-test"):
        find_kernel(image, tmp_path)
    with pytest.raises(UserError, match="--modules is of no use without --kernel"):
        find_kernel(None, root)


def test_what_is_no_kernel_is_told(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a kernel")
    with pytest.raises(UserError, match="is not a Linux kernel"):
        find_kernel(tmp_path / "text")


def test_a_kernel_without_virtiofs_is_told(root: Path) -> None:
    image = put_kernel(root, "boot/vmlinuz-6.1-test", built_in=ALL.replace("kernel/virtiofs.ko\n", ""))
    with pytest.raises(UserError, match=r"the kernel 6\.1-test has no virtiofs"):
        find_kernel(image)


def test_the_running_kernel_is_used_if_it_has_all_drivers(root: Path) -> None:
    image = put_kernel(root, "boot/vmlinuz-6.1-test")
    found = running_kernel(root, "6.1-test")
    assert found is not None
    assert found.image == image
    assert running_kernel(root, "6.2-other") is None


def test_a_cloud_kernel_that_runs_is_not_used(root: Path) -> None:
    put_kernel(root, "boot/vmlinuz-6.1-test", built_in=ALL.replace("kernel/virtio_input.ko\n", ""))
    assert running_kernel(root, "6.1-test") is None


def test_else_one_is_downloaded_once(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def download(_progress: packages.Progress) -> Path:
        calls.append(1)
        folder = cache / "subos/kernels/linux-image-6.1-test_1"
        put_kernel(folder, "boot/vmlinuz-6.1-test")
        (cache / "subos/kernels/current").symlink_to(folder.name)
        return folder

    monkeypatch.setattr(kernel, "download_kernel", download)
    first = find_kernel(root=root)
    assert first.version == "6.1-test"
    assert find_kernel(root=root) == first
    assert calls == [1]
