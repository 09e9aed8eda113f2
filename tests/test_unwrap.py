"""Wrappers are undone, bounded; what is not such a wrapper is a CodecError that says what came."""

from __future__ import annotations

import base64
import contextlib
import gzip
import random
import tracemalloc
import zlib
from functools import partial

import pytest

from fml_lightning.connectors.codecs.codec import LONGEST_ERROR, CodecError
from fml_lightning.connectors.codecs.unwrap import LARGEST, MOST_MEMBERS, Wrapper, unwrap

TEXT = b'{"rms":1.5}'


def deflated(content: bytes) -> bytes:
    return zlib.compress(content)[2:-4]  # without zlib's header and checksum


gzipped = partial(gzip.compress, mtime=0)  # the same bytes whenever tests are collected

WRAP = {
    "gzip": gzipped,
    "zlib": zlib.compress,
    "deflate": deflated,
    "base64": base64.b64encode,
    "hex": lambda content: content.hex().encode(),
}


@pytest.mark.parametrize("outer", WRAP)
@pytest.mark.parametrize("inner", WRAP)
def test_wrappers_are_undone_from_the_outermost_on(outer: Wrapper, inner: Wrapper) -> None:
    assert unwrap(WRAP[outer](WRAP[inner](TEXT)), (outer, inner)) == TEXT
    assert unwrap(WRAP[outer](b""), (outer,)) == b""
    assert unwrap(b"", (outer, inner)) == b""  # no message at all


@pytest.mark.parametrize(
    ("payload", "wrapper"),
    [
        (base64.b64encode(b"\xfb\xff\xfe~"), "base64"),  # has + and /
        (base64.urlsafe_b64encode(b"\xfb\xff\xfe~"), "base64"),  # - and _
        (base64.b64encode(b"\xfb\xff\xfe~").rstrip(b"="), "base64"),
        (b"\xef\xbb\xbf +//+\r\nfg== \n\0", "base64"),
        (b"FBfffe7E", "hex"),
        (b"0xfb ff fe 7e\r\n\0", "hex"),
        (gzipped(b"\xfb\xff") + gzipped(b"") + gzipped(b"\xfe~"), "gzip"),
        (gzipped(b"\xfb\xff\xfe~") + b"\0\0", "gzip"),
        (zlib.compress(b"\xfb\xff\xfe~") + b"\0", "zlib"),
    ],
)
def test_what_senders_really_write(payload: bytes, wrapper: Wrapper) -> None:
    assert unwrap(payload, (wrapper,)) == b"\xfb\xff\xfe~"


@pytest.mark.parametrize(
    ("payload", "wrapper", "fault"),
    [
        (
            gzipped(TEXT)[:-1],
            "gzip",
            "gzip: expected the end of the data, got a payload cut off at 30 bytes",
        ),
        (gzipped(TEXT)[:5], "gzip", "cut off at 5 bytes"),
        (gzipped(TEXT) + b"x", "gzip", "gzip: expected nothing after the data, got 1 more bytes"),
        (zlib.compress(TEXT) + b"xy", "zlib", "zlib: expected nothing after the data, got 2 more bytes"),
        (deflated(TEXT) + b"xy", "deflate", "got 2 more bytes"),
        (TEXT, "gzip", "gzip: expected gzip data, got '{\"rms\":1.5}'"),
        (gzipped(TEXT), "zlib", "zlib: expected zlib data, got gzip; write gzip in unwrap"),
        (gzipped(TEXT), "deflate", "got gzip; write gzip in unwrap"),
        (zlib.compress(TEXT), "deflate", "got zlib; write zlib in unwrap"),
        (zlib.compress(TEXT), "gzip", "got zlib; write zlib in unwrap"),
        (zlib.compress(TEXT)[:-1] + b"\0", "zlib", "incorrect data check"),
        (TEXT, "base64", "base64: expected base64, got '{\"rms\":1.5}'"),
        (b"QUJ", "hex", "hex: expected two hexadecimal digits a byte, got 'QUJ'"),
        (b"abc", "hex", "got 'abc'"),
        (b"A", "base64", "got 'A'"),
        (b"QQ==QQ==", "base64", "got 'QQ==QQ'"),
        (b"\xff\xfe", "base64", "expected base64"),
        (gzipped(b"") * (MOST_MEMBERS + 1), "gzip", f"at most {MOST_MEMBERS} members"),
    ],
)
def test_a_wrapper_that_is_none_says_what_came(payload: bytes, wrapper: Wrapper, fault: str) -> None:
    with pytest.raises(CodecError) as error:
        unwrap(payload, (wrapper,))
    assert fault in str(error.value)
    assert len(str(error.value)) <= LONGEST_ERROR


@pytest.mark.parametrize("wrapper", ["gzip", "zlib", "deflate"])
def test_a_bomb_is_refused_before_it_is_large(wrapper: Wrapper) -> None:
    assert len(unwrap(WRAP[wrapper](bytes(LARGEST)), (wrapper,))) == LARGEST
    bomb = WRAP[wrapper](bytes(LARGEST * 8))
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match=f"expected at most {LARGEST:,} bytes"):
            unwrap(bomb, (wrapper,))
        assert tracemalloc.get_traced_memory()[1] < 3 * LARGEST
    finally:
        tracemalloc.stop()
    halves = gzipped(bytes(LARGEST // 2)) * 3  # each within the bound
    with pytest.raises(CodecError, match="expected at most"):
        unwrap(halves, ("gzip",))


def test_hostile_bytes_are_undone_or_a_codec_error() -> None:
    chance = random.Random(7)
    for _ in range(20_000):
        wrappers = chance.choices(list(WRAP), k=chance.choice((1, 1, 2)))
        payload = TEXT * chance.randrange(3)
        for wrapper in reversed(wrappers):
            payload = WRAP[wrapper](payload)
        mutant = bytearray(payload or b"x")
        for _ in range(chance.randrange(4)):
            here = chance.randrange(len(mutant) + 1)
            mutant[here : here + chance.randrange(3)] = chance.randbytes(chance.randrange(4))
        with contextlib.suppress(CodecError):
            assert isinstance(unwrap(bytes(mutant), wrappers), bytes)  # type: ignore[arg-type]
