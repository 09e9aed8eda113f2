"""A machine's own model: `personalization` makes it, `personal_model` is what it is.

`screening` looks for support windows that may not be what their label says.
"""

from fml_lightning.personal.personal_model import PersonalModel
from fml_lightning.personal.personalization import Personalization, personalize
from fml_lightning.personal.screening import Suspect

__all__ = ["PersonalModel", "Personalization", "Suspect", "personalize"]
