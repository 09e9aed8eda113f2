"""The line of a long-running command in a log: what happens is there at once, progress now and then."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fml_lightning.commands import live_line
from fml_lightning.commands.live_line import ChangeLine
from fml_lightning.commands.server import ServerStatus
from fml_lightning.commands.server import _changes as of_server
from fml_lightning.commands.site import SiteStatus
from fml_lightning.commands.site import _changes as of_site
from fml_lightning.executors.nvflare.envelope import Carried
from fml_lightning.executors.nvflare.kit import Kit
from fml_lightning.executors.nvflare.parent import ParentStatus
from fml_lightning.executors.site_process import Done


class Clock(SimpleNamespace):
    """A clock that a test sets."""

    now = 5.0

    def monotonic(self) -> float:
        return self.now

    def strftime(self, form: str) -> str:
        return "now"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(live_line, "time", made)
    return made


def test_a_log_has_every_change_and_progress_once_a_minute(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with ChangeLine() as line:
        for second in range(150):  # a round every second; the connection is lost at 100 s, for 10 s
            clock.now = 5.0 + second
            line.show(f"{second}", not 100 <= second < 110, second)
        clock.now += 1000
        line.show("idle", True, 149)
        clock.now += 1000
        line.show("still idle", True, 149)
    assert capsys.readouterr().err.split("\n") == ["now 0", "now 60", "now 100", "now 110", "now idle", ""]


def kit() -> Kit:
    made: Kit = SimpleNamespace(warning=lambda: None, days_left=lambda: 700.0)  # type: ignore[assignment]
    return made


def test_a_sites_round_is_progress_and_its_run_and_connection_are_changes() -> None:
    def at(round_: int, run: str = "r1", *, connected: bool = True) -> tuple[object, object]:
        done = Done("fit", round_, run, 10.0 * round_, 0.4, None)
        return of_site(SiteStatus("plant1", kit(), ParentStatus(True, connected), done, round_, 0, 1))

    assert at(1)[0] == at(2)[0]
    assert at(1)[1] != at(2)[1]
    assert at(1)[0] != at(1, "r2")[0]
    assert at(1)[0] != at(1, connected=False)[0]


def test_a_servers_round_is_progress_and_its_sites_are_changes() -> None:
    def at(round_: int, *sites: str) -> tuple[object, object]:
        carried = Carried(askings=round_, run="r1", round=round_)
        return of_server(ServerStatus(kit(), ParentStatus(True, True), dict.fromkeys(sites, 0.0), carried))

    assert at(1, "plant1")[0] == at(2, "plant1")[0]
    assert at(1, "plant1")[1] != at(2, "plant1")[1]
    assert at(1, "plant1")[0] != at(1)[0]
