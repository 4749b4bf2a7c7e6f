"""From text to keys, on the US layout: what a guest makes of a key is its own layout's business."""

from __future__ import annotations

import string

from subos_protocol.input_codes import Key

from ..errors import UserError

_NAMED = {
    "ctrl": Key.KEY_LEFTCTRL,
    "shift": Key.KEY_LEFTSHIFT,
    "alt": Key.KEY_LEFTALT,
    "altgr": Key.KEY_RIGHTALT,
    "super": Key.KEY_LEFTMETA,
    "escape": Key.KEY_ESC,
    "return": Key.KEY_ENTER,
}
"""What people say besides the kernel's own names."""

_PLAIN = dict(
    zip(
        "`1234567890-=[]\\;',./ \n\t",
        (
            Key.KEY_GRAVE,
            *(Key[f"KEY_{digit}"] for digit in "1234567890"),
            Key.KEY_MINUS,
            Key.KEY_EQUAL,
            Key.KEY_LEFTBRACE,
            Key.KEY_RIGHTBRACE,
            Key.KEY_BACKSLASH,
            Key.KEY_SEMICOLON,
            Key.KEY_APOSTROPHE,
            Key.KEY_COMMA,
            Key.KEY_DOT,
            Key.KEY_SLASH,
            Key.KEY_SPACE,
            Key.KEY_ENTER,
            Key.KEY_TAB,
        ),
        strict=True,
    )
) | {letter: Key[f"KEY_{letter.upper()}"] for letter in string.ascii_lowercase}
_SHIFTED = dict(zip('~!@#$%^&*()_+{}|:"<>?', "`1234567890-=[]\\;',./", strict=True)) | {
    letter.upper(): letter for letter in string.ascii_lowercase
}


def keys_for(letter: str) -> list[Key]:
    """The keys that together make `letter`, Shift first. Raises UserError for what a US keyboard has no key for."""
    if letter in _PLAIN:
        return [_PLAIN[letter]]
    if letter in _SHIFTED:
        return [Key.KEY_LEFTSHIFT, _PLAIN[_SHIFTED[letter]]]
    raise UserError(f"{letter!r} has no key on a US keyboard", "type what is on one; use the clipboard for the rest")


def key_named(name: str) -> Key:
    """The key called `name`, as in "ctrl", "f5" or "KEY_VOLUMEUP". Raises UserError."""
    short = name.lower().removeprefix("key_")
    if short in _NAMED:
        return _NAMED[short]
    try:
        key = Key[f"KEY_{short.upper()}"]
    except KeyError:
        raise UserError(
            f"there is no key {name!r}", "ctrl, alt, enter, f5, a …: the kernel's names without KEY_"
        ) from None
    if not 0 < key < Key.BTN_MISC:
        raise UserError(f"a keyboard has no key {name!r}", "ctrl, alt, enter, f5, a …")
    return key
