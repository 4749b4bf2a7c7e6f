"""The X protocol's requests that a clipboard makes, without I/O.

Sources: X Window System Protocol, X Version 11, appendix B ("Protocol Encoding"); the X Fixes Extension 2.0; the Big
Requests Extension 2.0. All is in this machine's byte order, which the setup names: servers may refuse the other one.
"""

from __future__ import annotations

import enum
import struct
from typing import Sequence

from .wire import Code, SelectionChange, WireError, padded

BIG_REQUESTS, XFIXES = "BIG-REQUESTS", "XFIXES"
XFIXES_VERSION = 2, 0

NONE = 0  # no window, no atom
CURRENT_TIME = 0
ANY_PROPERTY_TYPE = 0
ATOM, INTEGER = 4, 19  # atoms that every server has
INPUT_ONLY = 2  # class of a window
CW_EVENT_MASK = 1 << 11  # attribute of a window
MAX_WORDS = 0xFFFF  # of a request that is not big
MAX_NAME = 0xFFFF  # bytes


class Opcode(enum.IntEnum):
    """Requests of the core protocol."""

    CreateWindow = 1
    ChangeWindowAttributes = 2
    DestroyWindow = 4
    InternAtom = 16  # a name's number
    GetAtomName = 17
    ChangeProperty = 18
    GetProperty = 20
    SetSelectionOwner = 22
    GetSelectionOwner = 23
    ConvertSelection = 24  # asks the owner for its data
    SendEvent = 25
    QueryExtension = 98  # whether there is one, and its numbers


class Minor(enum.IntEnum):
    """Requests of the extensions."""

    BigReqEnable = 0
    XFixesQueryVersion = 0
    XFixesSelectSelectionInput = 2


class EventMask(enum.IntFlag):
    """What a window's watcher is told."""

    StructureNotify = 1 << 17  # DestroyNotify
    PropertyChange = 1 << 22  # PropertyNotify


_RESOURCE = struct.Struct("=BxHI")  # opcode, words, what it is about
_TWO_MORE = struct.Struct("=BxHIII")
_CREATE_WINDOW = struct.Struct("=BxHIIhhHHHHIII")
_NAME = struct.Struct("=BxHHxx")
_CHANGE_PROPERTY = struct.Struct("=BBHIIIB3xI")
_BIG_CHANGE_PROPERTY = struct.Struct("=BBHIIIIB3xI")
_GET_PROPERTY = struct.Struct("=BBHIIIII")
_CONVERT_SELECTION = struct.Struct("=BxHIIIII")
_SEND_EVENT = struct.Struct("=BBHII")
_SELECTION_NOTIFY = struct.Struct("=B3xIIIII8x")
_EXTENSION = struct.Struct("=BBH")
_VERSION = struct.Struct("=BBHII")
_SELECT_SELECTION = struct.Struct("=BBHIII")


def words(numbers: Sequence[int]) -> bytes:
    """Data in units of 32 bits."""
    return struct.pack(f"={len(numbers)}I", *numbers)


# --- windows ---------------------------------------------------------------------------------------------------


def create_window(window: int, parent: int, events: int) -> bytes:
    """One that is never shown."""
    return _CREATE_WINDOW.pack(
        Opcode.CreateWindow, 9, window, parent, -1, -1, 1, 1, 0, INPUT_ONLY, 0, CW_EVENT_MASK, events
    )


def select_events(window: int, events: int) -> bytes:
    return _TWO_MORE.pack(Opcode.ChangeWindowAttributes, 4, window, CW_EVENT_MASK, events)


def destroy_window(window: int) -> bytes:
    return _RESOURCE.pack(Opcode.DestroyWindow, 2, window)


# --- atoms and properties --------------------------------------------------------------------------------------


def intern_atom(name: str) -> bytes:
    return _name(Opcode.InternAtom, name)


def get_atom_name(atom: int) -> bytes:
    return _RESOURCE.pack(Opcode.GetAtomName, 2, atom)


def _name(opcode: Opcode, name: str) -> bytes:
    data = name.encode("latin-1")
    if len(data) > MAX_NAME:
        raise WireError(f"a name of {len(data)} bytes")
    return _NAME.pack(opcode, _NAME.size // 4 + (len(data) + 3) // 4, len(data)) + padded(data)


def change_property(window: int, property: int, kind: int, bits: int, size: int) -> bytes:
    """Replaces it with `size` bytes in units of `bits`, which follow, padded to words."""
    count, length = size * 8 // bits, (_CHANGE_PROPERTY.size + size + 3) // 4
    if length <= MAX_WORDS:
        return _CHANGE_PROPERTY.pack(Opcode.ChangeProperty, 0, length, window, property, kind, bits, count)
    return _BIG_CHANGE_PROPERTY.pack(Opcode.ChangeProperty, 0, 0, length + 1, window, property, kind, bits, count)


def max_data(max_request: int) -> int:
    """Bytes that one ChangeProperty takes where a request has at most `max_request` words."""
    return 4 * max_request - (_CHANGE_PROPERTY if max_request <= MAX_WORDS else _BIG_CHANGE_PROPERTY).size


def get_property(window: int, property: int, kind: int, offset: int, size: int, delete: bool) -> bytes:
    """`offset` and `size` in words. It is deleted with the last of it."""
    return _GET_PROPERTY.pack(Opcode.GetProperty, delete, 6, window, property, kind, offset, size)


# --- selections ------------------------------------------------------------------------------------------------


def set_selection_owner(window: int, selection: int, time: int) -> bytes:
    return _TWO_MORE.pack(Opcode.SetSelectionOwner, 4, window, selection, time)


def get_selection_owner(selection: int) -> bytes:
    return _RESOURCE.pack(Opcode.GetSelectionOwner, 2, selection)


def convert_selection(requestor: int, selection: int, target: int, property: int) -> bytes:
    """With CURRENT_TIME, as others do: there is no event of a user behind it."""
    return _CONVERT_SELECTION.pack(Opcode.ConvertSelection, 6, requestor, selection, target, property, CURRENT_TIME)


def send_selection_notify(time: int, requestor: int, selection: int, target: int, property: int) -> bytes:
    """The owner's answer to a SelectionRequest."""
    event = _SELECTION_NOTIFY.pack(Code.SelectionNotify, time, requestor, selection, target, property)
    return _SEND_EVENT.pack(Opcode.SendEvent, 0, 11, requestor, 0) + event


# --- extensions ------------------------------------------------------------------------------------------------


def query_extension(name: str) -> bytes:
    return _name(Opcode.QueryExtension, name)


def big_requests_enable(major: int) -> bytes:
    return _EXTENSION.pack(major, Minor.BigReqEnable, 1)


def xfixes_query_version(major: int) -> bytes:
    return _VERSION.pack(major, Minor.XFixesQueryVersion, 3, *XFIXES_VERSION)


def xfixes_select_selection_input(major: int, window: int, selection: int) -> bytes:
    """For every change of the selection's owner."""
    changes = sum(1 << change for change in SelectionChange)
    return _SELECT_SELECTION.pack(major, Minor.XFixesSelectSelectionInput, 4, window, selection, changes)
