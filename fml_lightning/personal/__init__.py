"""A machine's own model: `personalization` makes it, `personal_model` is what it is.

`model_file` is the file it is kept in, with `descriptions` of its network and objective, from which these are
`restored`. `seen_windows` is how it sees raw windows, and `reading` what it says of them.

`screening` looks for support windows that may not be what their label says.
"""

from fml_lightning.personal.personal_model import PersonalModel
from fml_lightning.personal.personalization import Personalization, personalize
from fml_lightning.personal.reading import Reading
from fml_lightning.personal.screening import Suspect

__all__ = ["PersonalModel", "Personalization", "Reading", "Suspect", "personalize"]
