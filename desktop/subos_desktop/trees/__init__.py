"""Trees of files on their way from one machine to another, as pieces that are read and written one after the other.

    for piece in pack("/srv/data"): …               dicts and bytes
    with Unpacker("/home/me/data", "data") as unpacker:
        for piece in pieces: unpacker.take(piece)
        unpacker.finish()

    {"folder": name, …}       what follows is in it, up to        {"leave": true}
    {"file": name, "size": n, …}, then its bytes, in which        {"hole": n} stands for n zeros that take no room
    {"symlink": name, "target": text, …}
    {"hardlink": name, "to": [name, …]}                           a file that was sent before, from the top
    {"skipped": path, "why": text}                                what could not be read, or is none of these

`…` is "mode", "mtime" (nanoseconds), "uid", "gid"; all may be missing. The topmost name is "": whoever unpacks it
chooses one. Every other name is one component of a path, so that nothing has to be resolved. Names that are not UTF-8
are text by `os.fsdecode`.
"""

from .errors import TreeError
from .packing import pack
from .pieces import Piece
from .unpacking import Unpacker

__all__ = ["Piece", "TreeError", "Unpacker", "pack"]
