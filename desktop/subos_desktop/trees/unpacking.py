"""Writes a tree that another machine sends, which may mean ill.

Every name is one component, taken in a folder that is open already: so no link that lies there, or was sent before,
leads out of the target. A file is written under another name, and takes its own when it is whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from types import TracebackType
from typing import Any, Dict, List, NamedTuple, Optional, Type

from .errors import NotATree, TreeError
from .pieces import KINDS, MAX_DEPTH, Attributes, Piece, is_name, number, original, target

RESERVE = 64 << 20
"""Bytes that stay free on the disk, or a hundredth of it if that is less."""
RESERVED_FILES = 1000
LOOK_BYTES, LOOK_ENTRIES = 16 << 20, 512
"""How much may be written before one looks again what is free."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_INSIDE = _FOLDER | os.O_NOFOLLOW
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _Folder(NamedTuple):
    descriptor: int
    attributes: Optional[Attributes]  # None: it was there before


class _File(NamedTuple):
    descriptor: int
    name: str
    size: int
    attributes: Attributes
    shown: str


class Unpacker:
    """A tree on its way to `path`, as `cp -a` and `docker cp` have it: into a folder that is there, as `name`, or
    else under the name that `path` ends with. With an empty `name` the contents go into the folder itself.

    `trusted`: the sender may set what makes a program another user's (set-user-ID bits). `path` is then where it went.
    Every method raises TreeError; leaving the block takes back the file that was not whole.
    """

    def __init__(self, path: str, name: str, *, trusted: bool = False) -> None:
        if name and not is_name(name):
            raise TreeError(f"{name!r} cannot be a file's name")
        if not path or "\0" in path:
            raise TreeError("there is no place to copy to")
        self.path = path
        self.files = 0
        """Whatever was made, folders and links too."""
        self.bytes = 0
        self.skipped: List[str] = []
        """What the sender could not read; the first few."""
        self.skipped_count = 0
        self._name = name
        self._modes = 0o7777 if trusted else 0o777
        self._owners = os.geteuid() == 0
        self._folders: List[_Folder] = []
        self._file: Optional[_File] = None
        self._at = 0
        self._done = False
        self._parent = -1
        self._looked = 0
        self._to_look = LOOK_BYTES
        self._writing = f".subos-copy-{os.getpid()}-{id(self):x}"

    def __enter__(self) -> Unpacker:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self._file is not None:
            os.close(self._file.descriptor)
            with contextlib.suppress(OSError):
                os.unlink(self._writing, dir_fd=self._here)
            self._file = None
        while self._folders:
            with contextlib.suppress(OSError):
                self._leave()
        if self._parent >= 0:
            os.close(self._parent)
            self._parent = -1

    def take(self, piece: Piece) -> None:
        """The next piece. Raises TreeError."""
        try:
            if isinstance(piece, bytes):
                self._take_data(piece)
            elif "hole" in piece:
                self._take_hole(number(piece, "hole"))
            elif "skipped" in piece:
                self._take_skipped(piece)
            else:
                self._finish_file()
                self._take_entry(piece)
        except OSError as error:
            raise TreeError(_said(self.path, error)) from error

    def finish(self) -> None:
        """All pieces have come. Raises TreeError where they have not."""
        try:
            self._finish_file()
        except OSError as error:
            raise TreeError(_said(self.path, error)) from error
        if not self._done:
            raise NotATree("the copy ended before all had come")

    # --- entries

    @property
    def _here(self) -> int:
        return self._folders[-1].descriptor if self._folders else self._parent

    def _take_entry(self, piece: Dict[str, Any]) -> None:
        if self._done:
            raise NotATree("more than one tree")
        if "leave" in piece:
            if not self._folders:
                raise NotATree("more folders are left than were entered")
            self._leave()
            self._done = not self._folders
            return
        kind = next((kind for kind in KINDS if kind in piece), None)
        if kind is None:
            return  # a later release may send what we do not know
        name, top = piece[kind], not self._folders
        if top:
            if name != "":
                raise NotATree("a tree whose top has a name")
            name = self._find_place(kind == "folder")
        elif not is_name(name):
            raise NotATree("a name that is none")
        self._look(entries=1)
        if kind == "folder":
            self._enter(name, Attributes.from_piece(piece))
        elif kind == "file":
            self._begin(name, number(piece, "size"), Attributes.from_piece(piece))
        elif kind == "symlink":
            self._symlink(name, target(piece), Attributes.from_piece(piece))
        else:
            self._hardlink(name, original(piece))
        self.files += 1
        self._done = top and kind != "folder"

    def _find_place(self, is_folder: bool) -> str:
        """Opens the parent of what is to come; its name there, "." for a folder that takes the contents itself."""
        try:
            exists = os.stat(self.path)
        except FileNotFoundError:
            exists = None
        if exists is not None and stat.S_ISDIR(exists.st_mode):
            self._parent = os.open(self.path, _FOLDER)
            if not self._name:
                if is_folder:
                    return "."
                raise TreeError(f"{self.path} is a folder, and what comes has no name")
            self.path = os.path.join(self.path, self._name)
            return self._name
        if is_folder and exists is not None:
            raise TreeError(f"{self.path} is not a folder")
        if not is_folder and self.path.endswith("/"):
            raise TreeError(f"{self.path} does not exist")
        folder, name = os.path.split(self.path.rstrip("/"))
        if not is_name(name):
            raise TreeError(f"{self.path} does not exist")
        self._parent = os.open(folder or ".", _FOLDER)
        return name

    def _enter(self, name: str, attributes: Attributes) -> None:
        if len(self._folders) > MAX_DEPTH:
            raise NotATree(f"more than {MAX_DEPTH} folders in one another")
        made: Optional[Attributes] = attributes
        try:
            os.mkdir(name, 0o700, dir_fd=self._here)
        except FileExistsError:
            made = None
        flags = _FOLDER if name == "." else _INSIDE
        try:
            self._folders.append(_Folder(os.open(name, flags, dir_fd=self._here), made))
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise TreeError(f"{name} is there already, and is not a folder") from error
            raise

    def _leave(self) -> None:
        folder = self._folders.pop()
        try:
            if folder.attributes is not None:
                self._set(folder.descriptor, folder.attributes, 0o755)
        finally:
            os.close(folder.descriptor)

    def _symlink(self, name: str, leads_to: str, attributes: Attributes) -> None:
        os.symlink(leads_to, self._writing, dir_fd=self._here)
        if self._owners and attributes.uid is not None and attributes.gid is not None:
            os.chown(self._writing, attributes.uid, attributes.gid, dir_fd=self._here, follow_symlinks=False)
        self._rename(name)

    def _hardlink(self, name: str, names: List[str]) -> None:
        if not self._folders:
            raise NotATree("a hard link alone")
        folder = os.dup(self._folders[0].descriptor)
        try:
            for each in names[:-1]:
                inner = os.open(each, _INSIDE, dir_fd=folder)
                os.close(folder)
                folder = inner
            if not stat.S_ISREG(os.stat(names[-1], dir_fd=folder, follow_symlinks=False).st_mode):
                raise NotATree("a hard link to what is no file")
            os.link(names[-1], self._writing, src_dir_fd=folder, dst_dir_fd=self._here, follow_symlinks=False)
        finally:
            os.close(folder)
        self._rename(name)

    # --- files

    def _begin(self, name: str, size: int, attributes: Attributes) -> None:
        descriptor = os.open(self._writing, _NEW, 0o600, dir_fd=self._here)
        self._file, self._at = _File(descriptor, name, size, attributes, name), 0

    def _take_data(self, data: bytes) -> None:
        if self._file is None or self._at + len(data) > self._file.size:
            raise NotATree("more data than was announced")
        self._look(size=len(data))
        view = memoryview(data)
        while view:
            view = view[os.write(self._file.descriptor, view) :]
        self._at += len(data)
        self.bytes += len(data)

    def _take_hole(self, size: int) -> None:
        if self._file is None or self._at + size > self._file.size:
            raise NotATree("a hole where none can be")
        self._at += size
        os.lseek(self._file.descriptor, self._at, os.SEEK_SET)

    def _finish_file(self) -> None:
        if self._file is None:
            return
        file = self._file
        os.ftruncate(file.descriptor, self._at)
        self._set(file.descriptor, file.attributes, 0o644)
        self._rename(file.name)
        self._file = None
        os.close(file.descriptor)

    def _rename(self, name: str) -> None:
        try:
            os.rename(self._writing, name, src_dir_fd=self._here, dst_dir_fd=self._here)
            with contextlib.suppress(FileNotFoundError):  # two names of one file: a rename leaves both
                os.unlink(self._writing, dir_fd=self._here)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(self._writing, dir_fd=self._here)
            if error.errno == errno.EISDIR:
                raise TreeError(f"{name} is there already, and is a folder") from error
            raise

    def _set(self, descriptor: int, attributes: Attributes, mode: int) -> None:
        if self._owners and attributes.uid is not None and attributes.gid is not None:
            os.fchown(descriptor, attributes.uid, attributes.gid)
        os.fchmod(descriptor, (mode if attributes.mode is None else attributes.mode) & self._modes)
        if attributes.mtime is not None:
            with contextlib.suppress(OSError):  # a year that this file system does not know
                os.utime(descriptor, ns=(attributes.mtime, attributes.mtime))

    # --- limits

    def _take_skipped(self, piece: Dict[str, Any]) -> None:
        path, why = piece["skipped"], piece.get("why")
        if not isinstance(path, str) or not isinstance(why, str):
            raise NotATree("something is skipped, but not said what")
        self.skipped_count += 1
        if len(self.skipped) < 20:
            self.skipped.append(f"{path[:300]}: {why[:300]}")

    def _look(self, size: int = 0, entries: int = 0) -> None:
        """Raises TreeError before the disk is full: others write to it, too."""
        self._to_look -= size + entries * (LOOK_BYTES // LOOK_ENTRIES)
        if self._to_look > 0 and self._looked:
            return
        self._looked, self._to_look = self._looked + 1, LOOK_BYTES
        disk = os.fstatvfs(self._here)
        if disk.f_blocks and disk.f_bavail * disk.f_frsize < min(RESERVE, disk.f_blocks * disk.f_frsize // 100):
            raise TreeError(f"the disk that {self.path} is on is full")
        if disk.f_files and disk.f_favail < min(RESERVED_FILES, disk.f_files // 100):
            raise TreeError(f"the disk that {self.path} is on takes no more files")


def _said(path: str, error: OSError) -> str:
    name = error.filename if isinstance(error.filename, str) and not error.filename.startswith(".subos-copy") else ""
    where = path if not name or name == path else f"{path} ({name})"
    return f"{where}: {error.strerror or error}"
