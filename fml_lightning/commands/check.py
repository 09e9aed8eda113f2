"""`fml record --check`: listen to a broker, or read a file of payloads, and print what a recording would read."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from fml_lightning.commands.live_line import LiveLine
from fml_lightning.commands.process import stopped_by_signal
from fml_lightning.connectors.decoding.topics import Topics
from fml_lightning.connectors.mqtt.connection import Connection, is_loopback
from fml_lightning.connectors.survey.findings import Finding, Findings, findings
from fml_lightning.connectors.survey.judgement import Judgement
from fml_lightning.connectors.survey.listener import Listener
from fml_lightning.connectors.survey.payload_file import messages_of
from fml_lightning.connectors.survey.section import section
from fml_lightning.connectors.survey.survey import Survey
from fml_lightning.errors import UserError
from fml_lightning.names import escaped, shown

MOST_GROUPS = 100
"""Groups of topics that are printed one by one."""
NAMES = 6
"""Names, errors and other things of a kind that are printed of a group."""


def check_broker(
    connection: Connection, topics: Topics, seconds: float, max_packet_bytes: int, output: str | None
) -> int:
    """Listen for some seconds, or until a signal, and print the findings; returns 0.

    Args:
        connection: where the broker is.
        topics: the configuration.
        seconds: how long.
        max_packet_bytes: of a larger message, the payload is not looked at.
        output: a file for the proposed section; None: it is only printed.

    Raises:
        UserError: the broker cannot be reached, or nothing was heard.
    """
    survey, stop = Survey(), threading.Event()
    listener = Listener(connection, list(topics.filters()), max_packet_bytes)
    began = time.monotonic()
    with stopped_by_signal(stop.set), LiveLine() as line:

        def look(left: float) -> None:
            line.show(lambda: f"{_messages(survey.count)} of {len(survey.topics):,} topics; {left:.0f} s left")

        listener.listen(seconds, survey.add, stop, look)
    elapsed = max(time.monotonic() - began, 1e-3)
    notes = [f"the broker refuses the subscription to {f!r}" for f in listener.refused]
    notes += [f"the connection was lost {listener.lost:,} times"] if listener.lost else []
    if connection.tls is None and not is_loopback(connection.host):
        notes.append("not encrypted: a recording needs connection.tls, or connection.unencrypted: true")
    if not survey.count:
        raise UserError(_silence(connection, elapsed, notes))
    _report(survey, topics, f"{connection.address}, in {elapsed:.1f} s", elapsed, notes, output)
    return 0


def check_file(file: str, topics: Topics, output: str | None) -> int:
    """Print the findings on a file of payloads; returns 0.

    Raises:
        UserError: the file cannot be read, or has no payloads.
    """
    survey = Survey()
    for message in messages_of(file):
        survey.add(message)
    if not survey.count:
        raise UserError(f"check_file: expected lines with topic and payload in {file}, got none")
    _report(survey, topics, file, None, [], output)
    return 0


def _silence(connection: Connection, seconds: float, notes: Sequence[str]) -> str:
    """Why nothing may have been heard."""
    who = f"the user {connection.username!r}" if connection.username else "an anonymous client"
    return (
        f"{connection.address} has sent nothing in {seconds:.0f} s{''.join(f' ({note})' for note in notes)};"
        f" either no device has published meanwhile (listen longer), or the broker lets {who} subscribe but read"
        " nothing (its access list), or the devices publish elsewhere"
    )


def _report(
    survey: Survey, topics: Topics, where: str, seconds: float | None, notes: Sequence[str], output: str | None
) -> None:
    found = findings(survey, topics, time.time())
    text = section(found.entries)
    lines = [f"heard {_messages(survey.count)} of {len(survey.topics):,} topics: {where}", *notes]
    if survey.beyond:
        lines.append(
            f"{survey.beyond:,} messages of further topics, which are too many or too long, were not looked at"
        )
    for one in found.groups[:MOST_GROUPS]:
        lines += ["", *_group(one, seconds, topics != Topics())]
    if len(found.groups) > MOST_GROUPS:
        lines += [
            "",
            f"and {len(found.groups) - MOST_GROUPS:,} more groups of topics; the section below has them too",
        ]
    if found.beyond:
        lines += [
            "",
            f"{found.beyond:,} more groups of topics were not looked into: once the section below is used,"
            " check again with it",
        ]
    lines += ["", *_summary(found, output)]
    if output is not None:
        Path(output).write_text(text, encoding="utf-8")
    print("\n".join(map(escaped, lines)))
    if found.entries:
        print(f"\n{text}", end="", flush=True)


def _summary(found: Findings, output: str | None) -> list[str]:
    whole = sum(one.today.is_whole or one.is_ignored for one in found.groups)
    more = sum(one.proposal is not None and one.proposal.judgement is not None for one in found.groups)
    lines = [
        f"{len(found.groups):,} groups of topics: {whole:,} read whole by the configuration, {more:,} better by"
        " what is proposed"
    ]
    if any("which?" in comment for entry in found.entries for comment in entry.comments.values()):
        lines.append("look first at what is marked `which?`: neither topics nor payloads say it")
    if found.entries:
        file = output or "a file, such as topics.yaml"
        lines.append(f"the whole section follows: put it into {shown(file, 200)}, and record with it:")
        lines.append(
            f"fml record --config {shown(output or 'topics.yaml', 200)} --spool FOLDER --connection.host ..."
        )
    return lines


def _group(one: Finding, seconds: float | None, has_config: bool) -> list[str]:
    """What is printed of a group."""
    group = one.group
    rate = "" if seconds is None else f", {group.count / seconds:,.1f}/s"
    topics = "" if len(group.topics) == 1 else f", {len(group.topics):,} topics"
    formats = dict.fromkeys(" in ".join([p.format, *reversed(p.wrappers)]) for p in group.parsed)
    lines = [f"{shown(group.pattern, 200)}: {_messages(group.count)}{rate}{topics}; {', '.join(formats)}"]
    if one.is_ignored:
        return [*lines, "  ignored, as the configuration says"]
    if has_config or one.today.read:  # nobody has written the default
        lines += [f"  {line}" for line in _read(one.today, "the configuration reads")]
    if one.proposal is None:
        return lines if one.today.read else [*lines, "  nothing is known that reads it"]
    if one.proposal.judgement is None:
        lines.append("  could be read, once somebody says what no payload says; it is a comment below")
    else:
        lines += [f"  {line}" for line in _read(one.proposal.judgement, "proposed, which reads")]
    return lines + [f"  {line}" for line in one.proposal.entry.head[1:]]


def _read(judgement: Judgement, head: str) -> list[str]:
    """What is read, and what is not and why."""
    lines: list[str] = []
    readings = judgement.readings
    if len(readings):
        machines = _some(
            f"{site}/{machine}"
            for site, machine in readings.select("site", "machine").unique(maintain_order=True).iter_rows()
        )
        lines.append(f"{head}: machines {machines}; channels {_some(_channels(readings))}; {_times(judgement)}")
    if len(judgement.labels):
        said = judgement.labels.select("site", "machine", "label").unique(maintain_order=True).iter_rows()
        lines.append(f"{head}: labels {_some(f'{site}/{machine}: {label}' for site, machine, label in said)}")
    errors = judgement.errors.most_common(NAMES)
    if not lines:
        return [f"{head} nothing{'' if not errors else f': {errors[0][0]}'}"]
    for error, count in errors:
        lines.append(f"not read, in {count:,} of {_messages(len(judgement.messages))} looked at: {error}")
    if judgement.skipped:
        lines.append(
            f"skipped: {_some(f'{name} ({kind})' for (name, kind), _ in judgement.skipped.most_common())}"
        )
    return lines


def _messages(count: int) -> str:
    return f"{count:,} message{'s' * (count != 1)}"


def _channels(readings: pl.DataFrame) -> Iterable[str]:
    """Each channel, with its unit and one value, or the size of one block."""
    for row in readings.unique("channel", maintain_order=True).iter_rows(named=True):
        unit = f" {row['unit']}" if row["unit"] else ""
        if row["sample_rate"] is None:
            yield f"{row['channel']} ({row['values'][0]:.6g}{unit})"
        else:
            yield f"{row['channel']} (blocks of {len(row['values']):,} at {row['sample_rate']:g} Hz{unit})"


def _times(judgement: Judgement) -> str:
    if not judgement.timed:
        return "no time is sent"
    if judgement.time_fault is not None:
        return judgement.time_fault
    bad = judgement.implausible
    return f"{bad:,} implausible times" if bad else "times are plausible"


def _some(names: Iterable[str]) -> str:
    every = [shown(name, 80) for name in names]
    more = f" and {len(every) - NAMES:,} more" if len(every) > NAMES else ""
    return ", ".join(every[:NAMES]) + more
