"""The alphabet: which characters a network knows, and the token number of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fml_lightning.errors import UserError

UNKNOWN = "\ufffd"
"""What stands for every character that is not in the alphabet: Unicode's replacement character, token 0."""


@dataclass(frozen=True)
class Alphabet:
    """Characters as token numbers: token 0 is any unknown one, the others follow from 1.

    >>> Alphabet("ab").encode("abc")
    array([1., 2., 0.], dtype=float32)
    """

    characters: str
    """The characters that are known, each once."""

    def __post_init__(self) -> None:
        if not self.characters or len(set(self.characters)) < len(self.characters):
            raise UserError(f"alphabet: expected at least one character, each once, got {self.characters!r}")

    @classmethod
    def of(cls, texts: Iterable[str], tokens: int) -> Alphabet:
        """The most frequent characters of texts: `tokens` - 1 at most, of equals those that Unicode has first.

        >>> Alphabet.of(["abc", "bcc"], tokens=3).characters
        'cb'
        """
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        counts.pop(UNKNOWN, None)
        ordered = sorted(counts, key=lambda character: (-counts[character], character))
        return cls("".join(ordered[: tokens - 1]))

    @property
    def names(self) -> tuple[str, ...]:
        """What each token stands for: itself, or `UNKNOWN`."""
        return (UNKNOWN, *self.characters.replace(UNKNOWN, ""))

    def encode(self, text: str) -> NDArray[np.float32]:
        """The token of each character, (n,); in float32, as all samples are, which is exact below 2²⁴."""
        known = _code_points("".join(self.names[1:]))
        order = np.argsort(known)
        codes = _code_points(text)
        places = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
        tokens = order[places]
        return np.where(known[tokens] == codes, tokens + 1, 0).astype(np.float32)


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))
