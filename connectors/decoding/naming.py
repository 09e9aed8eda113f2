"""Naming: what topics say of site, machine and channel, by a template's places and by fields that use them."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

from fml_lightning.connectors.decoding.template import Names, Template, filled, places_of
from fml_lightning.errors import UserError

ROLES = Names._fields


@dataclass(frozen=True)
class Naming:
    """Names things by a topic: `{site}/{area}/{line}/{channel}` with a machine `{area}-{line}`.

    >>> naming = Naming(Template("{site}/{area}/{line}/{channel}"), Names(None, "{area}-{line}", None))
    >>> naming.names("north/A/7/flow")
    Names(site='north', machine='A-7', channel='flow')
    """

    template: Template
    fields: Names
    """Fixed names, or texts with places of the template."""

    def __post_init__(self) -> None:
        known, text = self.template.place_names, self.template.text
        for role, field in zip(ROLES, self.fields, strict=True):
            if lacking := [place for place in places_of(field or "") if place not in known]:
                has = ", ".join(f"{{{place}}}" for place in known) or "none"
                raise UserError(
                    f"topic {text!r}: {role} {field!r} needs the place {{{lacking[0]}}}, but the topic's places"
                    f" are {has}; write {{{lacking[0]}}} into the topic, or mend {role}"
                )
        used = {place for field in self.fields for place in places_of(field or "")}
        for place in known:
            if place not in (*ROLES, *used) and (near := get_close_matches(place, ROLES, 1, 0.75)):
                raise UserError(
                    f"topic {text!r}: {{{place}}} names nothing; write {{{near[0]}}}, or use {{{place}}} in site,"
                    " machine or channel, or write + where nothing is named"
                )

    @cached_property
    def fixed(self) -> Names:
        """The names that are the same for every topic."""
        return Names(*(None if places_of(field or "") else field for field in self.fields))

    def names(self, topic: str) -> Names | None:
        """What a topic names; None if it does not match. A field goes before the template's own place."""
        places = self.template.places(topic)
        if places is None:
            return None
        own = Names(places.get("site"), places.get("machine"), places.get("channel"))
        return self._made(places).or_else(own) if self._is_made else own

    def made(self, topic: str) -> Names | None:
        """What the fields make of the places of a topic; None if it does not match."""
        places = self.template.places(topic)
        return None if places is None else self._made(places)

    @cached_property
    def _is_made(self) -> bool:
        return self.fixed != self.fields

    def _made(self, places: dict[str, str]) -> Names:
        return Names(*(filled(field, places) if field and places_of(field) else None for field in self.fields))
