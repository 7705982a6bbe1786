"""Audio-visual: frames and sounds of one moment, told apart from others; kinds of sound."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_toolkit.augment import eval_view
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import extract
from ssl_toolkit.eval.scores.knn import knn
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.pretext.audio_visual import AudioVisual, correspondence_loss, of_the_next, sound_texture
from ssl_toolkit.tasks.pretraining import pretrain
from tests.conftest import SOUND, Arrays
from tests.data.films import COLOURS, colour_film

TINY = {"hidden_dim": 16, "sound_dim": 4}


def made(encoder: Encoder, **options: Any) -> AudioVisual:
    torch.manual_seed(0)
    return AudioVisual(encoder, AudioVisual.default_views(16), **{**TINY, **options})


def batch(sound: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(0)
    image, heard = torch.rand(6, 3, 16, 16, generator=generator), torch.randn(6, *SOUND, generator=generator).half()
    return Batch(image, torch.full((6,), -1), torch.arange(6), sound=heard if sound else None)


def step(method: AudioVisual, given: Batch) -> dict[str, Tensor]:
    return method.step([given.image], given)


def test_loss_by_hand() -> None:
    own, other = torch.tensor([0.0, math.log(3)]), torch.tensor([0.0, -math.log(3)])
    assert correspondence_loss(own, other).item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert correspondence_loss(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(math.log(2))
    assert correspondence_loss(-own, -other).item() > correspondence_loss(own, other).item()


def test_loss_is_the_papers_softmax_of_two() -> None:
    own, other = torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits = torch.cat([torch.stack([torch.zeros(7), own], 1), torch.stack([torch.zeros(7), other], 1)]).numpy()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -(np.log(p[:7, 1]).mean() + np.log(p[7:, 0]).mean()) / 2
    assert correspondence_loss(own, other).item() == pytest.approx(expected, abs=1e-12)
    inputs = (own.requires_grad_(), other.requires_grad_())
    assert torch.autograd.gradcheck(correspondence_loss, inputs)


def test_a_texture_is_mean_and_deviation_of_each_band() -> None:
    sound = np.random.default_rng(0).normal(size=(3, 4, 10))
    expected = np.concatenate([sound.mean(2), sound.std(2, ddof=1)], 1)
    np.testing.assert_allclose(sound_texture(torch.from_numpy(sound)), expected, atol=1e-12)
    shuffled = sound[..., np.random.default_rng(1).permutation(10)]
    np.testing.assert_allclose(sound_texture(torch.from_numpy(shuffled)), expected, atol=1e-12)


def test_each_frame_hears_its_own_sound_and_that_of_the_next(small_encoder: Encoder) -> None:
    assert of_the_next(torch.arange(8).view(4, 2)).tolist() == [[2, 3], [4, 5], [6, 7], [0, 1]]
    method, given = made(small_encoder).eval(), batch()
    seen, heard = small_encoder(given.image), method.sound_network(given.sound.float())
    own = method.head(torch.cat([seen, heard], 1))
    other = method.head(torch.cat([seen, heard.roll(-1, 0)], 1))
    assert step(method, given)["loss"].item() == pytest.approx(correspondence_loss(own, other).item(), abs=1e-5)
    alike = step(method, given._replace(sound=given.sound[:1].expand(6, -1, -1)))["loss"]  # nothing is told apart
    assert alike.item() >= math.log(2)


def test_both_networks_learn(small_encoder: Encoder) -> None:
    method = made(small_encoder)
    step(method, batch())["loss"].backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in method.parameters())


def test_images_without_sound_are_refused(small_encoder: Encoder) -> None:
    with pytest.raises(UsageError, match=r"audio_visual learns from sound, and .* none: give --data sounds:PATH"):
        step(made(small_encoder), batch(sound=False))


@pytest.mark.parametrize("clusters", [1, 1001])
def test_numbers_of_clusters_out_of_range_are_refused(small_encoder: Encoder, clusters: int) -> None:
    with pytest.raises(UsageError, match=rf"--method.clusters is {clusters}: it must be from 2 to 1000"):
        made(small_encoder, clusters=clusters)


class Heard(Arrays):
    """Blocks of random brightness in one of six pale tints, each with a tone of its own in noise."""

    def __init__(self, count: int, seed: int) -> None:
        rng, label = np.random.default_rng(seed), np.random.default_rng(seed).integers(0, 6, count)
        tint = 1 - 0.15 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]])[label]
        block = rng.uniform(20, 255, (count, 1, 4, 4)).repeat(4, 2).repeat(4, 3)
        pixels = block * tint[:, :, None, None] + rng.normal(0, 10, (count, 3, 16, 16))
        super().__init__(pixels.clip(0, 255).astype(np.uint8), label)

    def sound(self, index: int) -> np.ndarray:
        found = np.random.default_rng(index).normal(-3, 1, SOUND)
        found[5 + 10 * self.labels[index]] += 4
        return found.astype(np.float16)


@pytest.mark.parametrize(("task", "enough"), [("correspondence", 0.7), ("clusters", 0.8)])
def test_learns_what_is_heard_with_what_is_seen(train_quickly: Callable, task: str, enough: float) -> None:
    method = train_quickly(
        AudioVisual, Heard(400, 0), epochs=4 if task == "correspondence" else 2, batch_size=40,
        optimizer=OptimizerConfig(lr=3e-3), method={"task": task, "clusters": 6, **TINY},
        views={"crop_scale": (0.5, 1.0)},
    ).eval()  # fmt: skip
    train, test = Heard(400, 0), Heard(200, 1)
    with torch.no_grad():
        each = [step(method, b._replace(image=eval_view(16)(b.image))) for b in ImageLoader(test, 16, batch_size=50)]
    # A sixth of the others have the same tone: those count as wrong whatever is said of them.
    assert np.mean([scalars["accuracy"].item() for scalars in each]) > enough
    trained, random = (
        knn(*(extract(encode, ImageLoader(images, 16), view=eval_view(16)) for images in (train, test)))["top1"]
        for encode in (method, method.encoder.reinitialized(0))
    )
    assert trained > random + 0.2


def test_kinds_of_sound_are_measured_once_and_kept(train_quickly: Callable) -> None:
    common = {"epochs": 1, "method": {"task": "clusters", "clusters": 6}, "batch_size": 20}
    first = train_quickly(AudioVisual, Heard(60, 0), **common)
    assert {*first.centroid[:, :64].argmax(1).tolist()} <= {5, 15, 25, 35, 45, 55}
    assert torch.equal(train_quickly(AudioVisual, Heard(60, 0), out="again", **common).centroid, first.centroid)
    longer = train_quickly(AudioVisual, Heard(60, 5), resume=True, **{**common, "epochs": 2})
    assert torch.equal(longer.centroid, first.centroid)  # of the checkpoint, though other sounds are there


def test_fewer_sounds_than_kinds_are_refused(train_quickly: Callable) -> None:
    with pytest.raises(UsageError, match=r"--method.clusters is 30, but only 24 sounds were measured"):
        train_quickly(AudioVisual, Heard(24, 0), epochs=1, method={"task": "clusters", **TINY})


def test_a_film_is_learned_from(tmp_path: Path) -> None:
    """From the command's words to an encoder: the whole way, on a film whose tones follow its colours."""
    order = np.random.default_rng(0).choice(list(COLOURS), 40).tolist()
    film = colour_film(tmp_path / "film.mp4", order, rate=5, side=16)
    run = pretrain(
        {"name": "audio_visual", **TINY}, data=f"sounds:{film}", out=tmp_path / "run", encoder="convnet", batch_size=13,
        image_size=16, epochs=12, optimizer={"lr": 0.003}, views={"crop_scale": [0.5, 1.0]}, workers=0, progress=False,
    )  # fmt: skip
    assert run.metrics["accuracy"][-12:].mean() > 0.6
    with pytest.raises(UsageError, match="clip learns from captions"):
        pretrain("clip", data=f"sounds:{film}", out=tmp_path / "clip", encoder="convnet", batch_size=8, epochs=1)
