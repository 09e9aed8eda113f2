"""Few-shot episodes and Omniglot, on images of the tests' own and on the real ones."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from fml_lightning import MAML, Conv4, InnerLoop, UserError
from fml_lightning.datamodules import FewShot, Omniglot

REPOSITORY = Path(__file__).parent.parent


def test_episodes_have_disjoint_support_and_query_and_labels_that_mean_nothing() -> None:
    x = torch.arange(60, dtype=torch.float32)[:, None]  # class c has the examples 10c to 10c + 9
    labels = np.repeat(np.arange(6), 10)
    episodes = FewShot(ways=3, shots=2, queries=4, tasks=5).episodes(x, labels, batches=4)
    torch.manual_seed(0)
    drawn = list(episodes)
    assert len(drawn) == len(episodes) == 4
    meanings = set()
    for episode in drawn:
        assert episode.support.y.tolist() == [[0, 0, 1, 1, 2, 2]] * 5
        sets = (examples.x[..., 0].tolist() for examples in (episode.support, episode.query))
        for support, query in zip(*sets, strict=True):
            assert len({*support, *query}) == 18
            classes = [{int(v) // 10 for v in part} for part in (support[:2], query[:4])]
            assert classes[0] == classes[1]
            meanings |= classes[0]
    assert meanings == set(range(6))
    with pytest.raises(UserError, match=r"at least 3 classes of 11 examples.*got 6 classes of at least 10"):
        FewShot(ways=3, shots=2, queries=9).episodes(x, labels, 1)
    with pytest.raises(UserError, match="ways >= 2"):
        FewShot(ways=1)


def test_omniglot_reads_the_published_folders(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for part, characters in (("background", 10), ("evaluation", 2)):
        for c in range(characters):
            folder = tmp_path / f"images_{part}" / "Greek" / f"character{c:02}"
            folder.mkdir(parents=True)
            for d in range(20):
                pixels = np.full((105, 105), 255, np.uint8)
                pixels[: 5 * c + 5] = 0  # ink at the top
                image.fromarray(pixels).save(folder / f"{c:04}_{d:02}.png")
    data = Omniglot(str(tmp_path), FewShot(ways=2, queries=3, tasks=2), batches=3)
    data.setup("fit")
    assert data.train[0].shape == (9 * 4 * 20, 1, 28, 28)
    assert data.validation[0].shape == (1 * 4 * 20, 1, 28, 28)
    assert data.evaluation[0].shape == (2 * 20, 1, 28, 28)
    assert data.train[0][0, 0, 0].min() > 0.9  # ink is 1, in the first row
    assert data.train[0][0, 0, -1].max() < 0.1
    with pytest.raises(UserError, match="set root to the folder of images_background"):
        Omniglot(str(tmp_path / "nowhere")).setup("fit")


@pytest.mark.long
def test_maml_learns_omniglot() -> None:
    """A small net after 100 meta-steps: far above chance, which is 20 %, on characters of other alphabets."""
    root = Path(os.environ.get("FML_DATA", REPOSITORY.parent / "shared" / "data")) / "omniglot"
    if not root.is_dir():
        pytest.skip(f"needs Omniglot at {root}: set FML_DATA to the folder above it")
    seed_everything(0, verbose=False)
    learner = MAML(Conv4(1, 5, channels=8, norm="batch"), inner_loop=InnerLoop(lr=0.4, steps=1))
    data = Omniglot(str(root), FewShot(queries=5, tasks=4), batches=100, test_batches=10)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(learner, data)
    (metrics,) = trainer.test(learner, data, verbose=False)
    assert metrics["test/accuracy_after"] > 0.33
    assert metrics["test/accuracy_before"] < 0.3
