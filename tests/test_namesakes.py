"""Two hosts under one name are told from one that was started again; whom a server turns away is told once."""

from __future__ import annotations

import pytest

from fml_lightning.commands.demo_federation import DemoFederation
from fml_lightning.executors.nvflare import namesakes as namesakes_module
from fml_lightning.executors.nvflare import turned_away as turned_away_module
from fml_lightning.executors.nvflare.kit import Kit
from fml_lightning.executors.nvflare.namesakes import HOLD, TOLD, Namesakes, in_use_twice
from fml_lightning.executors.nvflare.turned_away import QUIET, TurnedAway


class Clock:
    """A clock that goes on by a second with every look, and as a test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(namesakes_module, "time", made)
    monkeypatch.setattr(turned_away_module, "time", made)
    return made


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("heard", "twice"),
    [
        ("A", False),
        ("AAAA", False),
        ("AB", False),  # started again
        ("AABBC", False),  # and again
        ("ABA", True),
        ("ABCA", True),
        ("ABCB", True),
        ("ABABAB", True),
    ],
)
def test_an_old_token_that_is_heard_after_a_newer_one_is_another_hosts(heard: str, twice: bool) -> None:
    namesakes = Namesakes()
    for token in heard:
        namesakes.hear("plant1", token)
        namesakes.hear("plant2", "only")
    assert namesakes.has("plant1") == twice
    assert namesakes.names() == (["plant1"] if twice else [])


@pytest.mark.usefixtures("clock")
def test_a_token_that_was_given_out_counts_before_it_is_heard() -> None:
    namesakes = Namesakes()
    namesakes.hear("plant1", "A", registered="A")
    namesakes.hear("plant1", "A", registered="B")  # another host has registered, and A is still there
    assert namesakes.has("plant1")


def test_whoever_is_left_has_the_name_again(clock: Clock) -> None:
    namesakes = Namesakes()
    for token in "ABA":
        namesakes.hear("plant1", token)
    clock.now += HOLD - 10
    namesakes.hear("plant1", "A")
    assert namesakes.has("plant1")
    clock.now += 20
    namesakes.hear("plant1", "A")
    assert not namesakes.has("plant1")
    namesakes.hear("plant1", "B")
    namesakes.hear("plant1", "A")
    assert namesakes.has("plant1")


def test_the_sentence_is_found_in_a_log() -> None:
    found = TOLD.search(f"2026-11-27 09:17:45,852 - ServerHub - WARNING - {in_use_twice('plant-1.x')}")
    assert found is not None
    assert found[1] == "plant-1.x"


HANDSHAKE = (
    "I1127 09:03:44.853314 7728 ssl_transport_security.cc:2563] Handshake failed with error SSL_ERROR_SSL:"
    " error:1000007d:SSL routines:OPENSSL_internal:"
)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"{HANDSHAKE}CERTIFICATE_VERIFY_FAILED: certificate has expired", "has expired: renew it there"),
        (f"{HANDSHAKE}CERTIFICATE_VERIFY_FAILED: certificate is not yet valid", "not valid yet: set the clocks"),
        (f"{HANDSHAKE}CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate", "authority SHA256:"),
        (f"{HANDSHAKE}CERTIFICATE_VERIFY_FAILED: self signed certificate", "not of this federation's authority"),
        (f"{HANDSHAKE}BLOCK_TYPE_IS_NOT_01: certificate signature failure", "not of this federation's authority"),
        (f"{HANDSHAKE}PEER_DID_NOT_RETURN_A_CERTIFICATE: Invalid certificate verification context", "shows no"),
        (f"{HANDSHAKE}BAD_PACKET_LENGTH: Invalid certificate verification context", "breaks off when it sees"),
        (
            "conn_manager - ERROR - Error processing frame: CommError: Code: BAD_DATA Error: connection CN00002"
            " authenticated as 'plant1' but claimed endpoint 'plant2' requires identity 'plant2'",
            "calls itself plant2 with the certificate of plant1",
        ),
        ("x - ClientManager - WARNING - Reject disabled client heartbeat: plant1", "fml server enable plant1"),
        ("x - ClientManager - WARNING - Reject disabled client registration: plant1", "plant1 is turned away"),
        (f"x - ServerHub - WARNING - {in_use_twice('plant1')}", "plant1 is in use twice"),
    ],
)
def test_each_reason_is_told_once_until_it_has_been_quiet(
    line: str, words: str, kits: DemoFederation, clock: Clock
) -> None:
    turned_away = TurnedAway(Kit(kits.kit("server")))
    for _ in range(3):
        turned_away.line(line)
    (sentence,) = turned_away.news()
    assert words in sentence
    turned_away.line(line)
    assert turned_away.news() == []
    clock.now += QUIET
    turned_away.line(line)
    assert turned_away.news() == [sentence]


def test_a_liar_cannot_fill_the_log_with_names(kits: DemoFederation) -> None:
    turned_away = TurnedAway(Kit(kits.kit("server")))
    for number in range(50):
        turned_away.line(f"authenticated as 'plant1' but claimed endpoint 'x{number}' requires identity 'x'")
    assert len(turned_away.news()) == 1


def test_other_lines_are_nobodys_refusal(kits: DemoFederation) -> None:
    turned_away = TurnedAway(Kit(kits.kit("server")))
    turned_away.line(
        "2026-11-27 09:00:58,981 - ClientManager - INFO - Client: New client plant1@192.0.2.2 joined."
    )
    assert turned_away.news() == []
