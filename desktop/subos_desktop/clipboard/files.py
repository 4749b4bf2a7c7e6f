"""Copied files: their contents travel as a tar archive, and are pasted from a drop folder. No path of one side ever
means anything on the other.

Only folders and regular files are packed, and only such are unpacked, into a new folder that nobody else writes, each
file made anew: so there is no link in it that a later name could lead through, whatever the other side sends.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import shutil
import stat
import tarfile
import tempfile
import time
import urllib.parse
from pathlib import Path
from typing import IO, Any, AsyncIterator, Callable, Dict, Iterator, List, Tuple

from .interface import ClipboardError, Malformed, NotOffered

FILES = "application/x-subos-files"
"""The format's name on the channel."""
PATHS = (
    "x-special/gnome-copied-files",
    "x-special/mate-copied-files",
    "application/x-kde-cutselection",
    "application/vnd.portal.files",
    "application/vnd.portal.filetransfer",
)
"""Formats that name files of this machine, beside text/uri-list: they never travel."""
MAX_LIST = 1 << 20  # bytes of a text/uri-list
MAX_MEMBERS = 100_000
MAX_DEPTH = 64
MAX_EXTENSION = 1 << 16  # bytes of what precedes a member: its long name, its attributes
MAX_AGE = 7 * 24 * 3600.0  # seconds; older drop folders go when a new one is made
CHUNK = 1 << 16


def local_paths(uri_list: bytes) -> List[Path]:
    """Files of this machine in a text/uri-list (RFC 2483): `file:` URIs. Raises NotOffered where there is none."""
    paths = []
    for line in uri_list.split(b"\n"):
        text = line.strip()
        if not text or text.startswith(b"#"):
            continue
        parsed = urllib.parse.urlsplit(text)
        path = os.fsdecode(urllib.parse.unquote_to_bytes(parsed.path))
        if (
            parsed.scheme == b"file"
            and parsed.netloc in (b"", b"localhost")
            and path.startswith("/")
            and "\0" not in path
        ):
            paths.append(Path(os.path.normpath(path)))
    if not paths:
        raise NotOffered("there are no files of this machine among what was copied")
    return paths


def uri_list(paths: List[Path]) -> bytes:
    """As text/uri-list wants it: CRLF after each (RFC 2483)."""
    return b"".join(b"file://" + urllib.parse.quote_from_bytes(os.fsencode(path)).encode() + b"\r\n" for path in paths)


def drop_folder() -> Path:
    """A new, empty folder for files that are pasted; those of last week go. Raises ClipboardError."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "subos", "drop")
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in base.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - old.lstat().st_mtime > MAX_AGE:
                    shutil.rmtree(old, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix="", dir=base))
    except OSError as error:
        raise ClipboardError(f"no folder for pasted files can be made in {base}: {error.strerror}") from error


async def pack(paths: List[Path]) -> AsyncIterator[bytes]:
    """A tar archive of the files and folders, each under its own last name. Raises ClipboardError."""

    def write(target: IO[bytes]) -> None:
        with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for name, path in _names(paths):
                parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    _add(tar, name, parent, path.name, 0)
                finally:
                    os.close(parent)

    async for chunk in _written_by_thread(write):
        yield chunk


def _names(paths: List[Path]) -> Iterator[Tuple[str, Path]]:
    """Two folders' files may have one name: the later ones get a number."""
    used: Dict[str, int] = {}
    for path in paths:
        count = used[path.name] = used.get(path.name, 0) + 1
        yield (path.name if count == 1 else f"{path.stem} ({count}){path.suffix}"), path


def _add(tar: tarfile.TarFile, name: str, parent: int, last: str, depth: int) -> None:
    """A file, or a folder with all in it; nothing else. What is to be read is opened in a folder that is open: in a
    shared one the guest may change names meanwhile, and no link that it puts there leads elsewhere."""
    if stat.S_IFMT(os.stat(last, dir_fd=parent, follow_symlinks=False).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
        return
    descriptor = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    try:
        found = os.fstat(descriptor)
        member = tarfile.TarInfo(name)
        member.mode, member.mtime = found.st_mode & 0o777, int(found.st_mtime)
        if stat.S_ISREG(found.st_mode):
            member.size = found.st_size
            with open(descriptor, "rb", CHUNK, closefd=False) as source:
                tar.addfile(member, source)
        elif stat.S_ISDIR(found.st_mode) and depth < MAX_DEPTH:
            member.type = tarfile.DIRTYPE
            tar.addfile(member)
            for each in sorted(os.listdir(descriptor)):
                with contextlib.suppress(FileNotFoundError):  # gone since
                    _add(tar, f"{name}/{each}", descriptor, each, depth + 1)
    finally:
        os.close(descriptor)


_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class _Member(tarfile.TarInfo):
    """What precedes a member is read into memory, so it has a limit. A sparse file would be larger than what is sent:
    its zeros fill the disk."""

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type == tarfile.GNUTYPE_SPARSE or (self.type in _EXTENSIONS and self.size > MAX_EXTENSION):
            raise Malformed("a header of a kind that no copy has")
        return super()._proc_member(tar)  # type: ignore[misc] # a hook for such classes, says tarfile.py


async def unpack(chunks: AsyncIterator[bytes], folder: Path) -> List[Path]:
    """Unpacks an archive into the new, empty `folder`; what lies in it then. Raises ClipboardError: nothing stays."""
    try:
        await _read_by_thread(chunks, lambda source: _extract(source, folder))
        return sorted(folder.iterdir())
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, Exception) and not isinstance(error, ClipboardError):  # tarfile raises a lot
            raise ClipboardError(f"the files could not be pasted: {error}") from error
        raise


def _extract(source: IO[bytes], folder: Path) -> None:
    with tarfile.open(fileobj=source, mode="r|", tarinfo=_Member) as tar:
        for count, member in enumerate(tar):
            if count >= MAX_MEMBERS:
                raise Malformed(f"more than {MAX_MEMBERS} files")
            path = folder.joinpath(*_checked_parts(member.name))
            if member.issparse():
                raise Malformed("a file with holes")
            if not path.parent.is_dir():  # made for it, one member would count for as many folders as its name has
                raise Malformed("something in a folder that was not sent")
            if member.isdir():
                path.mkdir(mode=0o755, exist_ok=True)
            elif member.isreg():
                _write_file(tar, member, path)
            else:
                raise Malformed("something that is neither a file nor a folder")


def _checked_parts(name: str) -> List[str]:
    """Raises Malformed for a name that could lead out of the folder."""
    parts = name.rstrip("/").split("/")
    if len(parts) > MAX_DEPTH or any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise Malformed("a name that leads elsewhere")
    return parts


def _write_file(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    content = tar.extractfile(member)
    assert content is not None
    mode = 0o755 if member.mode & stat.S_IXUSR else 0o644
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, mode), "wb") as target:
        shutil.copyfileobj(content, target, CHUNK)


# --- tarfile blocks, so it runs in a thread behind a pipe

_THREADS = concurrent.futures.ThreadPoolExecutor(16, "clipboard-files")
"""Not asyncio's own few: whoever takes nothing holds up one of these, and nobody else's work."""


async def _written_by_thread(write: Callable[[IO[bytes]], None]) -> AsyncIterator[bytes]:
    """What `write` writes, in a thread that waits while nobody takes it."""
    loop = asyncio.get_running_loop()
    read_end, write_end = os.pipe()

    def run() -> None:
        with open(write_end, "wb", CHUNK) as target:
            write(target)

    work = loop.run_in_executor(_THREADS, run)
    reader = asyncio.StreamReader()
    pipe = open(read_end, "rb", 0)  # noqa: SIM115 (the transport closes it)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        while chunk := await reader.read(CHUNK):
            yield chunk
        await work
    except (OSError, tarfile.TarError) as error:
        raise ClipboardError(f"the copied files cannot be read: {error}") from error
    finally:
        transport.close()  # a thread that still writes gets EPIPE
        work.add_done_callback(lambda work: work.cancelled() or work.exception())


async def _read_by_thread(chunks: AsyncIterator[bytes], read: Callable[[IO[bytes]], None]) -> None:
    """Runs `read` in a thread, on what the chunks hold. Raises what it raises."""
    loop = asyncio.get_running_loop()
    read_end, write_end = os.pipe()

    def run() -> None:
        with open(read_end, "rb", CHUNK) as source:
            read(source)
            while source.read(CHUNK):  # what follows the archive's end
                pass

    work = loop.run_in_executor(_THREADS, run)
    writing = None
    try:
        async for chunk in chunks:
            writing = loop.run_in_executor(_THREADS, _write_all, write_end, chunk)
            await asyncio.shield(writing)
    except BrokenPipeError:
        pass  # `read` has given up, and says why
    finally:
        if writing is not None:  # the descriptor is its own until then
            await asyncio.wait({writing})
        os.close(write_end)
        await asyncio.wait({work})
    await work


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
