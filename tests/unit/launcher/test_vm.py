from __future__ import annotations

import argparse
import platform
from pathlib import Path

import pytest

from subos_devices.config import resolve
from subos_devices.errors import UserError
from subos_devices.launcher.settings import SETTINGS
from subos_devices.launcher.vm import VmPlan


def test_a_disk_without_a_firmware_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    (tmp_path / "disk").write_bytes(bytes(512))
    with pytest.raises(UserError, match=r"--image does not work on aarch64 yet: .* firmware") as caught:
        VmPlan.from_settings(resolve(argparse.Namespace(image=tmp_path / "disk"), SETTINGS, None))
    assert "attach" in caught.value.hint


@pytest.mark.parametrize("flag", ["install_agent", "cloud_init"])
def test_the_default_guest_needs_no_agent_installed(flag: str) -> None:
    with pytest.raises(UserError, match="has its agent already") as caught:
        VmPlan.from_settings(resolve(argparse.Namespace(**{flag: True}), SETTINGS, None))
    assert "--image" in caught.value.hint
