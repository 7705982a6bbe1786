"""Methods under a Lightning Trainer of the user's own, with a plain loader."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from ssl_toolkit.contrastive.simclr import SimCLR
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.pretext.colorization import Colorization
from tests.conftest import small_config


class Items(torch.utils.data.Dataset[Any]):
    """32 images as a plain data set gives them."""

    def __init__(self, form: str) -> None:
        self.image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (32, 3, 16, 16), dtype=np.uint8))
        self.form = form

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: int) -> Any:
        image = self.image[index]
        if self.form == "float":
            return image / 255
        label = index % 4
        return {"tensor": image, "tuple": (image, label), "dictionary": {"image": image, "label": label}}[self.form]


class Watch(pl.Callback):
    """Keeps the learning rates."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def fitted(found: Any, form: str, **options: Any) -> tuple[Any, Watch]:
    torch.manual_seed(0)
    method = found(
        Encoder(small_config(found, 16)), found.default_views(16), OptimizerConfig("sgd", lr=0.1, warmup=0.25)
    )
    watch = Watch()
    loader = torch.utils.data.DataLoader(Items(form), batch_size=8)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(**{"max_epochs": 2, "accelerator": "cpu", "callbacks": [watch], **quiet, **options})
    trainer.fit(method, loader)
    return method, watch


@pytest.mark.filterwarnings("ignore")
def test_a_plain_loader_trains_under_a_plain_trainer() -> None:
    trained, watch = fitted(SimCLR, "tensor")
    assert (trained.total_steps, trained.images_per_step) == (8, 8)
    # Two steps of warm-up, then half a cosine down to zero: schedules know how long the training is.
    np.testing.assert_allclose(np.array(watch.rates[:3]) / 0.1, [1, 1, 0.933], atol=1e-3)
    assert watch.rates[-1] < 1e-12
    # Floats are the same images but for rounding, which eight steps of training enlarge.
    expected = trained.encoder.backbone.features[0].weight
    for form, share in (("tuple", 0.0), ("dictionary", 0.0), ("float", 0.01)):
        weight = fitted(SimCLR, form)[0].encoder.backbone.features[0].weight
        assert (weight - expected).norm() <= share * expected.norm()


@pytest.mark.filterwarnings("ignore")
def test_what_measures_the_data_does_so_under_a_plain_trainer() -> None:
    method, _ = fitted(Colorization, "tensor", max_epochs=1)
    assert float(method.head.prior.sum()) == pytest.approx(1, abs=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_without_an_end_is_refused() -> None:
    with pytest.raises(UsageError, match="schedules need an end: give it max_epochs"):
        fitted(SimCLR, "tensor", max_epochs=-1)
