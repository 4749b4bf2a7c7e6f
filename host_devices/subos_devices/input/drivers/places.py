"""Which of the guest's devices a host device drives, so that one that comes back drives the same one again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .forwarding import Target
from .host import Identity
from .kinds import POINTING, SHARED, TARGETS
from .rules import NEXT_PAD, Rule


@dataclass
class _Place:
    rule: Rule
    identity: Identity
    taken: bool = True


class Places:
    """Of devices that one host device alone may drive, by their names."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}

    def take(self, name: str, rule: Rule, identity: Identity) -> None:
        self._places[name] = _Place(rule, identity)

    def leave(self, name: str) -> None:
        """Its device is gone, and may come back."""
        if name in self._places:
            self._places[name].taken = False

    def knows(self, rule: Rule, identity: Identity) -> bool:
        """Whether that very device had a place by `rule`, which is free."""
        return any(
            place.rule is rule and not place.taken and place.identity.is_same(identity)
            for place in self._places.values()
        )

    def choose(self, rule: Rule, identity: Identity, kind: str, targets: Sequence[Target]) -> Target | None:
        """The best of `targets` that `rule` allows for a device of `kind`, if one is free.

        Its own place of before comes first, then that of one of its make that is away (it may be plugged elsewhere
        now), then one that nobody ever had, then one whose device is away.
        """
        possible = allowed(rule.to, kind, targets)
        if rule.monitor:
            possible = [target for target in possible if target.kind in POINTING]
        if possible and possible[0].kind in SHARED:
            return possible[0]
        own = [target for target in possible if target.name in self._places and self._places[target.name].rule is rule]
        if rule.by == NEXT_PAD and own:  # it is about one pad
            return None if self._places[own[0].name].taken else own[0]
        away = [target for target in possible if target.name in self._places and not self._places[target.name].taken]
        best = [
            *(target for target in away if self._places[target.name].identity.is_same(identity)),
            *(target for target in away if self._places[target.name].identity.is_alike(identity)),
            *(target for target in possible if target.name not in self._places),
            *(target for target in away if target in own),
        ]
        return best[0] if best else None


def allowed(to: str, kind: str, targets: Sequence[Target]) -> list[Target]:
    """Those of `targets` that `to` says, by name or kind; without it those that a device of `kind` can drive, the best
    first."""
    if to:
        named = [target for target in targets if target.name == to]
        return named or [target for target in targets if target.kind == to]
    kinds = TARGETS.get(kind, ())
    return sorted(
        (target for target in targets if target.kind in kinds),
        key=lambda target: (kinds.index(target.kind), target.name),
    )
