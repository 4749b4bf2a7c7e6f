"""`subos-devices agent build|iso|install|eject`: brings the agent into guests that are not the default one.

`run --image DISK --install-agent` does what `iso` and a drive would do.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

EXAMPLES = """\
examples:
  subos-devices agent build --output dist    the deb, the one-file program and the source of the rpm
  subos-devices agent iso subos.iso          a disk, SUBOS, with all of that; in the guest, as root:
                                             mount LABEL=SUBOS /mnt && sh /mnt/install.sh
  subos-devices agent iso --cloud-init seed.iso
                                             for cloud-init, which installs the agent at a disk's first boot
  subos-devices agent install work           into the VM called work, which runs: by its agent if it has one that may
                                             run commands, else by a disk
  subos-devices agent eject work             takes that disk out again
"""
DISK = "subos-agent"
"""The name that QEMU knows the disk by."""
UNPACK = 'd=$(mktemp -d) && trap \'rm -rf "$d"\' EXIT && tar xf - -C "$d" && sh "$d/install.sh"'
RETURN_SECONDS = 60.0
"""How long the new agent may take to come back: its package restarts it five seconds later."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "agent",
        help="bring the agent into a guest of your own",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="build|iso|install|eject", required=True)
    build = actions.add_parser("build", help="make its packages")
    build.add_argument("--output", type=Path, default=Path("dist"), metavar="DIR", help="where to (default: dist)")
    build.set_defaults(run=_build)
    iso = actions.add_parser("iso", help="make a disk image with its packages")
    iso.add_argument("file", type=Path, metavar="FILE", help="the image to write")
    iso.add_argument("--cloud-init", action="store_true", help="for cloud-init: labelled CIDATA, with user-data")
    iso.set_defaults(run=_iso)
    install = actions.add_parser("install", help="install or change it in a VM that runs")
    install.add_argument("name", metavar="VM", help="as subos-devices status lists it")
    install.add_argument("--disk", action="store_true", help="by a disk, though its agent might do it")
    install.set_defaults(run=_install)
    eject = actions.add_parser("eject", help="take the disk of install out again")
    eject.add_argument("name", metavar="VM", help="as subos-devices status lists it")
    eject.set_defaults(run=_eject)


def _build(args: argparse.Namespace) -> int:
    from ..packaging import media

    args.output.mkdir(parents=True, exist_ok=True)
    for file in media.packages():
        path = args.output / file.path
        path.write_bytes(file.content)
        path.chmod(file.mode)
        print(path)
    return 0


def _iso(args: argparse.Namespace) -> int:
    from ..packaging import media

    args.file.write_bytes(media.seed() if args.cloud_init else media.disk())
    if not args.cloud_init:
        print(f"in a guest that has it as a disk, as root:  {media.COMMAND}")
    return 0


def _install(args: argparse.Namespace) -> int:
    from ..errors import UserError
    from ..supervisor import control

    status = control.ask(args.name, "status")
    if "image" in status and status["image"] is None:
        raise UserError(f"{args.name} is the default guest, which has its agent already", "this is for other guests")
    if status.get("agent") and not args.disk:
        try:
            done = _by_channel(args.name)
        except UserError as error:
            print(f"{error.message}; so it is brought by a disk")
        else:
            if done == 0:
                _wait_for_agent(args.name)
            return done
    _by_disk(args.name)
    return 0


def _by_channel(name: str) -> int:
    """install.sh's exit status: the guest's agent runs it. Raises UserError where it may not."""
    from .. import signals
    from ..agent import execute
    from ..packaging import media

    head: dict[str, Any] = {"op": "exec", "argv": ["sh", "-c", UNPACK], "cwd": "/"}
    return signals.run(execute.run(name, head, stdin=True, content=media.archive()))


def _wait_for_agent(name: str) -> None:
    """The old one may answer for five more seconds; the new one has this installation's version."""
    import time

    from subos_protocol import __version__

    from ..errors import UserError
    from ..supervisor import control

    deadline = time.monotonic() + RETURN_SECONDS
    while time.monotonic() < deadline:
        agent = control.ask(name, "status").get("agent")
        if agent and agent["release"] == __version__:
            print(f"{name} has {agent['software']} {agent['release']}")
            return
        time.sleep(0.5)
    raise UserError(f"the agent of {name} has not come back yet", "subos-devices status shows it when it has")


def _by_disk(name: str) -> None:
    import tempfile

    from .. import runtime
    from ..packaging import media
    from ..supervisor import control

    with tempfile.NamedTemporaryFile(dir=runtime.vm_folder(name), suffix=".iso") as file:
        file.write(media.disk())
        file.flush()
        control.ask(name, "disk-add", timeout=None, disk=DISK, path=file.name)
    print(f"{name} has a further disk; in the guest, as root:  {media.COMMAND}")
    print(f"  then, here:  subos-devices agent eject {name}")


def _eject(args: argparse.Namespace) -> int:
    from ..supervisor import control

    control.ask(args.name, "disk-remove", timeout=None, disk=DISK)
    return 0
