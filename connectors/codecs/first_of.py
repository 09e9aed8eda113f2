"""FirstOf: several codecs for the payloads of one topic, such as those before and after a new firmware."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fml_lightning.connectors.codecs.codec import LONGEST_ERROR, Codec, CodecError, Sample
from fml_lightning.errors import UserError


@dataclass(frozen=True)
class FirstOf(Codec):
    """The codecs in order: the first that reads anything reads the message, whatever else is wrong with it."""

    codecs: tuple[Codec, ...]
    """The codecs to try; none of them may remember earlier messages."""

    def __post_init__(self) -> None:
        bad = [codec for codec in self.codecs if not isinstance(codec, Codec)]
        if bad:
            raise UserError(f"FirstOf.codecs: expected codecs that remember nothing, got {type(bad[0]).__name__}")
        if not self.codecs:
            raise UserError("FirstOf.codecs: expected at least one codec, got none")

    @property
    def _is_plain(self) -> bool:
        """See `Codec._is_plain`."""
        return all(codec._is_plain for codec in self.codecs)

    def decode(self, payload: bytes) -> Sequence[Sample]:
        """The samples of the first codec that reads any; if none does, what the first says that accepts it.

        Raises:
            CodecError: no codec accepts it, and the error says why for each; or the first that reads anything
                cannot read all.
        """
        accepted: Sequence[Sample] | None = None
        faults: list[tuple[str, str]] = []
        for codec in self.codecs:
            try:
                samples = codec.decode(payload)
            except CodecError as error:
                if error.samples:
                    raise
                faults.append((type(codec).__name__, str(error)))
            else:
                if samples:
                    return samples
                accepted = samples if accepted is None else accepted
        if accepted is not None:
            return accepted
        room = (LONGEST_ERROR - 40) // len(faults) - 2
        each = "; ".join(f"{name}: {fault}"[:room] for name, fault in faults)
        raise CodecError(f"expected what one of {len(faults)} codecs reads; {each}")
