"""A machine's own model: `personalization` makes it, `personal_model` is what it is."""

from fml_lightning.personal.personal_model import PersonalModel
from fml_lightning.personal.personalization import Personalization, personalize

__all__ = ["PersonalModel", "Personalization", "personalize"]
