"""The folder of a spool: what lies where in it, and how its messages are read.

FOLDER/
    lock                     held by the one process that writes
    topics.json              how the messages are decoded (topics and codecs; no secrets)
    session.json             our session at the broker (`kept_session`), which nobody else should know
    segments/FIRST-LAST-CRC32.parquet
    states/SEQUENCE.json     what stateful codecs had learnt (`snapshots`)
    quarantine/              segments that could not be read
    dead_letters.jsonl       messages that could not be decoded; `dead_letters.jsonl.1`, older ones
    gaps.jsonl               messages that are missing or may be, and why (`gaps`)
    ages.jsonl               when which messages were there, by the spool's own clock (`ages`)
"""

from __future__ import annotations

from pathlib import Path

from fml_lightning import durable
from fml_lightning.connectors.decoding.topics import Topics
from fml_lightning.errors import UserError

LOCK = "lock"
TOPICS = "topics.json"
SESSION = "session.json"
SEGMENTS = "segments"
STATES = "states"
QUARANTINE = "quarantine"
DEAD_LETTERS = "dead_letters.jsonl"
OLDER_DEAD_LETTERS = f"{DEAD_LETTERS}.1"
GAPS = "gaps.jsonl"
AGES = "ages.jsonl"


def has_topics(folder: Path) -> bool:
    """Whether a spool says how its messages are read; until it does, nobody has recorded into it."""
    return (folder / TOPICS).is_file()


def topics_text(folder: Path) -> bytes:
    """How a spool's messages are read, as `Topics.loads` has it.

    Raises:
        UserError: the spool does not say.
    """
    try:
        return (folder / TOPICS).read_bytes()
    except FileNotFoundError:
        raise UserError(f"spool {folder}: no {TOPICS} in it, so its topics must be given") from None
    except OSError as error:
        raise UserError(f"spool {folder}: cannot read {TOPICS}: {error.strerror}") from error


def write_topics(folder: Path, topics: Topics) -> None:
    """Write into a spool, durably, how its messages are read.

    Raises:
        UserError: the disk is full or failing, or a codec cannot be described.
    """
    text = topics.dumps()
    try:
        if not has_topics(folder) or topics_text(folder) != text:  # an unchanged file needs no room on a full disk
            durable.write(folder / TOPICS, text)
    except OSError as error:
        raise UserError(f"spool {folder}: cannot write {TOPICS}: {error.strerror}") from error
