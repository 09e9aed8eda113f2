"""What tests of a real federation share: `kits` of one authority, made once, which `conftest` makes known."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fml_lightning.commands.demo_federation import DemoFederation

SITES = 3


@pytest.fixture(scope="session")
def kits(tmp_path_factory: pytest.TempPathFactory) -> DemoFederation:
    """A server and three sites of this machine, by `fml provision demo`; tests copy what they change."""
    demo = DemoFederation(SITES, str(tmp_path_factory.mktemp("federation") / "demo"))
    demo.make(lambda line: None)
    return demo


def kit_folder(demo: DemoFederation, name: str, to: Path) -> Path:
    """A copy of a kit of `kits`, of a site or of the `server`, that a test may change."""
    return Path(shutil.copytree(demo.kit(name), to / name))
