"""Texts as a fleet: who is read when, what is support and what is judged, and how the next token is measured."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from fml_lightning import MAML, FedAvg, InnerLoop, NextToken, NextTokenGRU
from fml_lightning.adaptation.inner_loop import last, trajectory
from fml_lightning.commands.learning import run
from fml_lightning.commands.report import chart_title, prediction_table, table
from fml_lightning.datamodules import Episodes, MachineWindows, NextSample, Recording, SiteData, Speeches, Text
from fml_lightning.datamodules.alphabet import UNKNOWN, Alphabet
from fml_lightning.datamodules.machine_windows import cut_machines
from fml_lightning.datamodules.text import AS_WRITTEN
from fml_lightning.datamodules.writings import WritingsTable, open_writings
from fml_lightning.errors import UserError
from fml_lightning.federation.machine_result import MachineResult
from fml_lightning.preprocessing import Preprocessing, RawWindows, Windowing
from fml_lightning.types import Episode, Examples, Prediction

REPOSITORY = Path(__file__).parent.parent
USERS = ("ada", "bea", "cyd", "dot", "eve", "fay", "gus", "hal")
FEW: dict[str, Any] = {**vars(AS_WRITTEN), "shots": 60, "queries": 20}


def written(user: str) -> list[str]:
    """Twelve messages of 39 characters: with the breaks between them 479. Early ones hold no `~`, late ones do."""
    rng = random.Random(user)
    early = ["".join(rng.choices("abcdefg ", k=38)) + user[0] for _ in range(6)]
    return early + ["".join(rng.choices("abcdefg~", k=38)) + user[0] for _ in range(6)]


@pytest.fixture
def messages(tmp_path: Path) -> Path:
    """What eight users wrote, one message a row, in no order."""
    rows = [(user, n, text) for user in USERS for n, text in enumerate(written(user))]
    random.Random(0).shuffle(rows)
    path = tmp_path / "messages.parquet"
    pl.DataFrame(rows, schema=["user", "sent", "text"], orient="row").write_parquet(path)
    return path


def text(path: Path, **settings: Any) -> Text:
    """The messages as a fleet."""
    return Text(
        str(path),
        **{"order": "sent", "minimum": 300, "context": 5, "tokens": 40, "episodes": Episodes(**FEW), **settings},
    )


def spelled(fleet: Text, tokens: Any) -> str:
    """Tokens as text."""
    return "".join(fleet.classes[int(token)] for token in tokens)


def test_an_alphabet_numbers_its_characters_and_knows_no_others() -> None:
    alphabet = Alphabet("ba\U0001f600")
    assert alphabet.names == (UNKNOWN, "b", "a", "\U0001f600")
    np.testing.assert_array_equal(alphabet.encode("ab\U0001f600zé" + UNKNOWN), [2, 1, 3, 0, 0, 0])
    assert alphabet.encode("").shape == (0,)
    assert Alphabet.of(["aab", "bcc", UNKNOWN * 9], 3).characters == "ab"  # of equals, the first in Unicode
    for wrong in ("", "aa"):
        with pytest.raises(UserError, match="each once"):
            Alphabet(wrong)


def test_windows_of_a_text_have_the_next_character_as_class() -> None:
    """By hand: 10 characters of context 2, half of them early."""
    recording = Recording("ada", "writing", NextSample(), 1.0, np.arange(10))
    (machine,) = cut_machines([recording], Preprocessing(Windowing(2, hop=1), RawWindows()), 0.5)
    np.testing.assert_array_equal(machine.early.x, [[0, 1], [1, 2], [2, 3]])
    np.testing.assert_array_equal(machine.early.label, [2, 3, 4])
    np.testing.assert_array_equal(machine.late.x, [[7, 8]])  # after a gap of one context: 5 and 6
    np.testing.assert_array_equal(machine.late.label, [9])
    assert recording.label == 0
    assert not recording.is_number


def test_a_text_with_a_class_for_every_window_may_have_a_hop() -> None:
    recording = Recording("ada", "writing", NextSample(), 1.0, np.arange(20))
    (machine,) = cut_machines([recording], Preprocessing(Windowing(3, hop=2), RawWindows()), 0.5)
    np.testing.assert_array_equal(machine.early.label, machine.early.x[:, -1] + 1)
    np.testing.assert_array_equal(machine.early.x[:, 0], [0, 2, 4, 6])
    np.testing.assert_array_equal(machine.late.x[:, 0], [13, 15])


def test_support_is_what_was_written_first_and_queries_come_later(messages: Path) -> None:
    fleet = text(messages)
    fleet.setup("fit")
    assert len(fleet.sites) == 6
    assert len(fleet.unseen) == 2
    for name, site in {**fleet.sites, **fleet.unseen}.items():
        whole = "\n".join(written(name))
        known = whole.replace("~", UNKNOWN)
        episode = site.personal_episode(name, seed=3)
        support, query = episode.support, episode.query
        assert spelled(fleet, support.x[0, 0]) + spelled(fleet, support.y[0]) == known[:65]
        assert spelled(fleet, query.x[0, 0]) + spelled(fleet, query.y[0]) == known[len(whole) // 2 + 5 :]
        assert episode.centre is not None
        assert not episode.centre.any()


def test_no_character_of_late_text_or_of_unseen_users_is_in_the_alphabet(messages: Path) -> None:
    fleet = text(messages)
    fleet.setup("fit")
    initials = {user[0] for user in fleet.sites}
    assert "~" not in fleet.classes
    early = "".join("\n".join(written(user))[: 479 // 2] for user in fleet.sites)
    assert set(fleet.classes) == {UNKNOWN, *early}
    assert initials <= set(fleet.classes)
    assert not {user[0] for user in fleet.unseen} & set(fleet.classes) - set("abcdefg")
    site = fleet.site("ada")
    (machine,) = site.machines
    assert not (machine.early.label == 0).any()  # its own early characters are known
    assert (machine.late.label == 0).any()
    assert len(text(messages, tokens=4).classes or fleet.classes) == 4


def test_training_reads_no_unseen_user(messages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    read = WritingsTable.read

    def spy(self: WritingsTable, users: list[str]) -> dict[str, str]:
        asked.extend(users)
        return read(self, users)

    monkeypatch.setattr(WritingsTable, "read", spy)
    fleet = text(messages)
    fleet.setup("fit")
    assert set(asked) == set(fleet.sites)  # for the alphabet
    for site in fleet.sites.values():
        next(iter(site.train_dataloader()))
    assert not set(asked) & set(fleet.unseen)
    asked.clear()
    name = next(iter(fleet.unseen))
    alone = text(messages, alphabet="abcdefg ").site(name)
    assert not asked
    assert alone.machines[0].name == name
    assert asked == [name]


def test_the_order_of_rows_and_the_kind_of_file_change_nothing(messages: Path, tmp_path: Path) -> None:
    frame = pl.read_parquet(messages)
    csv = tmp_path / "messages.csv"
    frame.reverse().write_csv(csv)  # 10 and 11 come after 9, though they are text there
    folder = tmp_path / "folder"
    for user in USERS[:4]:
        (folder / user).mkdir(parents=True)
        for n, message in enumerate(written(user)):
            (folder / user / f"{n}.txt").write_text(message)
    for user in USERS[4:]:
        (folder / f"{user}.txt").write_text("\n".join(written(user)))
    expected = text(messages)
    expected.setup("fit")
    for other in (text(csv), text(folder, order=None)):
        other.setup("fit")
        assert other.classes == expected.classes
        assert list(other.sites) == list(expected.sites)
        for name, site in {**expected.sites, **expected.unseen}.items():
            own = other.site(name).machines[0]
            np.testing.assert_array_equal(own.early.x, site.machines[0].early.x)
            np.testing.assert_array_equal(own.late.label, site.machines[0].late.label)


def test_users_share_sites_and_patterns_hold_them_out(messages: Path) -> None:
    fleet = text(messages, users_per_site=3, unseen=["[gh]*"])
    fleet.setup("fit")
    assert {name: site.machine_names for name, site in fleet.sites.items()} == {
        "users1": ["ada", "bea", "cyd"],
        "users2": ["dot", "eve", "fay"],
    }
    assert {name: site.machine_names for name, site in fleet.unseen.items()} == {"unseen-users1": ["gus", "hal"]}
    assert fleet.site_of("eve") is fleet.sites["users2"]
    assert text(messages, seed=1).unseen_users != text(messages, seed=0).unseen_users
    assert text(messages, seed=1).unseen_users == text(messages, seed=1).unseen_users
    assert not text(messages, unseen=0.0).unseen_users
    assert len(text(messages, unseen=0.01).unseen_users) == 1
    assert len(text(messages, unseen=0.99).unseen_users) == 7
    assert pickle.loads(pickle.dumps(fleet.site("users1"))).machine_names == ["ada", "bea", "cyd"]


def test_users_who_wrote_too_little_are_left_out(messages: Path) -> None:
    frame = pl.concat(
        [pl.read_parquet(messages), pl.DataFrame({"user": ["ida"], "sent": [0], "text": ["x" * 299]})]
    )
    frame.write_parquet(messages)
    fleet = text(messages)
    assert "ida" not in fleet.lengths
    assert fleet.lengths["ada"] == 479
    with pytest.raises(UserError, match="none of 9 users wrote 480 characters, the most are 479"):
        text(messages, minimum=480).setup("fit")


def test_one_column_alone_may_not_say_who_wrote(messages: Path) -> None:
    pl.read_parquet(messages).with_columns(chat=pl.lit("home")).write_parquet(messages)
    assert list(text(messages, user=["chat", "user"]).lengths)[:2] == ["home, ada", "home, bea"]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"minimum": 100}, r"a minimum of at least 171 characters.*got 100; raise minimum, or lower"),
        (
            {"episodes": Episodes()},
            "episodes with of: as they come, permute_labels: false, centre: false, got each",
        ),
        ({"episodes": Episodes(**{**FEW, "own_order": True})}, "own_order: false, got True"),
        ({"unseen": 1.0}, r"a number in \[0, 1\), got 1.0"),
        ({"unseen": "zoe"}, "a list of patterns of names, or a share, got 'zoe'"),
        ({"unseen": ["*"]}, "all 8 users are unseen"),
        ({"unseen": ["zoe"]}, "unseen names 'zoe', which is nobody's name .*; there are ada, bea"),
        ({"alphabet": "abc", "tokens": 3}, "at most 2 characters.*got 3"),
        ({"tokens": 1}, "tokens of at least 2"),
        ({"user": "who"}, "expected a column 'who', got 'user', 'sent', 'text'"),
        ({"text": "sent"}, "expected text in the column 'sent', got Int64"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], match: str, messages: Path) -> None:
    with pytest.raises(UserError, match=match):
        text(messages, **settings).setup("fit")


def test_what_is_missing_is_named_by_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "messages.csv"
    path.write_text('user,sent,text\nada,1,"two\nlines"\nada,2,one\n,3,whose\n')
    with pytest.raises(UserError, match=r"messages.csv, line 5, column user: expected a value, got none"):
        text(path).setup("fit")
    path.write_text("user,sent,text\nada,1,one\nada,,two\n")
    with pytest.raises(UserError, match=r"messages.csv, line 3, column sent:"):
        text(path).setup("fit")
    path.write_text("user,sent,text\nada,1,\n")
    with pytest.raises(UserError, match=r"messages.csv, line 2, column text:"):
        text(path).setup("fit")
    path.write_bytes(b"user,sent,text\nada,1,\xff\xfe\n")
    with pytest.raises(UserError, match=r"messages.csv, below line 0: the text is not UTF-8"):
        text(path).setup("fit")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"expected USER.txt or USER/ANYTHING.txt in it, found neither"):
        text(tmp_path / "folder").setup("fit")
    (tmp_path / "folder" / "ada.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"ada.txt: expected text in UTF-8"):
        text(tmp_path / "folder").setup("fit")
    with pytest.raises(UserError, match="is it there"):
        text(tmp_path / "nowhere")


def test_the_fewest_characters_are_enough_and_one_fewer_is_not(tmp_path: Path) -> None:
    """Sixty shots and 20 queries of context 5 need 85 early characters."""
    for length in (171, 170):
        (tmp_path / "ada.txt").write_text("ab" * (length // 2) + "a" * (length % 2))
        fleet = Text(str(tmp_path), minimum=171, unseen=0.0, context=5, episodes=Episodes(**FEW))
        if length == 171:
            next(iter(fleet.site("ada").train_dataloader()))
        else:
            with pytest.raises(UserError, match="none of 1 users"):
                fleet.site("ada")


# Episodes ---------------------------------------------------------------------------------------------------


def test_training_may_have_fewer_shots_than_a_machine(site: SiteData) -> None:
    episodes = Episodes(shots=4, training_shots=1, queries=2, tasks=2, repeats=1)
    trained = SiteData("plant", site.recordings, site.preprocessing, episodes)
    (training, *_) = trained.train_dataloader()
    assert training.support.y.shape == (2, 2)  # two classes of one shot
    assert trained.personal_episode("fan", 0).support.y.shape == (1, 8)
    with pytest.raises(UserError, match="training_shots"):
        Episodes(training_shots=0)


# NextToken --------------------------------------------------------------------------------------------------


def test_the_metrics_of_the_next_token_by_hand() -> None:
    """Chances .4, .3, .2, .1 and nearly none: of four windows one is right, two are among the three likeliest."""
    chances = torch.tensor([0.1, 0.4, 0.3, 0.2, 1e-9]).log().expand(1, 4, 5)
    labels = torch.tensor([[1, 3, 0, 4]])  # right; third; unknown, fourth; never
    objective = NextToken()
    metrics = objective.metrics(chances, Examples(torch.zeros(1, 4), labels))
    loss = -(math.log(0.4) + math.log(0.2) + math.log(0.1) + math.log(1e-9)) / 4
    assert metrics["accuracy"].item() == pytest.approx(0.25)
    assert metrics["top_3_accuracy"].item() == pytest.approx(0.5)
    assert metrics["loss"].item() == pytest.approx(loss, rel=1e-5)
    assert metrics["perplexity"].item() == pytest.approx(math.exp(loss), rel=1e-4)
    assert set(metrics) == {"accuracy", "top_3_accuracy", "perplexity", "loss"} == set(objective.own_metrics)


def test_a_uniform_guess_has_the_perplexity_of_its_choice() -> None:
    examples = Examples(torch.zeros(2, 3), torch.tensor([[1, 2, 3], [4, 5, 6]]))
    metrics = NextToken().metrics(torch.zeros(2, 3, 7), examples)
    torch.testing.assert_close(metrics["perplexity"], torch.tensor([7.0, 7.0]))


def test_nobody_can_type_the_unknown_token() -> None:
    logits = torch.tensor([[[9.0, 1.0, 0.0, 0.0], [9.0, 1.0, 0.0, 0.0]]])
    examples = Examples(torch.zeros(1, 2), torch.tensor([[0, 1]]))
    assert NextToken().metrics(logits, examples)["accuracy"].item() == 0
    assert NextToken().metrics(logits, examples)["top_3_accuracy"].item() == 0.5
    assert NextToken(unknown=None).metrics(logits, examples)["accuracy"].item() == 0.5
    with pytest.raises(UserError, match="unknown as the number of a token"):
        NextToken(unknown=-1)


def test_padding_and_ignored_tokens_count_for_nothing() -> None:
    logits = torch.tensor([[[0.0, 9.0, 1.0, 0.0]] * 3])
    labels = torch.tensor([[1, 2, 1]])
    mask = torch.tensor([[True, True, False]])
    padded = NextToken().metrics(logits, Examples(torch.zeros(1, 3), labels, mask))
    ignored = NextToken(ignore_index=-100).metrics(
        logits, Examples(torch.zeros(1, 3), torch.tensor([[1, 2, -100]]))
    )
    for name in ("accuracy", "top_3_accuracy", "perplexity"):
        assert padded[name].item() == pytest.approx(ignored[name].item())
    assert padded["accuracy"].item() == 0.5


def test_every_token_of_a_sequence_may_be_judged() -> None:
    logits = torch.zeros(1, 2, 3, 5)
    logits[..., 2] = 4
    examples = Examples(torch.zeros(1, 2, 3), torch.tensor([[[2, 2, 1], [2, 4, 2]]]))
    assert NextToken().metrics(logits, examples)["accuracy"].item() == pytest.approx(4 / 6)


def test_added_metrics_and_errors_bear_the_objectives_name() -> None:
    def length(predicted: torch.Tensor, labels: torch.Tensor) -> float:
        return float(len(labels))

    examples = Examples(torch.zeros(1, 2), torch.tensor([[1, 2]]))
    assert NextToken(metrics={"n": length}).metrics(torch.zeros(1, 2, 3), examples)["n"].item() == 2
    assert not NextToken(metric="perplexity").higher_is_better
    with pytest.raises(UserError, match=r"NextToken: expected metric to be one of accuracy, top_3_accuracy"):
        NextToken(metric="balanced_accuracy")
    with pytest.raises(UserError, match=r"NextToken: the labels need 9 classes"):
        NextToken().loss(torch.zeros(1, 1, 3), Examples(torch.zeros(1, 1), torch.tensor([[8]])))


def test_a_token_that_support_lacks_may_be_asked_for() -> None:
    learner = MAML(NextTokenGRU(tokens=6, embedding=2, hidden=4), NextToken())
    one = Examples(torch.ones(1, 3, 4), torch.tensor([[1, 1, 2]]))
    other = Examples(torch.ones(1, 2, 4), torch.tensor([[5, 3]]))
    learner.check(Episode(one, other))
    assert learner.evaluate(Episode(one, other))["perplexity_after"].isfinite().all()


# NextTokenGRU -----------------------------------------------------------------------------------------------


def test_the_net_learns_to_count() -> None:
    """What follows two tokens of a cycle of five is learnt by heart."""
    cycle = torch.arange(5).repeat(4)
    x = torch.stack([cycle[i : i + 2] for i in range(10)]).float()
    y = cycle[2:12]
    net = NextTokenGRU(tokens=5, embedding=4, hidden=8)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert torch.equal(net(x).argmax(-1), y)
    assert torch.equal(net(x.long()), net(x))
    with pytest.raises(UserError, match=r"token numbers from 0 to 4, got some up to 7; set the net's tokens"):
        net(torch.full((1, 2), 7.0))
    with pytest.raises(UserError, match=r"windows of token numbers, \(N, L\)"):
        net(torch.zeros(1, 2, 3))


def test_the_second_order_of_the_net_is_that_of_finite_differences() -> None:
    """The meta-gradient along a direction, against the difference quotient of the meta-loss."""
    net = NextTokenGRU(tokens=5, embedding=3, hidden=4).double()
    learner = MAML(net, NextToken(), InnerLoop(lr=0.5, steps=2))
    generator = torch.Generator().manual_seed(0)

    def examples(n: int) -> Examples:
        return Examples(
            torch.randint(5, (2, n, 3), generator=generator).double(),
            torch.randint(5, (2, n), generator=generator),
        )

    episode = Episode(examples(6), examples(4))
    _, grads = learner.meta_gradient(episode)
    direction = {name: torch.randn(g.shape, generator=generator, dtype=g.dtype) for name, g in grads.items()}
    slope = sum(float((grads[name] * direction[name]).sum()) for name in grads)

    def meta_loss(step: float) -> float:
        start = {name: p.detach() + step * direction[f"net.{name}"] for name, p in net.named_parameters()}
        start = {name: p.requires_grad_() for name, p in start.items()}
        path = trajectory(
            learner.outputs, learner.objective.loss, start, episode.support, learner.inner_loop, create_graph=False
        )
        with torch.enable_grad():
            adapted = last(path)
        return float(learner.objective.loss(learner.outputs(adapted, episode.query.x), episode.query).mean())

    assert slope == pytest.approx((meta_loss(1e-5) - meta_loss(-1e-5)) / 2e-5, rel=1e-5)


# The report -------------------------------------------------------------------------------------------------


def test_the_table_names_the_worst_machine_by_the_metric() -> None:
    results = [MachineResult("a", "ada", 0.1, 0.2), MachineResult("b", "bea", 0.3, 0.4)]
    assert table(results, "accuracy").splitlines()[-1].split() == ["worst", "ada", "0.100", "->", "0.200"]
    assert table(results, "perplexity", False).splitlines()[-1].split()[:2] == ["worst", "bea"]
    assert len(table(results[:1], "accuracy").splitlines()) == 3


def test_the_chart_says_what_was_adapted_on() -> None:
    assert chart_title("run", Episodes(**{**FEW, "shots": 1536})) == "run: adapted on the first 1536 windows"
    assert chart_title("run", Episodes(of="as they come", per="recording")) == "run: adapted on 1 recording"
    normal = Episodes(of="normal only", normal=0, shots=4, permute_labels=False)
    assert chart_title("run", normal) == "run: adapted on 4 normal windows"


def test_of_many_classes_predictions_show_the_three_likeliest() -> None:
    names = [chr(97 + i) for i in range(21)]
    outputs = torch.zeros(1, 2, 21)
    outputs[0, 0, [4, 2, 9]] = torch.tensor([0.5, 0.3, 0.2])
    outputs[0, 1, [0, 20, 1]] = torch.tensor([0.6, 0.3, 0.1])
    frame = prediction_table([Prediction(("m",), torch.tensor([[2, 20]]), outputs)], names)
    assert frame.columns == [
        *("site", "machine", "window", "label", "predicted", "predicted_2", "predicted_3", "p_1", "p_2", "p_3")
    ]
    assert frame.select("label", "predicted", "predicted_2", "predicted_3").rows() == [
        ("c", "e", "c", "j"),
        ("u", "a", "u", "b"),
    ]
    np.testing.assert_allclose(frame.select("p_1", "p_2", "p_3").to_numpy(), [[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]])


# From the command line --------------------------------------------------------------------------------------


def test_fit_test_personalize_and_predict_from_yaml(
    messages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("keys.yaml").write_text(
        f"""
        model:
          learner:
            class_path: FedAvg
            init_args:
              net: {{class_path: NextTokenGRU, init_args: {{tokens: 40, embedding: 4, hidden: 8}}}}
              objective: NextToken
              optimizer: {{class_path: torch.optim.Adam, init_args: {{lr: 0.03}}}}
              adaptation: {{lr: 0.1, steps: 1}}
          cohort: {{count: 2}}
          local_steps: 3
        data:
          class_path: Text
          init_args:
            path: {messages}
            order: sent
            minimum: 300
            unseen: 0.25
            context: 5
            tokens: 40
            episodes: {{shots: 60, queries: 20}}
        trainer: {{max_steps: 2, enable_progress_bar: false}}
        """
    )
    for verb, more in (("fit", []), ("test", []), ("personalize", ["--machine", "all"]), ("predict", [])):
        assert run([verb, "--config", "keys.yaml", *more]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert printed.count("\nworst ") == 3
    folder = Path("runs/keys/1")
    measured = json.loads((folder / "fit.json").read_text())
    assert {"test/top_3_accuracy_after", "test/perplexity_before"} <= measured.keys()
    assert measured["test/perplexity_before"] < 40  # below a uniform guess
    predicted = pl.read_parquet(folder / "predict.parquet")
    for user in predicted["machine"].unique():
        late = "\n".join(written(user))[239 + 5 + 5 :]
        labels = predicted.filter(machine=user)["label"]
        assert len(labels) == len(late)
        assert all(label in (letter, UNKNOWN) for label, letter in zip(labels, late, strict=True))
    cards = json.loads((folder / "personalize.json").read_text())["machines"]
    assert [card["shots"] for card in cards] == [60, 60]
    assert len(list((folder / "machines").rglob("model.safetensors"))) == 2


@pytest.fixture
def plays() -> str:
    """The real speeches, where there is a copy."""
    root = Path(os.environ.get("FML_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (root / "shakespeare_speakers").is_dir():
        pytest.skip(f"needs the speeches below {root}: set FML_DATA to the folder of shakespeare_speakers/")
    return str(root)


def test_the_speeches_of_a_play_follow_one_another(plays: str) -> None:
    fleet = Speeches(plays, minimum=20_000)
    hamlet = "hamlet, HAM"
    assert fleet.lengths[hamlet] == 63_049 + 358 - 1  # 358 speeches, a break between each two
    (machine,) = fleet.site(hamlet).machines
    assert isinstance(machine, MachineWindows)
    assert spelled(fleet, machine.early.label[:20]) == "ore than kin, and le"  # A little m...
    assert len(fleet.classes) <= 96
    fleet.setup("fit")
    assert len(fleet.unseen) == round(0.25 * len(fleet.lengths))


def test_the_keyboards_config_runs_on_real_data(plays: str, tmp_path: Path) -> None:
    arguments = f"fit --config {REPOSITORY / 'configs' / 'keyboard.yaml'} --data.root {plays}"
    short = (
        f"--trainer.default_root_dir {tmp_path} --trainer.max_steps 1 --model.local_steps 1 --data.minimum 35000"
        " --model.cohort.count 1 --model.learner.net.hidden 4 --model.learner.adaptation.lr 1"
        " --trainer.enable_progress_bar false"
    )
    assert run([*arguments.split(), *short.split()]) == 0
    measured = json.loads((tmp_path / "keyboard" / "1" / "fit.json").read_text())
    assert measured["test/top_3_accuracy_after"] > 0.2  # a space, an e and a t are more


def test_speeches_that_are_not_there_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no shakespeare_speakers\.parquet in"):
        Speeches(str(tmp_path))


def test_a_learner_adapts_to_speakers(messages: Path) -> None:
    """Fine-tuning on support lowers the loss on support."""
    fleet = text(messages)
    fleet.setup("fit")
    name = next(iter(fleet.unseen))
    episode = fleet.unseen[name].personal_episode(name, 0)
    learner = FedAvg(NextTokenGRU(40, 4, 8), NextToken(), adaptation=InnerLoop(lr=0.5, steps=5))
    on_support = learner.evaluate(Episode(episode.support, episode.support, episode.machines))
    assert on_support["loss_after"] < on_support["loss_before"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: text.replace(b"\n", b"\r"), "line 1: expected lines that end on a line feed"),
        (lambda text: text.decode().encode("utf-16"), "below line 0: the text is not UTF-8"),
        (lambda text: text + b'ada,"hi\n', "line 4: expected quotes around whole cells"),
        (lambda text: text + b"ada,hi,x\n", "line 4: expected 2 cells, got 3"),
        (lambda text: text.replace(b"bea", b"b\xeba"), "below line 0: the text is not UTF-8; save it as UTF-8"),
    ],
)
def test_lines_of_a_table_that_cannot_be_read_are_told(
    tmp_path: Path, change: Callable[[bytes], bytes], complaint: str
) -> None:
    path = tmp_path / "w.csv"
    path.write_bytes(change(b"user,text\nada,hello\nbea,world\n"))
    with pytest.raises(UserError, match=rf"w\.csv, {complaint}"):
        open_writings(str(path), "user", "text", None).lengths()
