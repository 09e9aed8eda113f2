"""Datamodules: sites and fleets of machines. Import them as `fml_lightning.datamodules`.

Read `recordings`, `windows`, `machine_windows` and `episodes` for what data are, in the order in which one becomes
the other; `site` and `fleet` for who has them, `nameplates` for what is known of machines beside; `loaders` for
what a Trainer iterates; then one file per data set, `files/` for recordings in files, `table/` for rows of ready
features, `spool/` for sites whose data are streams. What turns signals into features is
`fml_lightning.preprocessing`.

Names are imported when first used: a data set needs only its own libraries.
"""

if __name__ != "fml_lightning.datamodules":
    raise ImportError(
        f"'{__name__}' is part of fml_lightning: import it as 'fml_lightning.datamodules'"
        " (you are probably running Python from the project's root folder)"
    )

from typing import TYPE_CHECKING

from fml_lightning.lazy import attach

if TYPE_CHECKING:
    from fml_lightning.datamodules.cmapss import CMAPSS
    from fml_lightning.datamodules.cwru import CWRU, Selection
    from fml_lightning.datamodules.episodes import Episodes
    from fml_lightning.datamodules.few_shot import FewShot
    from fml_lightning.datamodules.files.csv_file import CsvFormat
    from fml_lightning.datamodules.files.fleet import Files
    from fml_lightning.datamodules.fleet import Fleet, SiteRecordings
    from fml_lightning.datamodules.heart_hospitals import HeartHospitals
    from fml_lightning.datamodules.joined_fleets import JoinedFleets
    from fml_lightning.datamodules.machine_windows import MachineWindows
    from fml_lightning.datamodules.mfpt import MFPT
    from fml_lightning.datamodules.omniglot import Omniglot
    from fml_lightning.datamodules.recordings import NextSample, Ramp, Recording
    from fml_lightning.datamodules.remote_fleet import RemoteFleet, RemoteSite
    from fml_lightning.datamodules.shoulder_watch import ShoulderWatch
    from fml_lightning.datamodules.simulated import SimulatedFleet
    from fml_lightning.datamodules.site import SiteData
    from fml_lightning.datamodules.skab import SKAB
    from fml_lightning.datamodules.speeches import Speeches
    from fml_lightning.datamodules.spool.fleet import SpoolFleet
    from fml_lightning.datamodules.spool.site import SpoolSite
    from fml_lightning.datamodules.spool.stream import SpoolStream
    from fml_lightning.datamodules.table.fleet import Table
    from fml_lightning.datamodules.text import Text
    from fml_lightning.datamodules.uci_fan import UCIFan
    from fml_lightning.datamodules.windows import Windows

__all__ = [
    "CMAPSS",
    "CWRU",
    "MFPT",
    "SKAB",
    "CsvFormat",
    "Episodes",
    "FewShot",
    "Files",
    "Fleet",
    "HeartHospitals",
    "JoinedFleets",
    "MachineWindows",
    "NextSample",
    "Omniglot",
    "Ramp",
    "Recording",
    "RemoteFleet",
    "RemoteSite",
    "Selection",
    "ShoulderWatch",
    "SimulatedFleet",
    "SiteData",
    "SiteRecordings",
    "Speeches",
    "SpoolFleet",
    "SpoolSite",
    "SpoolStream",
    "Table",
    "Text",
    "UCIFan",
    "Windows",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "cmapss": "CMAPSS",
        "cwru": "CWRU Selection",
        "episodes": "Episodes",
        "few_shot": "FewShot",
        "files.csv_file": "CsvFormat",
        "files.fleet": "Files",
        "fleet": "Fleet SiteRecordings",
        "heart_hospitals": "HeartHospitals",
        "joined_fleets": "JoinedFleets",
        "machine_windows": "MachineWindows",
        "mfpt": "MFPT",
        "omniglot": "Omniglot",
        "remote_fleet": "RemoteFleet RemoteSite",
        "shoulder_watch": "ShoulderWatch",
        "simulated": "SimulatedFleet",
        "site": "SiteData",
        "speeches": "Speeches",
        "spool.fleet": "SpoolFleet",
        "spool.site": "SpoolSite",
        "spool.stream": "SpoolStream",
        "recordings": "NextSample Ramp Recording",
        "text": "Text",
        "skab": "SKAB",
        "table.fleet": "Table",
        "uci_fan": "UCIFan",
        "windows": "Windows",
    },
)
