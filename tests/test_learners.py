"""What learners do with layers, bad input, precision, compilation, plain Trainers and federations."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from torch import Tensor, nn

import fml_lightning
from fml_lightning import (
    ANIL,
    IMAML,
    MAML,
    MLP,
    Conv1d,
    Ditto,
    Episode,
    Examples,
    FedAvg,
    FedBN,
    Federation,
    FedPer,
    FedRep,
    InnerLoop,
    Learner,
    MetaSGD,
    PerFedAvg,
    PFedMe,
    Prototypical,
    SiteMemory,
    UserError,
    Work,
)
from fml_lightning.adaptation.gradients import gradients
from fml_lightning.commands.learning import run
from fml_lightning.datamodules import SimulatedFleet
from fml_lightning.datamodules.loaders import Batches
from fml_lightning.executors import SerialExecutor
from fml_lightning.params import clone

MakeTrainer = Callable[..., Trainer]


class TwoClusters(LightningDataModule):
    """Episodes of 2-way tasks in 5 dimensions that a linear model can tell apart."""

    def __init__(self, batches: int = 4, tasks: int = 3, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.batches, self.tasks, self.dtype = batches, tasks, dtype

    def draw(self) -> Episode:
        centre = torch.randn(self.tasks, 2, 1, 5, dtype=self.dtype)

        def examples(n: int) -> Examples:
            x = (centre + 0.3 * torch.randn(self.tasks, 2, n, 5, dtype=self.dtype)).flatten(1, 2)
            return Examples(x, torch.arange(2).repeat_interleave(n).expand(self.tasks, -1).contiguous())

        return Episode(examples(3), examples(4))

    def train_dataloader(self) -> Any:
        return Batches([self.draw() for _ in range(self.batches)])

    val_dataloader = train_dataloader


RIVALS = ("FaultLineRule", "NormalDistance")
"""They take no network of the user's own: see `test_rivals.py`."""
LEARNERS: dict[str, Callable[[nn.Module], Learner]] = {
    name: getattr(fml_lightning, name)
    for name in fml_lightning.__all__
    if isinstance(getattr(fml_lightning, name), type) and issubclass(getattr(fml_lightning, name), Learner)
    if name not in ("Learner", "MetaLearner", "FedBN", "Prototypical", *RIVALS)
}
LEARNERS |= {"FedBN": FedBN, "Prototypical": lambda net: Prototypical(net, ways=2)}


def net_for(name: str) -> nn.Module:
    if name == "FedBN":
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    return MLP(5, 2, hidden=(8,), norm_input=False)


def test_every_algorithm_of_the_field_has_its_name() -> None:
    names = """ANIL Ditto FOMAML FedAvg FedBN FedPer FedProx FedRep IMAML MAML MAMLPlusPlus MetaSGD PFedMe
    PerFedAvg Prototypical Reptile"""
    assert sorted(LEARNERS) == names.split()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_every_learner_trains_under_a_plain_trainer(name: str, precision: str, quiet_trainer: MakeTrainer) -> None:
    learner = LEARNERS[name](net_for(name))
    before = clone(learner.trained)
    trainer = quiet_trainer(
        max_epochs=2, precision=precision, gradient_clip_val=1.0, accumulate_grad_batches=2, log_every_n_steps=1
    )
    trainer.fit(learner, TwoClusters())
    assert trainer.global_step == 4
    assert any(not torch.equal(p, before[n]) for n, p in learner.trained.items())
    assert torch.isfinite(trainer.callback_metrics["train/meta_loss"])
    assert 0 <= trainer.callback_metrics["val/accuracy_after"] <= 1


@pytest.mark.parametrize("name", ["MAML", "MetaSGD", "Reptile", "IMAML", "Prototypical", "FedAvg"])
def test_training_makes_adapted_models_better(name: str, quiet_trainer: MakeTrainer) -> None:
    seed_everything(0, verbose=False)
    learner = LEARNERS[name](net_for(name))
    data = TwoClusters(batches=100, tasks=8)
    judged = [data.draw() for _ in range(5)]

    def loss() -> float:
        return sum(learner.evaluate(e)["loss_after"].mean().item() for e in judged) / 5

    before = loss()
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(learner, data)
    if name == "FedAvg":  # random labels per task: nothing in common to learn
        assert loss() < 1.05 * before
    else:
        assert loss() < 0.8 * before


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_every_learner_works_in_a_federation_and_from_the_command_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = "{class_path: fml_lightning.MLP, init_args: {in_features: 32, out_features: 4, hidden: [8]}}"
    if name == "FedBN":
        layers = "torch.nn.Linear, init_args: {in_features: 32, out_features: 4}}"
        net = f"{{class_path: test_learners.Normalized, init_args: {{layer: {{class_path: {layers}}}}}"
    extra = "ways: 4" if name == "Prototypical" else ""
    path = tmp_path / "run.yaml"
    path.write_text(
        f"""
seed_everything: 3
model:
  learner:
    class_path: fml_lightning.{name}
    init_args:
      net: {net}
      optimizer: {{class_path: torch.optim.SGD, init_args: {{lr: 0.05}}}}
      scheduler: {{class_path: torch.optim.lr_scheduler.StepLR, init_args: {{step_size: 1}}}}
      {extra}
  local_steps: 2
  scheduler: {{class_path: torch.optim.lr_scheduler.StepLR, init_args: {{step_size: 1, gamma: 0.5}}}}
data:
  class_path: fml_lightning.datamodules.SimulatedFleet
  init_args:
    sites: 2
    unseen_sites: 1
    machines: 1
    seconds: 1.5
    windowing: {{length: 512, hop: 512}}
    features: {{class_path: fml_lightning.preprocessing.LogBandPowers, init_args: {{bands: 32}}}}
    episodes: {{shots: 1, queries: 3, tasks: 2, repeats: 2, permute_labels: false}}
trainer: {{max_steps: 2, enable_progress_bar: false, default_root_dir: {tmp_path / "runs"}}}
"""
    )
    assert run(["fit", "--config", str(path)]) == 0, capsys.readouterr().err
    command = ["personalize", "--config", str(path), "--ckpt_path", "last"]
    assert run([*command, "--machine", "plant1-machine1"]) == 0, capsys.readouterr().err
    (folder,) = (tmp_path / "runs").glob("*/1")
    assert bool(list(folder.glob("personal/plant1/*.pt"))) == (name in ("Ditto", "FedBN", "FedPer", "FedRep"))


class Normalized(nn.Sequential):
    """A linear layer and a BatchNorm with running statistics."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer, nn.BatchNorm1d(4))


# Personal state -------------------------------------------------------------------------------------------


def train_rounds(
    learner: Learner, fleet: SimulatedFleet, memory: SiteMemory, first: int, last: int
) -> dict[str, dict[str, Tensor]]:
    """Let the sites train for some rounds without a server; what each sent in the last one."""
    sent = {}
    for round_ in range(first, last):
        work = Work("fit", round_, clone(learner.shared), seed=5, local_steps=2)
        for update in SerialExecutor().run(learner, work, fleet.sites, memory):
            assert not isinstance(update, fml_lightning.SiteFailure), update.reason
            sent[update.site] = update.delta
    return sent


@pytest.mark.parametrize("make", [FedPer, FedRep, Ditto])
def test_personal_state_stays_at_its_site_and_grows_from_round_to_round(
    make: Callable[..., Learner], fleet: SimulatedFleet, tmp_path: Path
) -> None:
    fleet.setup("fit")
    learner = make(MLP(32, 4, hidden=(8,)), optimizer=lambda params: torch.optim.SGD(params, lr=0.1))
    memory = SiteMemory(tmp_path)
    sent = train_rounds(learner, fleet, memory, 0, 3)
    assert set(sent) == set(fleet.sites)
    assert all(set(delta) == set(learner.shared) and not set(delta) & learner.personal for delta in sent.values())
    states = []
    for site in fleet.sites:
        assert sorted(p.name for p in (tmp_path / site).glob("*.pt")) == ["1.pt", "2.pt"]
        states += [torch.load(tmp_path / site / f"{r}.pt", weights_only=True) for r in (1, 2)]
    assert all(set(state) == learner.personal for state in states)
    name = sorted(n for n in learner.personal if n.endswith("weight"))[-1]
    values = [state[name] for state in states]
    assert all(not torch.equal(a, b) for i, a in enumerate(values) for b in values[:i])

    # A round that is run again, after a crash before its checkpoint, starts from the same state.
    again = train_rounds(learner, fleet, memory, 2, 3)
    for site, delta in sent.items():
        assert all(torch.equal(delta[n], again[site][n]) for n in delta)
    with pytest.raises(AssertionError, match="cannot be taken back to round 1; resume from the last checkpoint"):
        train_rounds(learner, fleet, memory, 1, 2)


def test_a_site_whose_update_is_not_finite_keeps_nothing_of_it(fleet: SimulatedFleet, tmp_path: Path) -> None:
    fleet.setup("fit")
    memory = SiteMemory(tmp_path)
    train_rounds(FedPer(MLP(32, 4, hidden=(8,))), fleet, memory, 0, 1)
    (tmp_path / "plant1" / "mine.pt").touch()
    wild = FedPer(MLP(32, 4, hidden=(8,)), optimizer=lambda params: torch.optim.SGD(params, lr=float("inf")))
    work = Work("fit", 1, clone(wild.shared), seed=5, local_steps=1)
    for outcome in SerialExecutor().run(wild, work, fleet.sites, memory):
        assert isinstance(outcome, fml_lightning.SiteFailure)
        assert "not finite" in outcome.reason
        assert not (tmp_path / outcome.site / "1.pt").exists()
    memory.clear()
    assert [path.name for path in tmp_path.glob("*/*")] == ["mine.pt"]


def test_a_checkpoint_away_from_its_personal_state_is_refused(
    fleet: SimulatedFleet, quiet_trainer: MakeTrainer, tmp_path: Path
) -> None:
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0, default_root_dir=tmp_path / "run")
    trainer.fit(Federation(FedPer(MLP(32, 4, hidden=(8,)))), datamodule=fleet)
    trainer.save_checkpoint(tmp_path / "alone.ckpt")
    federation = Federation(FedPer(MLP(32, 4, hidden=(8,))))
    elsewhere = quiet_trainer(default_root_dir=tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"its personal state is not in .*copy the folder `personal`"):
        elsewhere.validate(federation, datamodule=fleet, ckpt_path=tmp_path / "alone.ckpt", weights_only=True)


def test_fedbn_keeps_scale_shift_and_statistics_at_the_site(fleet: SimulatedFleet, tmp_path: Path) -> None:
    fleet.setup("fit")
    learner = FedBN(Normalized(nn.Linear(32, 4)))
    assert learner.personal == {
        f"net.1.{n}" for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    assert set(learner.shared) == {"net.0.weight", "net.0.bias"}
    train_rounds(learner, fleet, SiteMemory(tmp_path), 0, 2)
    means = [torch.load(tmp_path / s / "1.pt", weights_only=True)["net.1.running_mean"] for s in fleet.sites]
    assert not torch.equal(means[0], means[1])
    assert not learner.net[1].running_mean.any()  # type: ignore[index,union-attr]


def test_an_interrupted_run_with_personal_layers_resumes_to_the_same_bits(
    fleet: SimulatedFleet, quiet_trainer: MakeTrainer, tmp_path: Path
) -> None:
    def train(folder: str, until: int, ckpt: Path | None = None) -> tuple[Learner, Path]:
        seed_everything(4, verbose=False)
        learner = FedPer(MLP(32, 4, hidden=(8,)))
        trainer = quiet_trainer(max_steps=until, default_root_dir=tmp_path / folder, limit_val_batches=0)
        trainer.fit(Federation(learner, local_steps=2), datamodule=fleet, ckpt_path=ckpt, weights_only=True)
        trainer.save_checkpoint(tmp_path / folder / "last.ckpt")
        return learner, tmp_path / folder / "last.ckpt"

    whole, _ = train("whole", 5)
    _, ckpt = train("cut", 3)
    resumed, _ = train("cut", 5, ckpt)
    for name, p in whole.shared.items():
        assert torch.equal(p, resumed.shared[name])
    a, b = (torch.load(tmp_path / f / "personal" / "plant1" / "4.pt", weights_only=True) for f in ("whole", "cut"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_known_sites_are_measured_with_their_own_layers(
    fleet: SimulatedFleet, quiet_trainer: MakeTrainer, tmp_path: Path
) -> None:
    federation = Federation(FedPer(MLP(32, 4, hidden=(8,)), adaptation=InnerLoop(steps=0)), local_steps=5)
    trainer = quiet_trainer(max_steps=20, limit_val_batches=0, default_root_dir=tmp_path)
    fleet.episodes = fml_lightning.datamodules.Episodes(  # type: ignore[attr-defined]
        shots=1, queries=3, tasks=3, repeats=2, permute_labels=False
    )
    fleet.sites = {}
    fleet.setup("fit")
    trainer.fit(federation, datamodule=fleet)
    measured = []
    for folder in (tmp_path, tmp_path / "elsewhere"):
        if folder != tmp_path:
            federation.stateful_sites.clear()
        trainer = quiet_trainer(default_root_dir=folder)
        trainer.validate(federation, datamodule=fleet, verbose=False)
        measured.append(trainer.callback_metrics["val/accuracy_after"].item())
    assert measured[0] > measured[1] + 0.1  # without its memory a site has the untrained head


# Layers ---------------------------------------------------------------------------------------------------


def batch_norm_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).double()


def test_running_statistics_need_a_policy() -> None:
    with pytest.raises(UserError, match=r"layer '1' \(BatchNorm1d\) keeps running.*batch_norm: batch.*GroupNorm"):
        MAML(batch_norm_net())
    with pytest.raises(UserError, match="expected one of batch, frozen"):
        MAML(batch_norm_net(), batch_norm="running")


def test_batch_norm_by_batch_statistics_looks_at_the_set_at_hand(episode: Episode) -> None:
    learner = MAML(batch_norm_net(), batch_norm="batch").eval()
    out = learner.net(episode.query.x[0])
    assert not torch.allclose(out[:2], learner.net(episode.query.x[0, :2]))
    assert [n for n, _ in learner.net.named_buffers()] == []


def test_frozen_batch_norm_is_a_constant_also_in_training(episode: Episode, quiet_trainer: MakeTrainer) -> None:
    net = batch_norm_net()
    net(torch.randn(64, 5, dtype=torch.float64) * 3 + 1)
    kept = {n: b.clone() for n, b in net.named_buffers()}
    learner = MAML(net, batch_norm="frozen")
    assert learner.training
    out = learner.net(episode.query.x[0])
    torch.testing.assert_close(out[:2], learner.net(episode.query.x[0, :2]))
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(learner, TwoClusters(dtype=torch.float64))
    assert all(torch.equal(b, kept[n]) for n, b in net.named_buffers())


def test_prototypes_under_batch_statistics_are_each_tasks_own(episode: Episode) -> None:
    learner = Prototypical(batch_norm_net(), ways=2, batch_norm="batch")
    together = learner.adapt(learner.params, episode.support)["prototypes"]
    for t, part in enumerate(episode.chunks(1)):
        alone = learner.adapt(learner.params, part.support)["prototypes"]
        torch.testing.assert_close(together[t], alone[0], rtol=1e-10, atol=1e-12)


def test_padding_and_batch_statistics_exclude_each_other(episode: Episode) -> None:
    learner = MAML(batch_norm_net(), batch_norm="batch")
    padded = Examples(episode.support.x, episode.support.y, torch.ones(3, 4, dtype=torch.bool))
    with pytest.raises(UserError, match=r"layer '1' normalizes with the statistics of the set at hand.*padding"):
        learner.adapt(learner.params, padded)


class Attention(nn.Module):
    """(N, 5) as a sequence of 5 scalars through a transformer layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(1, 4)
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.lift(x[..., None])).mean(1))
        return out


@pytest.mark.parametrize("tasks_at_once", [None, 1])
def test_a_layer_without_second_derivative_is_named_with_the_remedy(
    tasks_at_once: int | None, quiet_trainer: MakeTrainer
) -> None:
    data = TwoClusters()
    learner = MAML(Attention(), tasks_at_once=tasks_at_once)
    with pytest.raises(
        UserError, match=r"layer 'encoder.*cannot be differentiated twice.*MATH.*first_order: true"
    ):
        learner.training_step(data.draw(), 0)
    first_order = MAML(Attention(), inner_loop=InnerLoop(first_order=True), tasks_at_once=tasks_at_once)
    quiet_trainer(max_epochs=1).fit(first_order, data)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        quiet_trainer(max_epochs=1).fit(learner, data)


def test_what_cannot_be_vmapped_runs_task_by_task() -> None:
    class Stubborn(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * max(1.0, x.abs().max().item() // 1e9)

    learner, plain = MAML(Stubborn(5, 2)), MAML(nn.Linear(5, 2))
    plain.net.load_state_dict(learner.net.state_dict())
    episode = TwoClusters().draw()
    for name, grad in plain.meta_gradient(episode)[1].items():
        torch.testing.assert_close(learner.meta_gradient(episode)[1][name], grad)


def test_the_rule_of_stacking() -> None:
    """All tasks at once, but one by one where convolutions adapt or layers are recurrent; or as you say."""
    assert MAML(MLP(5, 2)).tasks_per_training_pass() is None
    assert MAML(Conv1d(1, 2)).tasks_per_training_pass() == 1
    assert ANIL(Conv1d(1, 2)).tasks_per_training_pass() is None
    assert MAML(Conv1d(1, 2), tasks_at_once=7).tasks_per_training_pass() == 7
    gru = nn.Sequential(nn.GRU(1, 4), nn.Linear(4, 2))
    assert MAML(gru).tasks_per_training_pass() == 1


def test_a_convolutional_body_that_does_not_adapt_is_one_large_pass() -> None:
    torch.manual_seed(0)
    net = Conv1d(1, 2, channels=(4, 8)).double()
    x = torch.randn(3, 6, 64, dtype=torch.float64)
    y = torch.tensor([[0, 1, 0, 1, 0, 1]] * 3)
    episode = Episode(Examples(x[:, :4], y[:, :4]), Examples(x[:, 4:], y[:, 4:]))
    (loss, grads), (loss_of_loop, slopes_of_loop) = (
        ANIL(net, tasks_at_once=n).meta_gradient(episode) for n in (None, 1)
    )
    torch.testing.assert_close(loss, loss_of_loop, rtol=1e-10, atol=0)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, slopes_of_loop[name], rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's own, on loading its compiler
@pytest.mark.parametrize("make", [MAML, MetaSGD])
def test_the_compiled_meta_gradient_is_the_same(make: Callable[..., MAML]) -> None:
    """To 1e-5 in float32: fused kernels round differently. Copies, whose parameters differ, share the graph."""
    torch.manual_seed(0)
    plain = make(MLP(5, 2, hidden=(4,)), inner_loop=InnerLoop(steps=1))
    compiled = make(copy.deepcopy(plain.net), inner_loop=InnerLoop(steps=1), compile=True)
    episode = TwoClusters().draw()
    for _ in range(2):
        loss, grads = plain.meta_gradient(episode)
        fused_loss, fused = copy.deepcopy(compiled).meta_gradient(episode)
        torch.testing.assert_close(fused_loss, loss, rtol=1e-5, atol=1e-6)
        assert list(fused) == list(grads)
        for name, grad in grads.items():
            torch.testing.assert_close(fused[name], grad, rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            for a, b in zip(plain.parameters(), compiled.parameters(), strict=True):
                step = 0.1 * torch.randn_like(a)
                a.add_(step)
                b.add_(step)


def test_validation_keeps_no_graph_and_no_memory(quiet_trainer: MakeTrainer) -> None:
    """1,000 batches: as many tensors are alive after them as after 100."""
    learner = MAML(MLP(5, 2, hidden=(8,)), inner_loop=InnerLoop(steps=5))
    episode = TwoClusters(tasks=2).draw()
    alive = []

    class Count(Batches[Episode]):
        def __iter__(self) -> Any:
            for i, batch in enumerate(super().__iter__()):
                if i in (100, 500, 999):
                    gc.collect()
                    alive.append(sum(issubclass(type(o), Tensor) for o in gc.get_objects()))
                yield batch

    quiet_trainer().validate(learner, Count([episode] * 1000), verbose=False)
    assert len(alive) == 3
    assert alive[2] <= alive[1] <= alive[0]


# Bad input ------------------------------------------------------------------------------------------------


def task(x: Tensor, y: Tensor) -> Examples:
    return Examples(x[None], y[None])


BAD_EXAMPLES: dict[str, tuple[Callable[[], object], str]] = {
    "no support": (
        lambda: Examples(torch.zeros(1, 0, 5), torch.zeros(1, 0)),
        "at least one window of at least one",
    ),
    "no task axis": (lambda: Examples(torch.zeros(5), torch.zeros(5)), r"needs a leading axis: x\[None\]"),
    "a scalar": (lambda: Examples(torch.tensor(1.0), torch.tensor(0)), r"expected x of shape \(T, N, ...\)"),
    "targets too few": (lambda: Examples(torch.zeros(1, 3, 5), torch.zeros(1, 2)), "one target and one place"),
    "mask too long": (
        lambda: Examples(torch.zeros(1, 3, 5), torch.zeros(1, 3), torch.ones(1, 4, dtype=torch.bool)),
        "one target and one place in the mask",
    ),
    "other windows": (
        lambda: Episode(task(torch.zeros(2, 5), torch.zeros(2)), task(torch.zeros(2, 6), torch.zeros(2))),
        "same shape of window",
    ),
    "other tasks": (
        lambda: Episode(
            Examples(torch.zeros(2, 2, 5), torch.zeros(2, 2)), Examples(torch.zeros(3, 2, 5), torch.zeros(3, 2))
        ),
        "of the same tasks",
    ),
    "a machine too many": (
        lambda: Episode(*[task(torch.zeros(2, 5), torch.zeros(2))] * 2, machines=("a", "b")),
        "a machine for each of 1 tasks",
    ),
    "K < 0": (lambda: InnerLoop(steps=-1), "steps >= 0"),
    "lr = 0": (lambda: InnerLoop(lr=0.0), "lr > 0"),
    "λ < 0": (lambda: InnerLoop(proximal=-1.0), "proximal >= 0"),
    "no pattern": (lambda: InnerLoop(parameters=()), "a pattern of parameters"),
    "a pattern of nothing": (
        lambda: MAML(MLP(5, 2), inner_loop=InnerLoop(parameters=("tail.*",))),
        r"InnerLoop.parameters: 'tail\.\*' matches none of the network's parameters 0.weight",
    ),
    "a head of nothing": (lambda: ANIL(MLP(5, 2), head=("tail",)), "'tail' matches none"),
    "personal nothing": (lambda: FedAvg(MLP(5, 2), personal=("tail",)), "personal: 'tail' matches none"),
    "no head": (lambda: ANIL(nn.Linear(5, 2)), "name it in `head`"),
    "no tasks at once": (lambda: MAML(MLP(5, 2), tasks_at_once=0), "tasks_at_once of at least 1"),
    "iMAML without λ": (lambda: IMAML(MLP(5, 2), inner_loop=InnerLoop()), "proximal > 0"),
    "pFedMe without λ": (lambda: PFedMe(MLP(5, 2), inner_loop=InnerLoop()), "proximal > 0"),
    "Per-FedAvg of two steps": (lambda: PerFedAvg(MLP(5, 2), inner_loop=InnerLoop(steps=2)), "one plain sgd step"),
    "FedBN without BatchNorm": (lambda: FedBN(MLP(5, 2)), "BatchNorm layers"),
    "two learned rates": (
        lambda: MetaSGD(MLP(5, 2), adaptation=InnerLoop(lr=0.2, steps=9)),
        "set it to inner_loop's 0.1",
    ),
    "one way": (lambda: Prototypical(MLP(5, 2), ways=1), "ways of at least 2"),
}


@pytest.mark.parametrize("case", BAD_EXAMPLES)
def test_bad_settings_and_shapes_are_one_clear_error(case: str) -> None:
    make, message = BAD_EXAMPLES[case]
    with pytest.raises(UserError, match=message):
        make()


def test_a_class_absent_from_support_is_named() -> None:
    episode = Episode(
        task(torch.randn(2, 5), torch.tensor([0, 0])), task(torch.randn(2, 5), torch.tensor([0, 1])), ("pump",)
    )
    learner = MAML(MLP(5, 2))
    for refuse in (lambda: learner.training_step(episode, 0), lambda: learner.evaluate(episode)):
        with pytest.raises(UserError, match="pump: class 1 is in the query set but absent from the support set"):
            refuse()
    prototypical = Prototypical(MLP(5, 2), ways=2)
    with pytest.raises(UserError, match=r"each of the 2 classes.*task 0 has \[0\]"):
        prototypical.adapt(prototypical.params, episode.support)


@pytest.mark.parametrize("where", ["support", "query"])
def test_nan_in_features_is_named(where: str) -> None:
    episode = TwoClusters().draw()
    getattr(episode, where).x[1, 2, 0] = float("nan")
    learner = MAML(MLP(5, 2, norm_input=False))
    for refuse in (lambda: learner.training_step(episode, 0), lambda: learner.evaluate(episode)):
        with pytest.raises(UserError, match="task 1, window 2 hold NaN or infinite values; repair or drop"):
            refuse()


def test_labels_below_zero_are_named_and_never_left_out() -> None:
    for label in (-1, -100):
        examples = task(torch.randn(2, 5), torch.tensor([0, label]))
        with pytest.raises(UserError, match=f"expected labels from 0, got {label}"):
            fml_lightning.Classification().loss(torch.zeros(1, 2, 2), examples)


def test_nan_in_targets_is_named() -> None:
    y = torch.zeros(1, 4)
    y[0, 1] = float("nan")
    episode = Episode(task(torch.randn(4, 5), torch.zeros(4)), Examples(torch.randn(1, 4, 5), y))
    learner = MAML(MLP(5, 1), fml_lightning.Regression())
    for refuse in (lambda: learner.training_step(episode, 0), lambda: learner.evaluate(episode)):
        with pytest.raises(UserError, match="targets of task 0, window 1 hold NaN"):
            refuse()


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_precision_of_parameters_is_refused_in_one_sentence(precision: str, quiet_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match="takes parameters and data as they are"):
        quiet_trainer(max_epochs=1, precision=precision).fit(MAML(MLP(5, 2)), TwoClusters())


def test_a_parameter_without_influence_is_named() -> None:
    class Idle(nn.Linear):
        def __init__(self) -> None:
            super().__init__(5, 2)
            self.spare = nn.Parameter(torch.zeros(1))

    learner = MAML(Idle())
    with pytest.raises(UserError, match=r"the parameters spare have no influence.*requires_grad_\(False\)"):
        learner.meta_loss(TwoClusters().draw())
    learner.net.spare.requires_grad_(False)  # type: ignore[union-attr,operator]
    learner.meta_loss(TwoClusters().draw())
    w, idle = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    with pytest.raises(UserError, match="idle"):
        gradients((2 * w).sum(), {"w": w, "idle": idle})
