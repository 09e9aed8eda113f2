"""Datamodules: sites and fleets of machines. Import them as `fml_lightning.datamodules`."""

if __name__ != "fml_lightning.datamodules":
    raise ImportError(
        f"'{__name__}' is part of fml_lightning: import it as 'fml_lightning.datamodules'"
        " (you are probably running Python from the project's root folder)"
    )

from fml_lightning.datamodules.cwru import CWRU, Selection
from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.features import Column, Concat, Features, RawWindows
from fml_lightning.datamodules.few_shot import FewShot
from fml_lightning.datamodules.fleet import Fleet, SiteRecordings
from fml_lightning.datamodules.omniglot import Omniglot
from fml_lightning.datamodules.simulated import SimulatedFleet
from fml_lightning.datamodules.site import SiteData
from fml_lightning.datamodules.spectral import LogBandPowers
from fml_lightning.datamodules.spool_fleet import SpoolFleet
from fml_lightning.datamodules.spool_site import SpoolSite, SpoolStream
from fml_lightning.datamodules.time_domain import TimeDomain
from fml_lightning.datamodules.windows import Machine, Recording, Windowing, Windows

__all__ = [
    "CWRU",
    "Column",
    "Concat",
    "Episodes",
    "Features",
    "FewShot",
    "Fleet",
    "LogBandPowers",
    "Machine",
    "Omniglot",
    "RawWindows",
    "Recording",
    "Selection",
    "SimulatedFleet",
    "SiteData",
    "SiteRecordings",
    "SpoolFleet",
    "SpoolSite",
    "SpoolStream",
    "TimeDomain",
    "Windowing",
    "Windows",
]
