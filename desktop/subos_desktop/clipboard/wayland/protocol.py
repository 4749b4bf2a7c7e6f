"""The interfaces that a clipboard needs: each a table of requests and events, whose opcodes are their places.

Sources: wayland.xml, ext-data-control-v1.xml (wayland-protocols, staging), wlr-data-control-unstable-v1.xml (wlroots).
The two data controls differ in their names only.
"""

from __future__ import annotations

from typing import Dict, NamedTuple, Tuple


class Interface(NamedTuple):
    """(name, signature) of each request and event; signatures as in wire.py."""

    name: str
    requests: Tuple[Tuple[str, str], ...]
    events: Tuple[Tuple[str, str], ...]

    def opcode(self, request: str) -> int:
        return [name for name, _ in self.requests].index(request)


DISPLAY = Interface("wl_display", (("sync", "n"), ("get_registry", "n")), (("error", "ous"), ("delete_id", "u")))
REGISTRY = Interface("wl_registry", (("bind", "usun"),), (("global", "usu"), ("global_remove", "u")))
CALLBACK = Interface("wl_callback", (), (("done", "u"),))
SEAT = Interface("wl_seat", (), (("capabilities", "u"), ("name", "s")))


class DataControl(NamedTuple):
    """The four interfaces of a data control; `primary_since` is the manager's version that knows PRIMARY."""

    manager: Interface
    device: Interface
    source: Interface
    offer: Interface
    version: int
    primary_since: int


def _data_control(prefix: str, version: int, primary_since: int) -> DataControl:
    return DataControl(
        manager=Interface(
            f"{prefix}_manager_v1", (("create_data_source", "n"), ("get_data_device", "no"), ("destroy", "")), ()
        ),
        device=Interface(
            f"{prefix}_device_v1",
            (("set_selection", "?o"), ("destroy", ""), ("set_primary_selection", "?o")),
            (("data_offer", "n"), ("selection", "?o"), ("finished", ""), ("primary_selection", "?o")),
        ),
        source=Interface(f"{prefix}_source_v1", (("offer", "s"), ("destroy", "")), (("send", "sh"), ("cancelled", ""))),
        offer=Interface(f"{prefix}_offer_v1", (("receive", "sh"), ("destroy", "")), (("offer", "s"),)),
        version=version,
        primary_since=primary_since,
    )


# The better one first.
DATA_CONTROLS: Dict[str, DataControl] = {
    control.manager.name: control
    for control in (_data_control("ext_data_control", 1, 1), _data_control("zwlr_data_control", 2, 2))
}
