"""A program that owns CLIPBOARD and does not keep to the rules.   usage: x_owner.py HOW

Says a line when it owns it. It uses python-xlib in the ordinary, waiting way.
"""

from __future__ import annotations

import itertools
import os
import sys

from Xlib import X, Xatom, display
from Xlib.protocol import event

CHUNK = b"x" * 65536


class Owner:
    def __init__(self) -> None:
        self.display = display.Display()
        self.root = self.display.screen().root
        self.window = self.root.create_window(0, 0, 1, 1, 0, X.CopyFromParent)
        self.clipboard = self.atom("CLIPBOARD")

    def atom(self, name: str) -> int:
        return self.display.intern_atom(name)

    def own(self) -> None:
        self.window.set_selection_owner(self.clipboard, X.CurrentTime)
        self.display.sync()
        print("owned", flush=True)

    def requests(self):
        while True:
            received = self.display.next_event()
            if received.type == X.SelectionRequest:
                yield received

    def answer(self, asked, property: int) -> None:
        asked.requestor.send_event(
            event.SelectionNotify(
                time=asked.time,
                requestor=asked.requestor,
                selection=asked.selection,
                target=asked.target,
                property=property,
            )
        )
        self.display.flush()

    def give(self, asked, kind: int, bits: int, data) -> None:
        asked.requestor.change_property(asked.property, kind, bits, data)
        self.answer(asked, asked.property)

    def list(self, asked, *names: str) -> bool:
        """Answers to TARGETS; False for another target."""
        if asked.target != self.atom("TARGETS"):
            return False
        self.give(asked, Xatom.ATOM, 32, [self.atom(name) for name in names])
        return True


def silent(owner: Owner) -> None:
    """Lists text, and never gives it."""
    for asked in owner.requests():
        owner.list(asked, "UTF8_STRING")


def mute(owner: Owner) -> None:
    """Answers nothing."""
    for _ in owner.requests():
        pass


def endless(owner: Owner) -> None:
    """An INCR transfer without an end."""
    for asked in owner.requests():
        if owner.list(asked, "UTF8_STRING"):
            continue
        asked.requestor.change_attributes(event_mask=X.PropertyChangeMask)
        owner.give(asked, owner.atom("INCR"), 32, [1])
        while True:
            received = owner.display.next_event()
            if received.type == X.PropertyNotify and received.state == X.PropertyDelete:
                asked.requestor.change_property(asked.property, owner.atom("UTF8_STRING"), 8, CHUNK)
                owner.display.flush()


def half(owner: Owner) -> None:
    """Dies in the middle of an INCR transfer."""
    for asked in owner.requests():
        if owner.list(asked, "UTF8_STRING"):
            continue
        asked.requestor.change_attributes(event_mask=X.PropertyChangeMask)
        owner.give(asked, owner.atom("INCR"), 32, [1])
        while True:
            received = owner.display.next_event()
            if received.type == X.PropertyNotify and received.state == X.PropertyDelete:
                asked.requestor.change_property(asked.property, owner.atom("UTF8_STRING"), 8, CHUNK)
                owner.display.sync()
                os._exit(0)


def flood(owner: Owner) -> None:
    """A property of 8 MiB at once."""
    for asked in owner.requests():
        if owner.list(asked, "image/png"):
            continue
        for _ in range(128):
            asked.requestor.change_property(asked.property, owner.atom("image/png"), 8, CHUNK, X.PropModeAppend)
        owner.answer(asked, asked.property)


def numbers(owner: Owner) -> None:
    """Says text, gives 32-bit numbers."""
    for asked in owner.requests():
        if not owner.list(asked, "UTF8_STRING"):
            owner.give(asked, Xatom.CARDINAL, 32, [1, 2, 3])


def secret(owner: Owner) -> None:
    """A password manager: text that is not to be kept or passed on."""
    for asked in owner.requests():
        if not owner.list(asked, "UTF8_STRING", "x-kde-passwordManagerHint"):
            owner.give(asked, asked.target, 8, b"secret")


def no_list(owner: Owner) -> None:
    """Its list of formats is text."""
    for asked in owner.requests():
        owner.give(asked, Xatom.STRING, 8, b"no list")


def many(owner: Owner) -> None:
    """60,000 formats, most of them no atoms."""
    for asked in owner.requests():
        if asked.target == owner.atom("TARGETS"):
            owner.give(asked, Xatom.ATOM, 32, [owner.atom("UTF8_STRING"), *range(1, 60000)])
        else:
            owner.give(asked, owner.atom("UTF8_STRING"), 8, b"many")


def forger(owner: Owner) -> None:
    """Sends every window events that the server would not."""
    owner.display.display.error_classes = {}  # some of python-xlib's own classes fail to parse theirs
    windows = [window for window in owner.root.query_tree().children if window.id != owner.window.id]
    for window, code in itertools.product(windows, range(2, 128)):
        for fill in (b"\x00", b"\x01", b"\xff"):
            raw = bytes([code]) + fill * 31
            made = event.AnyEvent(binarydata=raw, display=owner.display.display)
            made._binary = raw
            window.send_event(made, onerror=lambda *_: True)
    owner.display.sync()
    for asked in owner.requests():
        if not owner.list(asked, "UTF8_STRING"):
            owner.give(asked, owner.atom("UTF8_STRING"), 8, b"after the forgeries")


def manager(owner: Owner) -> None:
    """A clipboard manager: takes over whatever text others copy, from then on."""
    display, text = owner.display, b""
    display.xfixes_query_version()
    display.xfixes_select_selection_input(owner.window, owner.clipboard, 1)
    print("owned", flush=True)
    while True:
        received = display.next_event()
        if received.type == X.SelectionRequest:
            if not owner.list(received, "UTF8_STRING"):
                owner.give(received, owner.atom("UTF8_STRING"), 8, text)
        elif received.type == X.SelectionNotify and received.property:
            found = owner.window.get_full_property(received.property, X.AnyPropertyType)
            if found is not None and found.property_type == owner.atom("UTF8_STRING"):
                text = found.value
                owner.window.set_selection_owner(owner.clipboard, X.CurrentTime)
                display.flush()
        elif hasattr(received, "owner") and received.owner.id not in (0, owner.window.id):
            place = owner.atom("_MANAGER")
            owner.window.convert_selection(owner.clipboard, owner.atom("UTF8_STRING"), place, X.CurrentTime)
            display.flush()


HOW = {
    function.__name__: function
    for function in (silent, mute, endless, half, flood, numbers, secret, no_list, many, forger, manager)
}

if __name__ == "__main__":
    owner = Owner()
    if sys.argv[1] != "manager":
        owner.own()
    HOW[sys.argv[1]](owner)
