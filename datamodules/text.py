"""Texts as a fleet: who wrote what, in which order; each user is a machine whose next characters are predicted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from fml_lightning.datamodules.alphabet import Alphabet
from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.fleet import Fleet, SiteRecordings
from fml_lightning.datamodules.held_out import checked_unseen, held_out_names, held_out_share
from fml_lightning.datamodules.recordings import NextSample, Recording, Stored
from fml_lightning.datamodules.split import split
from fml_lightning.datamodules.writings import open_writings
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.features import RawWindows
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.preprocessing.windowing import Windowing

AS_WRITTEN = Episodes(
    shots=1024,
    queries=128,
    support="first",
    of="as they come",
    tasks=1,
    permute_labels=False,
    centre=False,
    repeats=1,
)
"""Episodes of text: a user's first 1,024 characters are support, what was written later is judged."""
TOGETHER = 2**24
"""Characters that are read together to count them."""


class Text(Fleet):
    """Users as machines, who wrote texts one after another. A window is `context` characters, its class the next.

    The first `episodes.early_share` of a user's text is for training and support, the rest, after a gap of one
    context, is judged. The alphabet is that of the training users' early text alone: no later character, and none
    of an unseen user, is in it. Every other character is one token, the unknown one.

    A site reads its own users' texts, when it first works. What is read beside them: how many characters each user
    wrote; and the early text of the training users, unless the alphabet is given.

    Args:
        path: a Parquet file or a CSV file (UTF-8, with a header) with a text in each row; or a folder of text
            files, `USER.txt` or `USER/ANYTHING.txt`.
        user: the column that says who wrote a text, or several columns that say so together.
        text: the column of texts.
        order: the column whose order is that of writing; null: the order of the rows (in a folder, of the names).
        minimum: users with fewer characters are left out.
        unseen: the share of users that are held out, drawn by `seed`; or patterns of their names, such as `[A*]`.
        users_per_site: how many users a site has; 1: every user is a site.
        context: characters that the network sees, at least 1.
        tokens: the most tokens there are, the unknown one included, at least 2; the network's `tokens` must not be
            fewer. Rarer characters are unknown.
        alphabet: the characters that are known, where that is agreed on; null: those of the training users.
        seed: draws the unseen users.
        episodes: how episodes are drawn: `of: as they come`, for a character means the same whoever writes it.
    """

    def __init__(
        self,
        path: str,
        user: str | list[str] = "user",
        text: str = "text",
        order: str | None = None,
        minimum: int = 3000,
        unseen: float | list[str] = 0.25,
        users_per_site: int = 1,
        context: int = 10,
        tokens: int = 96,
        alphabet: str | None = None,
        seed: int = 0,
        episodes: Episodes = AS_WRITTEN,
    ) -> None:
        name = type(self).__name__
        if min(context, users_per_site, minimum) < 1 or tokens < 2:
            raise UserError(
                f"{name}: expected context, users_per_site and minimum of at least 1, and tokens of at least 2,"
                f" got {context}, {users_per_site}, {minimum} and {tokens}"
            )
        if alphabet is not None and len(Alphabet(alphabet).names) > tokens:
            raise UserError(
                f"{name}: expected an alphabet of at most {tokens - 1} characters, for one token is the unknown"
                f" one, got {len(alphabet)}; raise tokens"
            )
        _refuse_other_episodes(name, episodes)
        least = _least_characters(episodes, context)
        if minimum < least:
            raise UserError(
                f"{name}: expected a minimum of at least {least} characters, so that every user has"
                f" {episodes.shots} shots and {episodes.queries} queries of {context} characters each in the early"
                f" share {episodes.early_share:g}, and text to judge after it; got {minimum}; raise minimum, or"
                " lower episodes.shots"
            )
        super().__init__(Preprocessing(Windowing(context, hop=1), RawWindows()), episodes)
        self.writings = open_writings(path, user, text, order)
        self.path = path
        self.minimum = minimum
        self.held_out = checked_unseen(name, unseen)
        self.users_per_site = users_per_site
        self.context = context
        self.tokens = tokens
        self.given = None if alphabet is None else Alphabet(alphabet)
        self.seed = seed

    @cached_property
    def lengths(self) -> dict[str, int]:
        """How many characters each user wrote, of those who wrote enough.

        Raises:
            UserError: nobody did.
        """
        lengths = self.writings.lengths()
        enough = {user: length for user, length in lengths.items() if length >= self.minimum}
        if not enough:
            raise UserError(
                f"{self.path}: none of {len(lengths)} users wrote {self.minimum} characters, the most are"
                f" {max(lengths.values(), default=0)}; lower minimum, and episodes.shots with it"
            )
        return enough

    @cached_property
    def unseen_users(self) -> frozenset[str]:
        """The users that are held out.

        Raises:
            UserError: a pattern is of nobody's name, or there is nobody beside the one to hold out.
        """
        if isinstance(self.held_out, tuple):
            fits_none = f"is nobody's name of those with {self.minimum} characters or more"
            names = {user: (user,) for user in self.lengths}
            return frozenset(held_out_names(self._name, names, self.held_out, fits_none))
        return frozenset(held_out_share(self._name, self.lengths, self.held_out, self.seed))

    @cached_property
    def alphabet(self) -> Alphabet:
        """The characters that are known.

        Raises:
            UserError: nobody trains, who could say.
        """
        if self.given is not None:
            return self.given
        if self.unseen_users == self.lengths.keys():
            raise UserError(
                f"{self.path}: all {len(self.lengths)} users are unseen, so nothing says which characters there"
                " are; hold out fewer, or give the alphabet"
            )
        return Alphabet.of(self._early_texts(), self.tokens)

    @cached_property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]  # known once the texts have been looked at
        """What each token stands for."""
        return self.alphabet.names

    def read(self) -> Iterator[SiteRecordings]:
        """Sites of `users_per_site` users each, the training ones first."""
        for unseen in (False, True):
            users = [user for user in self.lengths if (user in self.unseen_users) == unseen]
            for number, begin in enumerate(range(0, len(users), self.users_per_site), 1):
                own = users[begin : begin + self.users_per_site]
                group = f"unseen-users{number}" if unseen else f"users{number}"
                site = own[0] if self.users_per_site == 1 else group
                yield SiteRecordings(site, unseen, partial(self._site, own))

    def _site(self, users: Sequence[str]) -> list[Recording]:
        return [
            Recording(
                user,
                condition="writing",
                target=NextSample(),
                sample_rate=1.0,  # characters have no time; this one counts them
                values=Stored((1, self.lengths[user]), partial(self._tokens, user)),
            )
            for user in users
        ]

    def _tokens(self, user: str) -> NDArray[np.float32]:
        return self.alphabet.encode(self.writings.read([user]).get(user, ""))

    def _early_texts(self) -> Iterator[str]:
        """What each training user wrote early."""
        together: list[str] = []
        characters = 0
        users = [user for user in self.lengths if user not in self.unseen_users]
        for user in users:
            together.append(user)
            characters += self.lengths[user]
            if characters >= TOGETHER or user == users[-1]:
                for text in self.writings.read(together).values():
                    ((early, _),) = split([len(text)], self.episodes.early_share, self.context)
                    yield text[early]
                together, characters = [], 0


def _refuse_other_episodes(fleet: str, episodes: Episodes) -> None:
    """Characters mean the same in every task, and come in no others but their natural frequencies.

    Raises:
        UserError: naming the settings that text needs.
    """
    needed = {
        "of": "as they come",
        "per": "window",
        "permute_labels": False,
        "own_order": False,
        "centre": False,
        "normal": None,
    }
    wrong = {name: value for name, value in needed.items() if getattr(episodes, name) != value}
    if wrong:
        remedy = ", ".join(
            f"{name}: {'null' if value is None else str(value).lower()}" for name, value in wrong.items()
        )
        got = ", ".join(str(getattr(episodes, name)) for name in wrong)
        raise UserError(
            f"{fleet}: a character means the same whoever writes it, and its number measures nothing; expected"
            f" episodes with {remedy}, got {got}"
        )


def _least_characters(episodes: Episodes, context: int) -> int:
    """The fewest characters of a user who can be trained on and judged."""
    early = episodes.early_windows(trains=True) + context
    late = 2 * context + 1  # the gap, and one window with the character that follows it
    by_early, by_late = early / episodes.early_share, late / (1 - episodes.early_share)
    return math.ceil(max(by_early, by_late)) + 1  # the split rounds down
