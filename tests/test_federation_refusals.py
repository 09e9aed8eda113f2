"""Who may not take part in a federation is refused: both ends say why in one sentence, and the others go on.

One federation, of real processes, trains through all of it; the strangers come at the same time.
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from federation_trial import Trial
from flare import PATIENCE
from test_parent import issued_anew

from fml_lightning import MAML, MLP
from fml_lightning.commands.demo_federation import DemoFederation
from fml_lightning.executors.agreement import agreement
from fml_lightning.executors.messages import Asked, outcome_of, request
from fml_lightning.executors.nvflare.envelope import WORK, Answer, Ask, FromHub, decode, encode
from fml_lightning.executors.nvflare.kit import Kit
from fml_lightning.executors.nvflare.local_link import SERVER_SOCKET, connect
from fml_lightning.executors.nvflare.namesakes import in_use_twice
from fml_lightning.executors.site_process import COPY
from fml_lightning.executors.wire import unpack
from fml_lightning.executors.work import SiteFailure, Work

pytestmark = pytest.mark.long

NOW, DAY = datetime.now(UTC), timedelta(days=1)
HONEST = "plant2"
"""The site that takes part in every round, whatever the others do."""


@pytest.fixture(scope="module")
def trial(kits: DemoFederation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A federation that trains with plant1 and plant2, and all that come and must not take part."""
    with Trial(kits, tmp_path_factory.mktemp("refusals") / "f") as trial:
        trial.up("plant1", HONEST)  # both take part from round 0 on
        later = ("--trainer.check_val_every_n_epoch=1000000", "--model.local_steps=1")
        trial.fit(1_000_000, *later, "--model.quorum=1", f"--model.executor.max_wait={PATIENCE}")
        kit = stranger(trial, "expired", "plant3")
        issued_anew(kits, kit, NOW - 3 * DAY, NOW - DAY)
        of_another_authority(stranger(trial, "foreign", "plant3"))
        other = trial.folder / "plant3.yaml"
        other.write_text(other.read_text().replace("lr: 0.3", "lr: 0.7"))
        for name in ("expired", "foreign"):
            trial.fml(name, "site", "--config", f"{name}.yaml", "--kit", f"kits/{name}")
        trial.site("plant3")
        old = stranger(trial, "old", "server")
        issued_anew(kits, old, NOW - 3 * DAY, NOW - DAY)
        trial.fml("old", "server", "--kit", "kits/old", "--folder", "server-old")
        trial.wait_for_round(lambda each: each[0] == 2, "a round of both sites", "fit")
        yield trial


def stranger(trial: Trial, name: str, of: str) -> Path:
    """A copy of a kit, and of its site.yaml with a folder of its own; the kit."""
    if (config := trial.folder / f"{of}.yaml").exists():
        (trial.folder / f"{name}.yaml").write_text(config.read_text().replace(f"sites/{of}", f"sites/{name}"))
    return Path(shutil.copytree(trial.folder / "kits" / of, trial.folder / "kits" / name))


def of_another_authority(kit: Path) -> None:
    """Have an authority of the same name, with another key, issue a kit's certificate."""
    key = rsa.generate_private_key(65537, 2048)
    for file in (kit / "startup/rootCA.pem", kit / "startup/client.crt"):
        old = x509.load_pem_x509_certificate(file.read_bytes())
        public = key.public_key() if file.name == "rootCA.pem" else old.public_key()
        assert isinstance(public, rsa.RSAPublicKey)
        made = x509.CertificateBuilder(
            old.issuer, old.subject, public, x509.random_serial_number(), NOW - DAY, NOW + DAY
        )
        made = made.add_extension(
            x509.BasicConstraints(ca=file.name == "rootCA.pem", path_length=None), critical=True
        )
        file.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    Kit(kit)


def told(trial: Trial, name: str, words: str) -> set[str]:
    """The different sentences of a log with these words, without what stands around them."""
    parts = re.split(
        r"\n| \| |PROBLEM: |WARNING: |WARNING \w+: |REFUSED: |plant\d sat round \d+ out: ", trial.log(name)
    )
    return {part for part in parts if words in part}


def both_say(trial: Trial, site: str, at_site: str, server: str, at_server: str) -> None:
    """Wait until both ends have told it; each in one sentence, and without a traceback."""
    for name, words in ((site, at_site), (server, at_server)):
        trial.wait_until(lambda name=name, words=words: words in trial.log(name), f"{name}: {words}", name)  # type: ignore[misc]
        assert len(told(trial, name, words)) == 1
        assert "Traceback" not in trial.log(name)


def honest_goes_on(trial: Trial) -> None:
    trial.wait_for_round(lambda each: each[0] >= 1, "another round", "fit")
    assert f"{HONEST} sat" not in trial.log("fit")


def test_an_expired_certificate(trial: Trial) -> None:
    both_say(
        trial, "expired", "expired on", "server", "a host is turned away, as its certificate has expired: renew it"
    )
    assert "fml provision renew" in told(trial, "expired", "expired on").pop()
    honest_goes_on(trial)


def test_another_authority(trial: Trial) -> None:
    both_say(trial, "foreign", "is of another CA than this kit's", "server", "a host breaks off when it sees")
    assert "make this host a kit" in told(trial, "foreign", "is of another CA").pop()
    # whoever trusts this server's authority nevertheless
    context = ssl.create_default_context(cafile=str(trial.folder / "kits/server/startup/rootCA.pem"))
    kit = trial.folder / "kits/foreign/startup"
    context.load_cert_chain(kit / "client.crt", kit / "client.key")
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("localhost", trial.port)) as line,
        context.wrap_socket(line, server_hostname="localhost") as greeted,
        suppress(OSError),
    ):
        assert greeted.recv(1) == b""
    trial.wait_until(lambda: "certificate is not of this federation's authority" in trial.log("server"), "it")
    honest_goes_on(trial)


def test_an_expired_server(trial: Trial) -> None:
    words = "the certificate of the server 'localhost' expired on"
    trial.wait_until(lambda: words in trial.log("old"), words, "old")
    (sentence,) = told(trial, "old", words)
    assert "fml provision renew localhost.signed.zip --kit" in sentence
    assert "Traceback" not in trial.log("old")


def test_another_learner(trial: Trial) -> None:
    words = "this site's learner is another one: "
    both_say(trial, "plant3", words, "fit", words)
    (sentence,) = {part.partition(words)[2] for part in told(trial, "fit", words)}
    assert "0.7" in sentence
    assert sentence.endswith("; configure both alike")
    honest_goes_on(trial)


def test_a_site_that_is_locked_out(trial: Trial) -> None:
    assert trial.fml("disable", "server", "disable", "plant3").wait(PATIENCE) == 0, trial.log("disable")
    both_say(
        trial, "plant3", "disabled plant3; whoever runs it can let it in again", "server", "plant3 is turned away"
    )
    assert "fml server enable plant3" in told(trial, "server", "plant3 is turned away").pop()
    honest_goes_on(trial)


def test_a_message_that_is_replayed(trial: Trial) -> None:
    trial.wait_until(lambda: "last run " in trial.log("server"), "the server to name the run", "server")
    run = re.findall(r"last run (\w+)", trial.log("server"))[-1]
    learner = agreement(MAML(MLP(3, 2)))
    copy = Asked(Work("fit", 0, {}, seed=0, local_steps=1, run=run), learner, stamp=1, deadline=PATIENCE)
    with connect(trial.folder / "server", SERVER_SOCKET) as link:
        ask = Ask(number=1, clients=[HONEST], topic=WORK, deadline=PATIENCE, most_bytes=10**6, data=request(copy))
        link.send(encode(ask))
        said: FromHub = decode(link.receive(PATIENCE), FromHub)
    assert isinstance(said, Answer)
    head, params = unpack(said.data)
    answered = outcome_of(head, params, HONEST, 0)
    outcome = answered if isinstance(answered, SiteFailure) else answered.outcome
    assert isinstance(outcome, SiteFailure)
    assert outcome.reason == COPY
    trial.wait_until(lambda: COPY in trial.log(HONEST), COPY)
    honest_goes_on(trial)


def test_another_sites_name(trial: Trial) -> None:
    kit = Kit(stranger(trial, "liar", "plant1"))
    kit.prepare(trial.folder / "sites/liar")
    config = kit.startup / "fed_client.json"
    config.write_text(config.read_text().replace('"fqsn": "plant1"', f'"fqsn": "{HONEST}"'))
    site = trial.fml("claims", "site", "--config", f"{HONEST}.yaml", "--kit", "kits/liar")
    assert site.wait(PATIENCE) == 1
    assert f"names '{HONEST}', but the certificate is that of 'plant1'" in trial.log("claims")
    client = ("-m", str(kit.folder), "-s", "fed_client.json", "--set", "secure_train=true", f"uid={HONEST}")
    module = "nvflare.private.fed.app.client.client_train"  # what fml site would not start
    trial.environment["FML_SITE"] = str(trial.folder / "sites/liar")
    trial.start("liar", "-m", module, *client, "org=fml", "config_folder=")
    words = f"calls itself {HONEST} with the certificate of plant1"
    trial.wait_until(lambda: words in trial.log("server"), words)
    assert "fml server disable plant1" in told(trial, "server", words).pop()
    trial.end("liar", signal.SIGKILL)
    honest_goes_on(trial)


def test_a_stolen_kit_that_runs_twice(trial: Trial) -> None:
    stranger(trial, "stolen", "plant1")
    trial.fml("stolen", "site", "--config", "stolen.yaml", "--kit", "kits/stolen")
    for name in ("server", "fit", "plant1", "stolen"):
        trial.wait_until(lambda name=name: "is in use twice" in trial.log(name), f"{name} to tell it", name)  # type: ignore[misc]
        assert told(trial, name, "is in use twice") == {in_use_twice("plant1")}
        assert "Traceback" not in trial.log(name)
    assert trial.log("server").count(in_use_twice("plant1")) == 1
    seen = len(trial.rounds())
    trial.wait_until(lambda: len(trial.rounds()) > seen + 3, "rounds of the honest site", "fit")
    assert {sites for sites, _ in trial.rounds()[seen + 1 :]} == {1}  # neither of the two takes part
    honest_goes_on(trial)
    # the way out that the sentence names
    assert trial.fml("disable", "server", "disable", "plant1").wait(PATIENCE) == 0, trial.log("disable")
    trial.wait_until(lambda: "plant1 is turned away" in trial.log("server"), "the lock")
    honest_goes_on(trial)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("server", "--kit", "kits/plant1"),
            "is the kit of the site 'plant1'; give the server's, or run fml site",
        ),
        (("site", "--config", "plant2.yaml", "--kit", "kits/server"), "is the server's; give that of the site"),
        (
            ("site", "--config", "plant2.yaml", "--kit", "kits/plant1"),
            "site: expected 'plant1', as the certificate",
        ),
        (("site", "--config", "plant2.yaml"), "--kit: expected the folder of this site's certificates, got none"),
        (("site", "--config", "plant2.yaml", "--kit", "kits/none"), "no such folder; name the folder that fml"),
        (
            ("fit", "--config", "federation.yaml", "--model.executor.folder=none", "--model.executor.max_wait=0"),
            "no server answers in none within 0 s; start it with fml server --kit KIT --folder FOLDER",
        ),
    ],
)
def test_what_cannot_work_ends_in_a_sentence(trial: Trial, arguments: tuple[str, ...], sentence: str) -> None:
    name = "_".join(arguments).replace("/", "_")[:80]
    assert trial.fml(name, *arguments).wait(PATIENCE) == 1
    assert len(told(trial, name, sentence)) == 1, trial.log(name)
    assert "Traceback" not in trial.log(name)
