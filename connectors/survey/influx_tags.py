"""Tags of lines in InfluxDB's protocol: which of them names machine or site, and what the times count."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fml_lightning.connectors.codecs import CodecError, InfluxLine
from fml_lightning.connectors.codecs.times import Precision
from fml_lightning.connectors.quality import AHEAD, BEHIND
from fml_lightning.connectors.survey.roles import machine_order, says_site
from fml_lightning.connectors.survey.shape import plain

_TAG = re.compile(r",((?:\\.|[^\\,= ])+)=(?:\\.|[^\\,= ])+")
_UNITS: tuple[Precision, ...] = ("ns", "us", "ms", "s")


def influx_line(payloads: Sequence[bytes], now: float) -> tuple[InfluxLine, frozenset[str], Mapping[str, str]]:
    """The codec for lines, which names these say, and comments by field.

    Args:
        payloads: lines.
        now: seconds since 1970, UTC: about when they were received.
    """
    heads = [line.split(" ", 1)[0] for p in payloads for line in p.decode(errors="replace").splitlines()]
    tags = list(dict.fromkeys(tag for head in heads for tag in _TAG.findall(head)))
    everywhere = [tag for tag in tags if all(f",{tag}=" in head for head in heads if head and head[0] != "#")]
    machines = sorted(
        (tag for tag in everywhere if machine_order(plain(tag)) is not None),
        key=lambda t: machine_order(plain(t)) or 0,
    )
    sites = [tag for tag in everywhere if says_site(plain(tag))]
    machine = machines[0] if machines else None
    site = sites[0] if sites else None
    codec = InfluxLine(_unit(payloads, now), machine, site)
    names = {"channel"} | ({"machine"} if machine else set()) | ({"site"} if site else set())
    rest = [tag for tag in tags if tag not in (machine, site)]
    comments = {"codec": f"is the machine one of the tags {', '.join(rest)}?"} if rest and machine is None else {}
    return codec, frozenset(names), comments


def _unit(payloads: Sequence[bytes], now: float) -> Precision:
    """What the times count, so that most of them are about now."""
    received = int(now * 1e6)

    def plausible(unit: Precision) -> int:
        times: list[int] = []
        for payload in payloads:
            try:
                samples = InfluxLine(unit).decode(payload)
            except CodecError as error:
                samples = error.samples
            times += [sample.time for sample in samples if sample.time is not None]
        return sum(received - BEHIND <= time <= received + AHEAD for time in times)

    return max(_UNITS, key=plausible)  # of equals the first, which is the protocol's own
