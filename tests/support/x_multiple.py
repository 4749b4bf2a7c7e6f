"""A program that asks for several targets of CLIPBOARD by MULTIPLE (ICCCM 2.6.2).   usage: x_multiple.py TARGET...

Prints one JSON object: {target: the size of its data, or null where it was refused}.
"""

from __future__ import annotations

import json
import sys

from Xlib import X, display


def main(names: list[str]) -> None:
    server = display.Display()
    window = server.screen().root.create_window(0, 0, 1, 1, 0, X.CopyFromParent, event_mask=X.PropertyChangeMask)
    atom = server.intern_atom
    places = {name: atom(f"_PLACE_{number}") for number, name in enumerate(names)}
    pairs = [number for name, place in places.items() for number in (atom(name), place)]
    window.change_property(atom("_MULTIPLE"), atom("ATOM_PAIR"), 32, pairs)
    window.convert_selection(atom("CLIPBOARD"), atom("MULTIPLE"), atom("_MULTIPLE"), X.CurrentTime)
    while server.next_event().type != X.SelectionNotify:
        pass
    answered = window.get_full_property(atom("_MULTIPLE"), X.AnyPropertyType).value
    sizes: dict[str, int | None] = {}
    for name, place in zip(names, answered[1::2], strict=True):
        sizes[name] = size(server, window, place, atom("INCR")) if place else None
    print(json.dumps(sizes))


def size(server: display.Display, window, place: int, incr: int) -> int:
    found = window.get_full_property(place, X.AnyPropertyType)
    if found.property_type != incr:
        return len(found.value) * found.format // 8
    total = 0
    window.delete_property(place)
    while True:
        received = server.next_event()
        if received.type == X.PropertyNotify and received.atom == place and received.state == X.PropertyNewValue:
            part = window.get_full_property(place, X.AnyPropertyType)
            if part is None:
                continue
            window.delete_property(place)
            if not part.value:
                return total
            total += len(part.value)


if __name__ == "__main__":
    main(sys.argv[1:])
