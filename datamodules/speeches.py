"""Shakespeare's speakers: next-character prediction, each speaker of a play a user.

The federated benchmark of McMahan et al. (https://arxiv.org/abs/1602.05629) and LEAF (https://arxiv.org/abs/1812.01097)
in another edition: the texts of the Python package shakespeare 0.6, from Project Gutenberg. Not LEAF's file, so
numbers are not LEAF's either.
"""

from __future__ import annotations

from pathlib import Path

from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.text import AS_WRITTEN, Text
from fml_lightning.errors import UserError

FILE = "shakespeare_speakers.parquet"


class Speeches(Text):
    """The speakers of 37 plays, whose speeches follow one another in the order of the play.

    Args:
        root: the folder with `shakespeare_speakers.parquet` (columns play, speaker, order, text), or the folder
            above it.
        minimum: speakers with fewer characters are left out.
        unseen: the share of speakers that are held out, drawn by `seed`; or patterns of their names, such as
            `["othello, *"]`.
        users_per_site: how many speakers a site has; 1: every speaker is a site.
        context: characters that the network sees.
        tokens: the most tokens there are, the unknown one included.
        seed: draws the unseen speakers.
        episodes: how episodes are drawn.
    """

    def __init__(
        self,
        root: str,
        minimum: int = 3000,
        unseen: float | list[str] = 0.25,
        users_per_site: int = 1,
        context: int = 10,
        tokens: int = 96,
        seed: int = 0,
        episodes: Episodes = AS_WRITTEN,
    ) -> None:
        places = [Path(root) / FILE, Path(root) / "shakespeare_speakers" / FILE]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise UserError(f"Speeches: no {FILE} in {root}; set root to the folder that holds it")
        super().__init__(
            str(path),
            user=["play", "speaker"],
            order="order",
            minimum=minimum,
            unseen=unseen,
            users_per_site=users_per_site,
            context=context,
            tokens=tokens,
            seed=seed,
            episodes=episodes,
        )
