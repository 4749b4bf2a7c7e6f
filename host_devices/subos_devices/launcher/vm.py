"""A whole VM: its folder, its devices under a supervisor, its control socket, and QEMU.

plan = VmPlan.from_settings(settings)
async with start(plan, holder, command=["uname", "-r"], mode=Mode.STREAMS) as vm:
    status = await run_on_streams(vm.machine)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import runtime
from ..agent.clipboard.policy import Rules
from ..agent.hub import Hub
from ..agent.worker_channels import WorkerChannels
from ..errors import UserError
from ..supervisor import control as control_socket
from ..supervisor.holder import Holder
from ..supervisor.process_models import Models
from ..vhost_user.device import Option
from . import devices as device_plan
from . import succession
from .control import agent_command, agent_folders
from .devices import PlannedDevice
from .guest_run import GuestRun, Mode, guest_environment, write_boot_files
from .guest_side import guest_side
from .hot_disks import HotDisks
from .hot_mouse import HotMouse
from .hot_pads import HotPads
from .hot_shares import HotShares
from .kernel import Kernel, find_kernel
from .machine import Machine
from .mounts import GuestMounts
from .packages import Progress, quiet
from .plugged import Plugged
from .qemu import (
    DiskImage,
    MachineConfig,
    Qemu,
    check_room,
    choose_accelerator,
    find_qemu,
    kernel_arguments,
    probe_image,
    this_architecture,
)
from .settings import memory_mib, process_models, share_options, wanted_devices
from .shares import Share, parse_shares


@dataclass(frozen=True)
class VmPlan:
    """Everything that can be checked before anything is made. Either `kernel` or `image` is set."""

    name: str
    qemu: Qemu
    accelerator: str
    cpus: int
    memory: int
    shares: Sequence[Share]
    devices: Sequence[PlannedDevice]
    common: Mapping[str, Option] = field(default_factory=dict)
    """Options of all shares, also of those that are added later."""
    clipboard: Sequence[str] = ()
    """Rules, as agent/clipboard/policy.py has them."""
    models: Models = field(default_factory=Models)
    """Which processes serve the devices."""
    kernel: Kernel | None = None
    image: DiskImage | None = None
    media: Mapping[str, bytes] = field(default_factory=dict)
    """Further disks, which the guest may only read: their content by name."""

    @classmethod
    def from_settings(cls, settings: argparse.Namespace, progress: Progress = quiet) -> VmPlan:
        """Checks the settings and finds what they name. Raises UserError."""
        shares = parse_shares(settings.share)
        common = share_options(settings)
        devices = device_plan.plan(shares, **wanted_devices(settings), common=common)
        name = settings.name or f"vm-{os.getpid()}"
        if settings.name and runtime.is_running(name):
            raise UserError(f"a VM called {name!r} is running", "choose another --name, or see subos-devices status")
        runtime.vm_folder(name)
        memory = memory_mib(settings.memory)
        architecture = this_architecture()
        if settings.image is not None and not architecture.boots_disks:
            raise UserError(
                f"--image does not work on {architecture.qemu} yet: QEMU would need a firmware file to boot a disk",
                "start QEMU with its firmware yourself, and give it the devices by subos-devices attach",
            )
        qemu = find_qemu(architecture)
        accelerator = choose_accelerator(settings.accel)
        kernel = image = None
        media = _media(settings)
        if settings.image is not None:
            if settings.kernel is not None or settings.modules is not None:
                raise UserError("--image boots the disk's own kernel", "leave out --kernel and --modules")
            image = probe_image(settings.image)
        else:
            kernel = find_kernel(settings.kernel, settings.modules, progress)
            devices = [device_plan.root_device(), *devices]
        rules = list(settings.clipboard or ())
        Rules.parse(rules)
        models = process_models(settings.process, [(device.name, device.kind) for device in devices], settings.sandbox)
        return cls(
            name,
            qemu,
            accelerator,
            settings.cpus,
            memory,
            shares,
            devices,
            common,
            rules,
            models,
            kernel,
            image,
            media,
        )

    def sharing(self, folder: str) -> VmPlan:
        """This plan with one more share. Raises UserError."""
        shares = parse_shares([folder])
        devices = device_plan.plan(shares, common=self.common)
        return replace(self, shares=[*self.shares, *shares], devices=[*self.devices, *devices])


@dataclass(frozen=True)
class RunningVm:
    """What a command does its work with."""

    plan: VmPlan
    folder: Path
    machine: Machine
    supervisor: Holder
    agent: Hub
    channels: Mapping[str, WorkerChannels]


@contextlib.asynccontextmanager
async def start(
    plan: VmPlan,
    holder: Holder,
    *,
    command: Sequence[str] = (),
    mode: Mode = Mode.TERMINAL,
    window: tuple[int, int] = (24, 80),
    environment: dict[str, str] | None = None,
) -> AsyncIterator[RunningVm]:
    """Boots the VM; leaving the block ends it and removes all that it left here. Raises UserError.

    `command`, `mode` and `window` are for the default guest; a disk image knows itself what to do.
    """
    with runtime.claim(plan.name) as folder:
        config = _machine_config(plan, folder)
        check_room(config)
        async with contextlib.AsyncExitStack() as stack:
            holder.models = plan.models
            supervisor = await stack.enter_async_context(holder)
            guest = await stack.enter_async_context(
                guest_side(folder, plan.name, plan.clipboard, has_agent=plan.kernel is not None)
            )
            pads = stack.enter_context(HotPads(plan.devices))
            await device_plan.serve(supervisor, folder, plan.devices, guest.channels, pads.open)
            ports: tuple[str, ...] = ("agent",)
            if plan.kernel is not None:
                run = GuestRun(
                    hostname=plan.name,
                    command=command,
                    mode=mode,
                    cwd=os.getcwd(),
                    environment=guest_environment(os.environ) | (environment or {}),
                    shares=plan.shares,
                    keep=agent_folders(),
                    window=window,
                    agent=_agent(),
                )
                # Two megabytes are written and unpacked: the supervisor must answer meanwhile.
                files = await asyncio.to_thread(write_boot_files, run, plan.kernel, folder)
                config = _with_kernel(config, files.kernel, files.initrd)
                ports = run.ports
            machine = await stack.enter_async_context(
                Machine(
                    plan.qemu,
                    config,
                    ports,
                    console=plan.kernel is not None and mode is Mode.TERMINAL,
                    serial=plan.image is not None,
                    qmp_socket=folder / "qmp.sock",
                )
            )
            vm = RunningVm(plan, folder, machine, supervisor, guest.hub, guest.channels)
            plugged = _plugged(vm)
            shares = _hot_shares(vm, plugged)
            guest.serves(shares)
            guest.hub.follow_port(machine.port("agent"))
            disks = HotDisks(folder / "qmp.sock", shares.lock)
            handlers = {"status": _status(vm, shares), **shares.handlers(), **disks.handlers()}
            handlers |= HotMouse(plugged).handlers() | succession.handlers(supervisor)
            await stack.enter_async_context(pads.plugging(plugged, supervisor, guest.gamepads))
            await stack.enter_async_context(control_socket.serve(folder, handlers))
            yield vm


def _plugged(vm: RunningVm) -> Plugged:
    plugged = Plugged(vm.supervisor, vm.folder, vm.folder / "qmp.sock", vm.channels)
    for device in vm.plan.devices:
        if device.removable:
            plugged.devices[device.name] = device_plan.vhost_user_device(vm.folder, device)
    return plugged


def _hot_shares(vm: RunningVm, plugged: Plugged) -> HotShares:
    booted_with = vm.plan.kernel is not None  # guest/boot mounts them itself
    mounts = GuestMounts(vm.agent, own_root=not booted_with)
    return HotShares(plugged, vm.plan.shares, mounts, vm.plan.common, mounted=booted_with)


def _agent() -> list[str]:
    """The default guest's: its root is ours, so the host may do there whatever it wants."""
    argv, variables = agent_command("serve", "--allow-exec")
    return [*(f"{name}={value}" for name, value in variables.items()), *argv]


def _media(settings: argparse.Namespace) -> dict[str, bytes]:
    """The disks by which the guest gets an agent. Raises UserError."""
    if not settings.install_agent and not settings.cloud_init:
        return {}
    if settings.image is None:
        raise UserError("the default guest has its agent already", "--install-agent and --cloud-init go with --image")
    from ..packaging import media

    disks = {"agent": media.disk()} if settings.install_agent else {}
    return disks | ({"seed": media.seed()} if settings.cloud_init else {})


def _machine_config(plan: VmPlan, folder: Path) -> MachineConfig:
    media = [folder / f"{name}.iso" for name in plan.media]
    for path, content in zip(media, plan.media.values(), strict=True):
        path.write_bytes(content)
    return MachineConfig(
        name=plan.name,
        architecture=this_architecture(),
        accelerator=plan.accelerator,
        cpus=plan.cpus,
        memory=plan.memory,
        image=plan.image,
        media=media,
        devices=[device_plan.vhost_user_device(folder, device) for device in plan.devices if not device.hot],
        spare_ports=sum(device.hot for device in plan.devices),
    )


def _with_kernel(config: MachineConfig, kernel: Path, initrd: Path) -> MachineConfig:
    return replace(
        config, kernel=kernel, initrd=initrd, append=kernel_arguments(config.architecture, config.accelerator)
    )


def _status(vm: RunningVm, shares: HotShares) -> control_socket.Handler:
    async def status(_request: dict[str, Any]) -> dict[str, Any]:
        plan = vm.plan
        await vm.agent.look()
        devices, memory = await vm.supervisor.status_and_memory()
        what = f"image {plan.image.path}" if plan.image else f"Linux {plan.kernel.version}" if plan.kernel else ""
        return {
            "name": plan.name,
            "pid": os.getpid(),
            "qemu": vm.machine.pid,
            "image": str(plan.image.path) if plan.image else None,
            "how": f"{what}, {plan.accelerator}, {plan.cpus} cpus, {plan.memory} MiB",
            "agent": vm.agent.status(),
            "supervisor": vm.supervisor.status(),
            "memory": memory,
            "devices": shares.mark_mounted(devices),
        }

    return status
