"""The demo's check of the random number generator."""

from __future__ import annotations

from .scene import CheckFailed, Scene, in_guest, same


async def generator(scene: Scene) -> str:
    name = (await in_guest(scene, "cat", "/sys/class/misc/hw_random/rng_current")).strip()
    if not name.startswith("virtio_rng"):
        raise CheckFailed(f"the guest's generator is {name}")
    before = scene.vm.supervisor.devices["rng"].counters.requests
    blocks = {(await in_guest(scene, "sh", "-c", "head -c 64 /dev/hwrng | od -An -tx1")) for _ in range(2)}
    same(len(blocks), 2, "different blocks")
    served = scene.vm.supervisor.devices["rng"].counters.requests - before
    if served < 1:
        raise CheckFailed("our device was not asked")
    return f"two blocks of 64 bytes, {served} requests"
