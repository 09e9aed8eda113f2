"""History finds in frames what a loop over single readings finds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import NOW, SECOND

from fml_lightning.connectors import Decoder, Message, Quality, Topic, Topics, WaveformBlock, encode_waveform
from fml_lightning.connectors.decoding import history
from fml_lightning.connectors.decoding.columns import Columns
from fml_lightning.connectors.decoding.decoded import Decoded
from fml_lightning.connectors.decoding.history import History
from fml_lightning.connectors.decoding.streams import Stream, StreamNames
from fml_lightning.connectors.messages import Messages

Values = tuple[float | None, bytes]
"""Hz, None for a scalar, and the bytes of its float32 samples."""
Row = tuple[int, int, int, Values, Quality]
"""Stream, time, when it was received, values, what is doubtful."""


def of(*samples: float, rate: float | None = None) -> Values:
    return rate, np.array(samples, np.float32).tobytes()


ALIKE: list[Values] = [
    of(0.0),
    of(-0.0),
    (None, b"\0\0\xc0\x7f"),
    (None, b"\1\0\xc0\x7f"),  # another NaN
    of(0.0, rate=1.0),
    of(0.0, rate=2.0),
    of(0.0, 0.0, rate=1.0),
    of(1.0, 0.5, -0.5, 1.0, rate=1.0),
    of(1.0, -0.5, 0.5, 1.0, rate=1.0),
    of(1.0, 0.5, 0.5, 1.0, rate=1.0),
    of(1.0, -0.0, 0.0, 1.0, rate=1.0),
    of(1.0, 0.0, -0.0, 1.0, rate=1.0),
]
"""No two are the same; of the longer ones length, sum and ends are."""

ROWS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(-3, 12),
        st.integers(-3, 12),
        st.sampled_from(ALIKE),
        st.sampled_from([Quality(0), Quality(0), Quality.NO_DEVICE_TIME, Quality.IMPLAUSIBLE_TIME]),
    ),
    max_size=60,
)


def by_loop(rows: list[Row], remembered: int) -> list[tuple[bool, bool]]:
    """Whether each reading is repeated and late, one after another."""
    recent: list[tuple[int, int, Values]] = []
    before: list[tuple[int, int, Values]] = []
    newest: dict[int, int] = {}
    found = []
    for stream, time, received, values, quality in rows:
        repeated = False
        if not quality & Quality.NO_DEVICE_TIME:
            key = stream, time, values
            repeated = key in recent or key in before
            recent.append(key)
            if len(recent) >= remembered:
                recent, before = [], recent
        found.append((repeated, time < newest.get(stream, time)))
        if not quality & Quality.IMPLAUSIBLE_TIME:
            come = min(time, received)  # a clock that is ahead makes nothing late
            newest[stream] = max(come, newest.get(stream, come))
    return found


def columns(rows: list[Row]) -> Columns:
    stream, time, received, values, quality = (
        (list(column) for column in zip(*rows, strict=True)) if rows else [[]] * 5
    )
    rates = [rate for rate, _ in values]
    samples = [np.frombuffer(content, np.float32) for _, content in values]
    scalar_at = [i for i, rate in enumerate(rates) if rate is None]
    block_at = [i for i, rate in enumerate(rates) if rate is not None]
    return Columns(
        sequence=np.arange(len(rows)),
        received=np.array(received, np.int64),
        time=np.array(time, np.int64),
        stream=np.array(stream, np.int64),
        quality=np.array([int(flags) for flags in quality], np.uint16),
        scalars=np.array([samples[i][0] for i in scalar_at], np.float32),
        blocks=[samples[i] for i in block_at],
        rates=[rates[i] for i in block_at],
        order=np.argsort([*scalar_at, *block_at]),
    )


@settings(deadline=None, max_examples=300)
@given(rows=ROWS, cuts=st.lists(st.integers(0, 60), max_size=4), remembered=st.integers(1, 20))
def test_frames_are_compared_as_single_readings_are(rows: list[Row], cuts: list[int], remembered: int) -> None:
    names = StreamNames()
    for i in range(4):
        names.number(Stream("n", "m", str(i)))
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "REMEMBERED", remembered)
        compared = History()
        for begin, end in pairwise([0, *sorted(cuts), 60]):
            readings, repeated = compared.compare(columns(rows[begin:end]), names)
            late = (readings.quality & int(Quality.LATE)) != 0
            found += list(zip(repeated.tolist(), late.tolist(), strict=True))
    assert found == by_loop(rows, remembered)


def blocks(count: int, seed: int) -> list[tuple[str, bytes]]:
    """Blocks of a device that stamps whole seconds, six a second, and whose ends are equal; quantized."""
    rng = np.random.default_rng(seed)
    samples = rng.integers(-8, 8, (count, 64)) / 8
    samples[:, [0, -1]] = 0.5
    return [
        ("plant/n/m/x", encode_waveform(each, 384.0, NOW + i // 6 * SECOND, "int16", 1 / 8))
        for i, each in enumerate(samples)
    ]


def read(messages: list[tuple[str, bytes]]) -> Decoded:
    numbered = [Message(topic, payload, NOW + i * SECOND // 6) for i, (topic, payload) in enumerate(messages)]
    return Decoder(Topics((Topic(codec=WaveformBlock()),))).decode(Messages.numbered(numbered, 0))


def test_blocks_of_one_second_with_equal_ends_are_all_kept() -> None:
    decoded = read(blocks(240, seed=0))
    assert (len(decoded.batch.readings), decoded.repeated) == (240, 0)


def test_a_block_that_comes_again_is_found_among_others_of_its_second() -> None:
    messages = blocks(240, seed=0)
    again = [messages[i] for i in (3, 4, 100, 239)]
    decoded = read(messages[:150] + again[:3] + messages[150:] + again[3:])
    assert decoded.repeated == 4
    assert decoded.batch.readings["sequence"].to_list() == [*range(150), *range(153, 243)]


def test_a_bit_of_any_sample_makes_another_block() -> None:
    """Signs, last bits, places and lengths: what a sum with weights, or one of few bits, would not tell apart."""
    rng = np.random.default_rng(1)
    block = rng.integers(-8, 8, 2048).astype(np.float32)
    changed = [block, -block, block[::-1], block[:-1], np.append(block, np.float32(0)), np.roll(block, 2)]
    for i in range(0, 2048, 7):
        for bit in (0, 22, 31):
            other = block.copy()
            other.view(np.uint32)[[i, i + 1]] ^= np.uint32(1 << bit)
            changed.append(other)
    messages = [("plant/n/m/x", encode_waveform(each, 100.0, NOW)) for each in changed]
    distinct = len({np.asarray(each).tobytes() for each in changed})
    assert len(read(messages).batch.readings) == distinct > 800
