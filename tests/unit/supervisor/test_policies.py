"""The table of policies: what each kind of device gets, and what a person may add for one of theirs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from subos_devices.errors import UserError
from subos_devices.registry import KINDS
from subos_devices.supervisor.sandbox import namespaces, policies, seccomp
from subos_devices.supervisor.sandbox.policies import ALL, AUTO, Choice, parse_grants, policy
from subos_devices.supervisor.sandbox.report import sandboxes, summary, warning
from subos_devices.vhost_user.device import DeviceSpec, Option


def share(root: bool, **options: Option) -> policies.Policy:
    return policy(DeviceSpec("fs", "fs", {"shared_dir": "/srv/data", **options}), AUTO, root=root)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"fs"}))
def test_devices_without_files_have_no_path_no_capability_and_every_namespace(kind: str) -> None:
    row = policy(DeviceSpec(kind, kind), AUTO, root=False)
    assert (row.namespaces, row.places, row.capabilities, row.threads, row.nobody) == (ALL, (), (), 0, True)
    assert policy(DeviceSpec(kind, kind), AUTO, root=True).namespaces == ALL[1:]
    assert not set(seccomp.FILES) & set(policies.system_calls(row))


def test_a_share_has_its_folder_and_no_other() -> None:
    assert share(True).places == (("/share", "/srv/data", True),)
    assert share(True, readonly=True).places == (("/share", "/srv/data", False),)
    assert share(False, readonly="yes").places == (("/share", "/srv/data", False),)
    assert not set(seccomp.CHANGES) & set(policies.system_calls(share(True, readonly=True)))


@pytest.mark.parametrize("folder", [None, "", 7])
def test_a_share_of_nothing_has_no_place(folder: Option) -> None:
    assert share(True, shared_dir=folder).places == ()


def test_a_single_file_s_share_has_its_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    row = policies.located(share(True, shared_dir=str(tmp_path / "file")))
    assert row.places == (("/share", str(tmp_path), True),)
    assert dict(row.moved) == {"shared_dir": "/share", "only": "file"}
    assert policies.located(share(False, shared_dir=str(tmp_path / "file"))).moved == ()


def test_root_s_share_keeps_the_capabilities_that_its_options_need() -> None:
    assert set(share(True).capabilities) >= {"chown", "mknod", "setfcap", "sys_admin", "dac_override"}
    assert "sys_admin" not in share(True, xattr="mapped").capabilities
    assert "sys_admin" not in share(True, ownership="xattr").capabilities
    assert "chown" not in share(True, readonly=True).capabilities
    assert share(False).capabilities == ()


def test_an_ordinary_user_s_share_is_in_no_user_namespace() -> None:
    """In which the owners of its files would all be nobody."""
    row = share(False)
    assert row.namespaces == ()
    assert row.moved == ()
    assert "nobody" in dict(row.without)["namespaces"]


def test_only_locks_of_the_host_take_threads() -> None:
    assert share(True).threads == 0
    assert share(True, locks="host").threads > 128


def test_what_is_granted_and_what_is_not(tmp_path: Path) -> None:
    spec = DeviceSpec("package.module:Class", "mine")
    grants = parse_grants([f"read={tmp_path}", "net", "threads"])
    row = policy(spec, Choice(grants=grants), root=False)
    assert row.places == ((str(tmp_path), str(tmp_path), False),)
    assert "net" not in row.namespaces
    assert row.network
    assert row.threads
    assert policy(spec, AUTO, root=False).places == ()
    for word in ("read", "write=", "net=1", "everything", "reed=/tmp"):
        with pytest.raises(UserError, match="no grant") as raised:
            parse_grants([word])
        assert "read=PATH" in raised.value.hint
    for path in ("/", str(tmp_path / "not there")):
        with pytest.raises(UserError, match="cannot be granted"):
            policies.located(policy(spec, Choice(grants=(("read", path),)), root=True))


def test_a_sandbox_in_words() -> None:
    full = {"on": ["limits", "seccomp"], "missing": {}, "without": {"all": "no matter"}}
    less = {**full, "missing": {"Landlock": "switched off"}}
    off = {"on": [], "missing": {}, "without": {"all": "--sandbox off"}}
    assert [summary(each) for each in (None, full, less, off)] == ["-", "on", "on, but no Landlock", "off"]
    assert warning(full) == warning(off) == ""
    devices = [{"name": name, "sandbox": each} for name, each in (("rng", full), ("src", less), ("mouse", full))]
    assert sandboxes(devices[::2]) == "on"
    assert sandboxes(devices) == "rng, mouse: on; src: on, but no Landlock"
    assert sandboxes([]) == "-"
    assert warning(less) == "the sandbox of workers goes without: Landlock (switched off)"


def test_a_fork_takes_the_namespaces_that_it_can_get(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without one kind of namespace refuses them all together."""
    real = namespaces._fork

    def without_cgroups(names: tuple[str, ...]) -> int:
        if "cgroup" in names:
            raise OSError(errno.EINVAL, "no such namespace")
        return real(())

    monkeypatch.setattr(namespaces, "_fork", without_cgroups)
    pid, made, why = namespaces.fork_into(("uts", "cgroup", "ipc"))
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert (made, why) == (("uts", "ipc"), "no such namespace")


def test_where_there_can_be_no_process_there_is_no_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(names: tuple[str, ...]) -> int:
        raise OSError(errno.EAGAIN, "too many")

    monkeypatch.setattr(namespaces, "_fork", full)
    with pytest.raises(OSError, match="too many"):
        namespaces.fork_into(("uts",))


def test_a_group_has_what_any_of_it_needs_and_the_namespaces_of_all() -> None:
    specs = [DeviceSpec("rng", "rng"), DeviceSpec("mouse", "mouse"), DeviceSpec("vsock", "vsock")]
    rows = [policy(spec, AUTO, root=os.geteuid() == 0) for spec in specs]
    row = policies.joint_policy(specs, AUTO)
    assert (row.namespaces, row.places, row.capabilities, row.nobody) == (rows[0].namespaces, (), (), True)
    assert row.memory == sum(each.memory for each in rows)
    assert row.descriptors == rows[2].descriptors  # the most that this user may have
    assert policies.joint_policy(specs[:1], AUTO) == rows[0]
    folder = DeviceSpec("fs", "fs", {"shared_dir": "/srv/data"})
    both = policies.joint_policy([specs[0], folder], AUTO)
    assert (both.nobody, both.places) == (False, share(os.geteuid() == 0).places)
    assert set(both.namespaces) <= set(rows[0].namespaces)


def test_a_program_is_executed_by_its_descriptor_alone() -> None:
    static, dynamic = (seccomp.execution(5, libraries=libraries) for libraries in (False, True))
    assert static["execveat"].either == (((0, 0xFFFF_FFFF, 5), (4, 0xFFFF_FFFF, 0x1000)),)
    assert "execve" not in {*static, *dynamic, *seccomp.rules(seccomp.RUNTIME, pid=1)}
    assert not {*seccomp.FILES, "mmap", "mprotect"} & set(static)
    assert set(seccomp.FILES) <= set(dynamic)
    [*_, (writable, private)] = dynamic["mmap"].either or ()
    assert (writable, private) == ((2, 2, 0), (3, 0x21, 0))  # no PROT_WRITE; of a file, not shared
