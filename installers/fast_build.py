"""Compiles the fast path (every .pyx below host_devices) while the package is built, and puts the files of the guest's
installers into a wheel. hatchling calls it, and takes one such file only.

The compiled modules are optional: each has a twin in plain Python. So where no C compiler or no Python headers are
there, one line says so and the build goes on without them. An editable install gets them beside their sources, a
wheel inside itself, with the tag of this Python and platform.

SUBOS_BUILD_FAST=0 leaves them out; SUBOS_BUILD_FAST=1 makes a failed compilation fail the build.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = "host_devices"
AGENT, INSIDE = "installers/agent", "subos_devices/packaging/agent"
FLAGS = ["-O2", "-fno-strict-aliasing"]  # the driver's memory has no C type
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


class FastBuild(BuildHookInterface):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """`version` is "editable" or "standard"."""
        if version == "standard":
            # What `subos-devices agent build` packs; an editable install takes it from where it is.
            build_data["force_include"][str(Path(self.root, AGENT))] = INSIDE
        sources = sorted(Path(self.root, SOURCES).rglob("*.pyx"))
        if version == "editable":
            for source in sources:
                in_place(source).unlink(missing_ok=True)  # what does not compile must not leave an older one in use
        wanted = os.environ.get("SUBOS_BUILD_FAST", "")
        if wanted == "0" or not sources:
            return
        self.folder = tempfile.mkdtemp(prefix="subos-fast-")
        try:
            built = compile_all(Path(self.root), sources, Path(self.folder))
        except Exception as error:
            if wanted == "1":
                raise
            self.app.display_warning(f"the fast path was not compiled, so plain Python is used: {error}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for source, module in zip(sources, built, strict=True):
            if version == "editable":
                # A new file, since the old one may be mapped by a running process.
                shutil.copy(module, in_place(source))
            else:
                inside = in_place(source).relative_to(Path(self.root, SOURCES))
                build_data["force_include"][str(module)] = str(inside)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder, ignore_errors=True)


def in_place(source: Path) -> Path:
    """The compiled module's place beside its source."""
    return source.with_name(source.stem + SUFFIX)


def compile_all(root: Path, sources: list[Path], folder: Path) -> list[Path]:
    """The compiled module of each source, below `folder`. Raises whatever Cython or the compiler ends with."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    extensions = []
    for source in sources:
        name = ".".join(source.relative_to(root / SOURCES).with_suffix("").parts)
        extensions.append(Extension(name, [os.path.relpath(source, root)], extra_compile_args=FLAGS))
    before = os.getcwd()
    os.chdir(root)  # the names of sources in tracebacks, and of what is made in `folder`, are relative
    try:
        modules = cythonize(extensions, build_dir=str(folder), include_path=[SOURCES], quiet=True)
        command = Distribution({"name": "subos", "ext_modules": modules}).get_command_obj("build_ext")
        command.build_lib = str(folder / "lib")
        command.build_temp = str(folder / "objects")
        command.parallel = True
        command.ensure_finalized()
        command.run()
        return [folder / "lib" / command.get_ext_filename(extension.name) for extension in extensions]
    finally:
        os.chdir(before)
