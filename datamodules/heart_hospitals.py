"""The UCI heart disease data, by hospital: has a patient a narrowed artery?

Janosi, Steinbrunn, Pfisterer, Detrano, Heart Disease, UCI 1988. https://doi.org/10.24432/C52P4X. The split by
hospital, and its preparation: Ogier du Terrail et al., FLamby, NeurIPS 2022. https://arxiv.org/abs/2210.04620
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from fml_lightning.datamodules.data_folder import file_below
from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.table.fleet import Table

NUMBERS = ("age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak")
CODES = ("cp", "restecg")
OFTEN_MISSING = (("ca",), ("slope", "thal"))
"""Numbers and codes that FLamby leaves out: two of the four hospitals hardly have them."""


class HeartHospitals(Table):
    """Four hospitals as sites of one machine each, whose rows are patients, in the order of the file.

    Classes are `healthy` (`num` 0) and `ill` (1 to 4). Cholesterol is 0 in Switzerland, where nobody measured it.
    Of Switzerland's 46 complete patients 45 are ill; the one who is healthy is left out, for there is none to
    judge by. So Switzerland can train, but an unseen Switzerland tells nothing.

    Args:
        root: folder with `heart_hospitals.csv`, or the folder above its folder `heart_hospitals`.
        unseen: hospitals held out, of cleveland, hungarian, switzerland, va; or a share of them.
        preparation: `flamby` leaves out slope, ca and thal, then patients with gaps: 303, 261, 46 and 130 are
            left. `all` keeps all 920 patients and 13 columns; a gap becomes 0, with a column beside it that tells
            so.
        episodes: how episodes are drawn; 5 patients of each class are support unless you say otherwise. Labels
            mean the same at every hospital.
    """

    def __init__(
        self,
        root: str,
        unseen: Sequence[str] | float = ("va",),
        preparation: Literal["flamby", "all"] = "flamby",
        episodes: Episodes = Episodes(shots=5, queries=10, permute_labels=False),  # noqa: B008
    ) -> None:
        more_numbers, more_codes = OFTEN_MISSING if preparation == "all" else ((), ())
        super().__init__(
            str(file_below("HeartHospitals", root, "heart_hospitals", "heart_hospitals.csv")),
            site="hospital",
            target="num",
            positive=(1, 2, 3, 4),
            classes=("healthy", "ill"),
            features=(*NUMBERS, *more_numbers),
            categories=(*CODES, *more_codes),
            missing="drop" if preparation == "flamby" else "zero",
            unseen=unseen,
            episodes=episodes,
        )
