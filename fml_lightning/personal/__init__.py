"""A machine's own model: `personalization` makes it, `personal_model` is what it is.

`model_file` is the file it is kept in, with `descriptions` of its network and objective, from which these are
`restored`. `seen_windows` is how it sees raw windows, and `reading` what it says of them.

`judgement` makes its `card`, with an `interval` of its metric and a verdict. `screening` looks for support windows
that may not be what their label says, and `steps` chooses how many inner steps to take. The `registry` keeps the
versions of every machine's model.

Names are imported when first used: card and registry need no torch.
"""

from typing import TYPE_CHECKING

from fml_lightning.lazy import attach

if TYPE_CHECKING:
    from fml_lightning.personal.card import Card
    from fml_lightning.personal.personal_model import PersonalModel
    from fml_lightning.personal.personalization import Personalization, personalize
    from fml_lightning.personal.reading import Reading
    from fml_lightning.personal.registry import Registry
    from fml_lightning.personal.screening import Suspect

__all__ = ["Card", "PersonalModel", "Personalization", "Reading", "Registry", "Suspect", "personalize"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "card": "Card",
        "personal_model": "PersonalModel",
        "personalization": "Personalization personalize",
        "reading": "Reading",
        "registry": "Registry",
        "screening": "Suspect",
    },
)
