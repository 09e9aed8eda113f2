"""What a site's own configuration, `site.yaml`, says: who it is, what it learns, from what, and what may leave."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt

from fml_lightning.commands.parsing.arguments import Parser
from fml_lightning.commands.parsing.learning_parser import import_public_names, note_arguments
from fml_lightning.commands.process import Port, parser, settings_of
from fml_lightning.datamodules import Fleet, SiteData
from fml_lightning.executors.consent import Consent
from fml_lightning.learners.learner import Learner
from fml_lightning.names import file_name

SITES = Path("sites")
"""Below which each site has its folder, unless it says otherwise."""


class OpenSite(NamedTuple):
    """A site of a configuration, with its data."""

    name: str
    learner: Learner
    fleet: Fleet
    data: SiteData
    folder: Path
    consent: Consent


@dataclass(frozen=True)
class SiteConfig:
    """A site's configuration, read; its data are not opened yet."""

    site: str
    learner: Learner
    data: Fleet
    folder: Path
    consent: Consent
    accelerator: str
    precision: Literal["32-true", "bf16-mixed"]
    threads: int
    kit: str | None
    metrics_port: int | None
    metrics_host: str


def open_site(config: str | Path, since: str | None = None) -> OpenSite:
    """The site of a configuration, for `fml predict` and `fml personalize`; nothing of other sites is read.

    Args:
        config: the YAML file that `fml site --config` takes.
        since: from which on windows and labels count (`SpoolFleet.since`); None: as the file says.

    Raises:
        UserError: a setting cannot be used, or the data have no such site.
        SystemExit: a setting is refused; a sentence on stderr says which.
    """
    arguments = ["--config", str(config)]
    read = read_site_config(arguments if since is None else [*arguments, "--data.since", since])
    data = read.data.site(read.site)
    return OpenSite(read.site, read.learner, read.data, data, read.folder, read.consent)


def read_site_config(arguments: Sequence[str]) -> SiteConfig:
    """What the command line of `fml site`, and the file after `--config`, say."""
    import_public_names()
    settings = settings_of(_options(), arguments, _complete)
    folder = settings.pop("folder")
    del settings["seed_everything"]
    return SiteConfig(folder=Path(folder or SITES / file_name(settings["site"])).absolute(), **settings)


def _options() -> Parser:
    options = parser("site")
    note_arguments(options)
    options.add_argument(
        "--site", type=str, required=True, help="what the fleet calls this site; the name of its certificate"
    )
    options.add_subclass_arguments(
        Learner, "learner", required=True, help="what is learned, with the server's settings"
    )
    options.add_subclass_arguments(
        Fleet, "data", required=True, help="the fleet that this site is in; its own data alone are opened"
    )
    assert options.groups is not None
    options.groups["learner"].title, options.groups["data"].title = "the learner", "the data"
    options.add_argument(
        "--folder",
        type=str | None,
        default=None,
        help="where the site keeps what is personal, and what has left it (sent.jsonl); sites/NAME unless set",
    )
    options.add_class_arguments(Consent, "consent")
    options.add_argument("--accelerator", type=str, default="cpu", help="what the site's Trainer runs on")
    options.add_argument(
        "--precision", type=Literal["32-true", "bf16-mixed"], default="32-true", help="of the site's Trainer"
    )
    options.add_argument("--threads", type=PositiveInt, default=1, help="processor cores that the work may use")
    options.add_argument(
        "--seed_everything", type=int, default=0, help="as of fml fit: personal parameters begin with its numbers"
    )
    options.add_argument(
        "--kit", type=str | None, default=None, help="the folder of certificates, of fml provision package"
    )
    options.add_argument("--metrics_port", type=Port | None, default=None, help="serve Prometheus metrics here")
    options.add_argument("--metrics_host", type=str, default="127.0.0.1", help="address to serve them at")
    return options


def _complete(parsed: Namespace) -> None:
    """What must hold before the learner is made: it draws its first parameters as in `fml fit`."""
    torch.set_num_threads(int(parsed.threads))
    seed = parsed.seed_everything
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
