"""The mouse behind a front end with QEMU's four buffers a queue; its worker dies while the pointer moves."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from subos_devices.errors import UserError
from subos_devices.input.actions import button, move
from subos_devices.input.client import DriverConnection
from subos_devices.testing import FrontEnd, serve
from subos_protocol.input_codes import Ev, Key
from support.input_guest import Guest
from support.waiting import eventually


def drivers(path: Path) -> DriverConnection:
    """A driver that connects again where the worker that it was connected to has died."""

    def connected() -> DriverConnection | None:
        driver = DriverConnection(path)
        try:
            driver.send(move(1, 1))
        except UserError:
            driver.__exit__(None, None, None)
            return None
        return driver

    driver = eventually(connected)
    assert driver
    return driver


def test_a_worker_is_killed_while_the_pointer_moves(tmp_path: Path) -> None:
    path = tmp_path / "mouse.driver.sock"
    with serve("mouse", "--driver-socket", str(path)) as served, FrontEnd.connect(served.path) as vm:
        guest = Guest(vm.queue(0, size=4, indirect=False))
        vm.queue(1, size=4)
        pids = set()
        for round_ in range(3):
            with drivers(path) as driver:
                for step in range(100):
                    driver.send(move(100 * step, round_))
                driver.send(button(Key.BTN_LEFT, 1))
                guest.listen(lambda: guest.last(Ev.EV_KEY, Key.BTN_LEFT) == 1)
                pids.add(served.worker())
                driver.send(move(7, 7))
                os.kill(served.worker(), signal.SIGKILL)
            # The button that a driver of the dead one held is up, without anybody saying so.
            guest.listen(lambda: guest.last(Ev.EV_KEY, Key.BTN_LEFT) == 0)
        with drivers(path) as driver:
            driver.send(move(32_767, 11))
            driver.finish()
        guest.listen(lambda: guest.is_at(32_767, 11))
        assert len(pids) == 3
        assert served.process.poll() is None
        assert "Traceback" not in served.log


def test_configuration_is_answered_while_the_worker_hangs(tmp_path: Path) -> None:
    with serve("mouse", "--driver-socket", str(tmp_path / "d")) as served, FrontEnd.connect(served.path) as vm:
        vm.queue(0, size=4)
        os.kill(served.worker(), signal.SIGSTOP)
        vm.write_config(0, b"\x01\x00")  # VIRTIO_INPUT_CFG_ID_NAME
        answer = vm.config(0, 136)
        assert answer[8 : 8 + answer[2]] == b"SubOS Mouse"
