"""apt played by a script: which packages are chosen, and what happens when lists are missing or old."""

import stat
from pathlib import Path

import pytest

from subos_devices.errors import UserError
from subos_devices.launcher.packages import Apt, download_kernel, downloaded_kernel

# Records of the real ones, shortened. apt-cache lists the newest version first.
DEBIAN = {
    "linux-image-amd64": (
        "Package: linux-image-amd64\nVersion: 6.12.9-1~bpo12+1\n"
        "Depends: linux-image-6.12.9+deb12-amd64 (= 6.12.9-1~bpo12+1)\n\n"
        "Package: linux-image-amd64\nVersion: 6.1.170-1\nDepends: linux-image-6.1.0-44-amd64 (= 6.1.170-1)\n"
    ),
    "linux-image-6.12.9+deb12-amd64=6.12.9-1~bpo12+1": (
        "Package: linux-image-6.12.9+deb12-amd64\nVersion: 6.12.9-1~bpo12+1\n"
        "Depends: kmod, linux-base (>= 4.3~), initramfs-tools (>= 0.120+deb8u2) | linux-initramfs-tool\n"
    ),
}
UBUNTU = {
    "linux-image-generic": (
        "Package: linux-image-generic\nVersion: 6.8.0-50.51\n"
        "Depends: linux-image-6.8.0-50-generic, linux-modules-extra-6.8.0-50-generic, linux-firmware, intel-microcode\n"
    ),
    "linux-image-6.8.0-50-generic": (
        "Package: linux-image-6.8.0-50-generic\nVersion: 6.8.0-50.51\n"
        "Depends: kmod, linux-base (>= 4.5), linux-modules-6.8.0-50-generic\n"
    ),
    "linux-modules-6.8.0-50-generic": "Package: linux-modules-6.8.0-50-generic\nVersion: 6.8.0-50.51\n",
    "linux-modules-extra-6.8.0-50-generic": (
        "Package: linux-modules-extra-6.8.0-50-generic\nVersion: 6.8.0-50.51\nDepends: linux-modules-6.8.0-50-generic\n"
    ),
}


class FakeApt:
    """Scripts on PATH that answer from files in `folder`: `records` by package, `need-update`, `stale`, `log`."""

    def __init__(self, folder: Path, records: dict[str, str]) -> None:
        self.folder = folder
        (folder / "records").mkdir(parents=True)
        for name, text in records.items():
            (folder / "records" / name).write_text(text)
        last = 'for last; do :; done; at="' + str(folder) + '"\n'
        self.script("dpkg", "echo amd64")
        self.script(
            "apt-cache",
            last + 'if [ -e "$at/need-update" ] || ! cat "$at/records/$last" 2>/dev/null; then\n'
            'echo "E: No packages found" >&2; exit 100; fi',
        )
        self.script(
            "apt-get",
            'at="' + str(folder) + '"; echo "$*" >> "$at/log"\n'
            'if [ "$1" = update ]; then rm -f "$at/need-update" "$at/stale"; exit 0; fi\n'
            'if [ -e "$at/stale" ]; then echo "E: Failed to fetch: 404" >&2; exit 100; fi\n'
            "for word; do case $word in APT::Status-Fd=*) "
            'echo "dlstatus:1:50.0:Retrieving" >"/proc/self/fd/${word#*=}";;\n'
            '*=*) case $word in linux-*) echo "${word%%=*}" > "${word%%=*}.deb";; esac;; esac; done',
        )
        self.script("dpkg-deb", 'mkdir -p "$3/boot"; cat "$2" >> "$3/boot/unpacked"')
        self.script("depmod", "exit 0")

    def script(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(stat.S_IRWXU)

    def log(self) -> list[str]:
        return [line.split()[0] for line in (self.folder / "log").read_text().splitlines()]


@pytest.fixture
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    fake = FakeApt(tmp_path / "debian", DEBIAN)
    monkeypatch.setenv("PATH", f"{fake.folder}/bin:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return fake


def test_debians_newest_image_is_chosen(debian: FakeApt, tmp_path: Path) -> None:
    apt = Apt(tmp_path / "state", lambda _what, _part: None)
    assert apt.kernel_packages() == ["linux-image-6.12.9+deb12-amd64=6.12.9-1~bpo12+1"]


def test_ubuntus_modules_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeApt(tmp_path / "ubuntu", UBUNTU)
    monkeypatch.setenv("PATH", f"{fake.folder}/bin:/usr/bin:/bin")
    assert Apt(tmp_path / "state", lambda _what, _part: None).kernel_packages() == [
        "linux-image-6.8.0-50-generic=6.8.0-50.51",
        "linux-modules-extra-6.8.0-50-generic=6.8.0-50.51",
        "linux-modules-6.8.0-50-generic=6.8.0-50.51",
    ]


def test_a_kernel_is_unpacked_into_the_cache(debian: FakeApt) -> None:
    shown: list[tuple[str, float | None]] = []
    folder = download_kernel(lambda what, part: shown.append((what, part)))
    assert (folder / "boot/unpacked").read_text() == "linux-image-6.12.9+deb12-amd64\n"
    assert downloaded_kernel() == folder
    assert debian.log() == ["download"]
    assert ("downloading linux-image-6.12.9+deb12-amd64", 0.5) in shown
    assert [path.name for path in sorted(folder.parent.iterdir())] == ["current", folder.name]


@pytest.mark.parametrize(
    ("problem", "calls"), [("need-update", ["update", "download"]), ("stale", ["download", "update", "download"])]
)
def test_lists_of_our_own_when_the_systems_will_not_do(debian: FakeApt, problem: str, calls: list[str]) -> None:
    (debian.folder / problem).touch()
    download_kernel()
    assert debian.log() == calls


def test_a_failed_download_leaves_nothing(debian: FakeApt) -> None:
    debian.script("apt-get", 'echo "E: Could not resolve host" >&2; exit 100')
    with pytest.raises(UserError, match="Could not resolve host") as caught:
        download_kernel()
    assert "--kernel" in caught.value.hint
    assert downloaded_kernel() is None


def test_without_apt_a_kernel_must_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError) as caught:
        download_kernel()
    assert "--kernel" in caught.value.hint
