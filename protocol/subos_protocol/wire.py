"""One declaration a message: a `NamedTuple` for the fields and a `Layout` for their bytes.

    class virtio_input_event(NamedTuple):
        type: int
        code: int
        value: int

    VIRTIO_INPUT_EVENT = Layout("<HHI", virtio_input_event)

`Layout.pack` and `Layout.unpack` speak the NamedTuple; hot paths use `Layout.unpack_from` and
`Layout.pack_into`, which are the precompiled `struct.Struct`'s own and speak bare tuples.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Callable, Generic, TypeVar, Union

from .errors import Truncated

Buffer = Union[bytes, bytearray, memoryview]
T = TypeVar("T", bound="tuple[Any, ...]")


class Layout(Generic[T]):
    """Fixed-size bytes of one NamedTuple type; `size` is in bytes. The format must name its endianness."""

    def __init__(self, fmt: str, fields: Callable[..., T]) -> None:
        if fmt[:1] not in "<>!":
            raise TypeError(f"{fmt!r} leaves its endianness to the machine")
        self.struct = Struct(fmt)
        self.size = self.struct.size
        self.fields = fields
        self.unpack_from = self.struct.unpack_from
        self.pack_into = self.struct.pack_into
        self.name: str = getattr(fields, "__name__", "message")
        declared = len(getattr(fields, "_fields", ()))
        held = len(self.struct.unpack(bytes(self.size)))
        if declared != held:
            raise TypeError(f"{self.name} has {declared} fields, {fmt!r} holds {held}")

    def pack(self, message: T) -> bytes:
        """The message's bytes. Raises struct.error where a field does not fit."""
        return self.struct.pack(*message)

    def unpack(self, data: Buffer, offset: int = 0) -> T:
        """The message at `offset`. Raises Truncated where `data` ends before it does."""
        if offset < 0 or len(data) - offset < self.size:
            raise Truncated(f"{self.name}: {self.size} bytes wanted, {max(0, len(data) - offset)} there")
        return self.fields(*self.struct.unpack_from(data, offset))
