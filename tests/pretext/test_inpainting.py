"""Inpainting: nothing of the hole is seen, and two networks are trained of which neither trains the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.errors import UsageError
from ssl_toolkit.logs import read_metrics
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.pretext.adversary import Discriminator, discriminator_loss, learning
from ssl_toolkit.pretext.inpainting import ChannelwiseLinear, Inpainting, hole_weights, weighted_mean
from tests.conftest import small_shapes

TINY = {"code_dim": 8, "discriminator_dim": 8}


def made(encoder: Encoder, **options: Any) -> Inpainting:
    torch.manual_seed(0)
    return Inpainting(encoder, Inpainting.default_views(16), **{**TINY, **options})


def step(method: Inpainting, image: torch.Tensor, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return method.step([image], None)  # type: ignore[arg-type]


def hole_of(method: Inpainting, image: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    return method.mask(image)


# The task


def test_the_seam_lies_around_the_hole_and_counts_more() -> None:
    hole = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    hole[..., 2:4, 2:4] = True
    seam = torch.tensor([[0, 0, 0, 0, 0, 0], *[[0, 10, 10, 10, 10, 0]] * 4, [0, 0, 0, 0, 0, 0]]).float()
    seam[2:4, 2:4] = 1
    assert torch.equal(hole_weights(hole, 1, 10.0)[0, 0], seam)
    assert torch.equal(hole_weights(hole, 0, 10.0), hole.float())


def test_a_weighted_mean_by_hand() -> None:
    values = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # (1, 2, 1, 2)
    weights = torch.tensor([[[[1.0, 3.0]]]])
    assert weighted_mean(values, weights).item() == pytest.approx((1 + 6 + 3 + 12) / 8)


@pytest.mark.parametrize("mask", ["centre", "blocks", "free"])
@pytest.mark.parametrize("adversarial_weight", [0.0, 0.001])
def test_nothing_in_the_hole_is_seen_and_it_alone_is_the_target(
    small_encoder: Encoder, mask: str, adversarial_weight: float
) -> None:
    method = made(small_encoder, mask=mask, adversarial_weight=adversarial_weight, overlap=0.0).eval()
    image, noise = torch.rand(2, 4, 3, 16, 16)
    hole = hole_of(method, image)
    inputs: list[torch.Tensor] = []
    small_encoder.backbone.features.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with torch.no_grad():
        found = [
            step(method, seen)["l2"]
            for seen in (image, torch.where(hole, noise, image), torch.where(hole, image, noise))
        ]
        pictures = []
        for seen in (image, torch.where(hole, noise, image)):
            torch.manual_seed(0)
            pictures.append(method.task_picture([seen]).rows["painted"])
    assert torch.equal(inputs[0], inputs[1])
    assert torch.equal(pictures[0], pictures[1])
    assert found[0] != found[1]  # another target
    assert not torch.equal(inputs[0], inputs[2])
    painted: list[torch.Tensor] = []
    method.decoder.register_forward_hook(lambda module, args, out: (painted.append(out), out.retain_grad())[-1])
    step(method, image)["loss"].backward()
    assert painted[0].grad is not None
    assert torch.equal(painted[0].grad.abs().sum(dim=1, keepdim=True) > 0, hole)


def test_the_hole_is_filled_with_the_mean_colour(small_encoder: Encoder) -> None:
    method = made(small_encoder).eval()
    torch.manual_seed(0)
    image = torch.rand(2, 3, 16, 16)
    hole = hole_of(method, image)
    torch.manual_seed(0)
    rows = method.task_picture([image]).rows
    assert torch.equal(rows["seen"], torch.where(hole, small_encoder.mean, image))
    assert torch.equal(torch.where(hole, image, rows["painted"]), image)  # nothing but the hole is painted
    assert not torch.equal(rows["painted"], rows["view"])


def test_the_loss_is_that_of_the_paper(small_encoder: Encoder) -> None:
    method = made(small_encoder, mask="centre", overlap=1 / 16, adversarial_weight=0.25, reconstruction_weight=0.5)
    method.eval()
    image = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        found = step(method, image)
        hole = hole_of(method, image)
        code = method.code(method.encoder.feature_map(torch.where(hole, method.encoder.mean, image)))
        painted = method.decoder(code, (16, 16)) * method.encoder.std + method.encoder.mean
        inner, outer = (slice(4, 12), slice(4, 12)), (slice(3, 13), slice(3, 13))
        squared = (painted - image).square()
        within, around = (squared[..., area[0], area[1]].sum() for area in (inner, outer))
        reconstruction = 4 * (within + 10 * (around - within)) / (4 * 3 * (64 + 36))
        assert method.discriminator is not None
        judged = method.discriminator(torch.where(hole, painted, image))
        adversarial = F.binary_cross_entropy_with_logits(judged, torch.ones(4))
    assert found["adversarial"].item() == pytest.approx(adversarial.item(), rel=1e-5)
    assert found["loss"].item() == pytest.approx((0.5 * reconstruction + 0.25 * adversarial).item(), rel=1e-5)
    assert found["l2"].item() == pytest.approx(within.item() / (4 * 3 * 64), rel=1e-5)
    assert found["psnr"].item() == pytest.approx(-10 * math.log10(found["l2"].item()), rel=1e-5)
    assert found["l1"] > found["l2"]


def test_without_an_adversary_there_is_none(small_encoder: Encoder) -> None:
    method = made(small_encoder, adversarial_weight=0.0)
    assert method.automatic_optimization
    assert method.discriminator is None
    assert step(method, torch.rand(2, 3, 16, 16)).keys() == {"loss", "l1", "l2", "psnr"}


def test_a_guess_of_the_discriminator_costs_log_2() -> None:
    assert discriminator_loss(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(math.log(2))
    real, fake = torch.randn(2, 5)
    logits, target = torch.cat([real, fake]), torch.cat([torch.ones(5), torch.zeros(5)])
    theirs = F.binary_cross_entropy_with_logits(logits, target)
    assert discriminator_loss(real, fake).item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("size", [16, 32, 40, 64, 224])
def test_a_discriminator_halves_images_until_about_4_px_are_left(size: int) -> None:
    network = Discriminator(3, size, 8)
    last = network.layers[:-1](torch.rand(2, 3, size, size))
    assert 3 <= last.shape[-1] <= 7
    assert network(torch.rand(2, 3, size, size)).shape == (2,)


def test_a_discriminator_judges_an_image_by_itself() -> None:
    network, image = Discriminator(3, 32, 8), torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(network(image)[:1], network(image[:1]))


# The bottleneck


def test_each_channel_has_a_matrix_over_its_positions() -> None:
    layer = ChannelwiseLinear(2, 2, 3)
    features = torch.randn(4, 2, 2, 3)
    nn.init.normal_(layer.bias)
    found = layer(features)
    for channel in range(2):
        bias = layer.bias.view(2, 6)[channel]
        expected = features[:, channel].flatten(1) @ layer.weight[channel] + bias
        torch.testing.assert_close(found[:, channel].flatten(1), expected)


def test_more_weights_than_fit_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"channelwise: with 256 channels of 28x28 positions it has 157 million weights"
    ):
        ChannelwiseLinear(256, 28, 28)


@pytest.mark.parametrize(("bottleneck", "reaches"), [("channelwise", True), ("plain", False)])
def test_only_the_channelwise_layer_carries_a_corner_to_the_other(bottleneck: str, reaches: bool) -> None:
    torch.manual_seed(0)
    method = made(Encoder(EncoderConfig("convnet", image_size=64, load_size=64)), bottleneck=bottleneck).eval()
    features = torch.rand(1, 256, 8, 8)
    other = features.clone()
    other[..., 0, 0] += 1
    with torch.no_grad():
        apart = (method.decoder(method.code(features), (64, 64)) - method.decoder(method.code(other), (64, 64))).abs()
    assert (apart[..., -1, -1].max() > 0) == reaches


def test_views_of_another_size_are_refused_by_the_channelwise_layer(small_encoder: Encoder) -> None:
    image = torch.rand(2, 3, 24, 24)
    with pytest.raises(UsageError, match=r"feature maps of 2x2, this one is 3x3: give --views.size .* or take plain"):
        step(made(small_encoder), image)
    assert step(made(small_encoder, bottleneck="plain"), image)["loss"].isfinite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adversarial_weight": -1.0}, r"--method.adversarial-weight is -1.0: it must be at least 0"),
        ({"reconstruction_weight": 0.0}, r"--method.reconstruction-weight is 0.0: it must be above 0"),
        ({"overlap": 2.0}, r"--method.overlap is 2.0: it must be from 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(small_encoder: Encoder, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(small_encoder, **options)


def test_views_too_small_for_holes_are_refused(small_encoder: Encoder) -> None:
    with pytest.raises(UsageError, match=r"views of 8x8 px are too small for holes: give --views.size 16 or more"):
        step(made(small_encoder), torch.rand(2, 3, 8, 8))


@pytest.mark.parametrize(("name", "size"), [("resnet18", 32), ("resnet18", 224), ("vit_tiny_patch16_224", 64)])
def test_other_encoders_and_sizes(name: str, size: int) -> None:
    method = made(Encoder(EncoderConfig(name, image_size=size, load_size=size)))
    assert step(method, torch.rand(2, 3, size, size))["loss"].isfinite()


# Two networks


def parts(method: Inpainting) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Copies of the generator's and of the discriminator's weights."""
    weights = {name: value.detach().clone() for name, value in method.named_parameters()}
    return (
        {name: value for name, value in weights.items() if not name.startswith("discriminator")},
        {name: value for name, value in weights.items() if name.startswith("discriminator")},
    )


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_adversarial_loss_trains_the_generator_and_not_the_discriminator(small_encoder: Encoder) -> None:
    method = made(small_encoder)
    step(method, torch.rand(4, 3, 16, 16))["adversarial"].backward()
    for name, parameter in method.named_parameters():
        assert (parameter.grad is None) == name.startswith("discriminator"), name
    assert small_encoder.backbone.features[0].weight.grad.abs().sum() > 0


def test_the_discriminators_loss_does_not_train_the_generator(small_encoder: Encoder) -> None:
    method = made(small_encoder)
    step(method, torch.rand(4, 3, 16, 16))
    assert method.discriminator is not None
    with learning(method.discriminator):
        method.judge().backward()
    for name, parameter in method.named_parameters():
        assert (parameter.grad is None) != name.startswith("discriminator"), name
    assert not any(parameter.requires_grad for parameter in method.discriminator.parameters())


class Watch(pl.Callback):
    """Weights, counters and norms of the gradients after each batch."""

    def __init__(self) -> None:
        self.weights: list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]] = []
        self.steps: list[int] = []
        self.norms: list[float] = []
        self.rates: list[list[float]] = []
        self.decays: list[list[float]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.weights.append(parts(pl_module))

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        assert all(parameter.grad is None for parameter in pl_module.discriminator.parameters())

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self.weights.append(parts(pl_module))
        self.steps.append(trainer.global_step)
        self.decays.append([optimizer.param_groups[0]["weight_decay"] for optimizer in trainer.optimizers])


SGD = OptimizerConfig("sgd", lr=0.1, weight_decay=0.0, momentum=0.0, schedule="constant", warmup=0.0)


@pytest.mark.parametrize(("frozen", "moves"), [(0, 1), (1, 0)])
def test_each_optimizer_moves_its_own_network(
    train_quickly: Callable, noise_images: Callable, monkeypatch: pytest.MonkeyPatch, frozen: int, moves: int
) -> None:
    configure, watch = Inpainting.configure_optimizers, Watch()

    def without(self: Inpainting) -> Any:
        both = configure(self)
        for group in both[frozen]["optimizer"].param_groups:
            group["lr"] = group["initial_lr"] = 0.0
        both[frozen]["lr_scheduler"]["scheduler"].base_lrs = [0.0] * len(both[frozen]["optimizer"].param_groups)
        return both

    monkeypatch.setattr(Inpainting, "configure_optimizers", without)
    train_quickly(Inpainting, noise_images(16), epochs=1, method=TINY, callbacks=[watch], optimizer=SGD)
    assert equal(watch.weights[0][frozen], watch.weights[-1][frozen])
    assert not equal(watch.weights[0][moves], watch.weights[-1][moves])


def test_a_step_is_counted_once_and_both_networks_move_when_enough_is_accumulated(
    train_quickly: Callable, noise_images: Callable, tmp_path: Path
) -> None:
    """Five batches an epoch, two a step: the last one of an epoch steps by itself."""
    watch = Watch()
    train_quickly(Inpainting, noise_images(40), epochs=2, accumulate=2, method=TINY, callbacks=[watch], optimizer=SGD)
    assert watch.steps == [0, 1, 1, 2, 3, 3, 4, 4, 5, 6]
    for number, (before, after) in enumerate(zip(watch.weights[:-1], watch.weights[1:], strict=True)):
        moved = number % 5 in (1, 3, 4)
        assert all(equal(one, other) != moved for one, other in zip(before, after, strict=True)), number
    assert [int(row["step"]) for row in read_metrics(tmp_path / "run" / "metrics.csv")] == list(range(1, 7))


class Still(Inpainting):
    """It is shown the images as they are, and no norm looks at the batch."""

    def step(self, views: list[torch.Tensor], batch: Any) -> dict[str, torch.Tensor]:
        self.eval()
        return super().step([batch.image / 255], batch)


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_two_batches_accumulated_are_one_of_twice_the_size(
    train_quickly: Callable, noise_images: Callable, clip: float
) -> None:
    """Also where gradients are clipped: once, after they are added up, and each network by itself."""
    common = {"epochs": 1, "method": {**TINY, "mask": "centre"}, "optimizer": SGD, "clip_gradient": clip}
    two, one = Watch(), Watch()
    images = noise_images(16)
    train_quickly(Still, images, out="two", batch_size=8, accumulate=2, callbacks=[two], **common)
    train_quickly(Still, images, out="one", batch_size=16, callbacks=[one], **common)
    for part in (0, 1):
        assert not equal(one.weights[0][part], one.weights[-1][part])
        for name, value in one.weights[-1][part].items():
            torch.testing.assert_close(two.weights[-1][part][name], value, atol=1e-6, rtol=1e-5, msg=name)
        moved = [
            (watch.weights[-1][part][k] - v).norm() for watch in (one, two) for k, v in watch.weights[0][part].items()
        ]
        length = torch.stack(moved[: len(moved) // 2]).norm().item()
        # The discriminator's learning rate is a tenth.
        assert clip == 0 or length == pytest.approx(clip * (0.1, 0.01)[part], rel=1e-3)


def test_both_optimizers_have_schedule_decay_and_rate(train_quickly: Callable, noise_images: Callable) -> None:
    watch = Watch()
    config = OptimizerConfig(lr=1e-3, weight_decay=0.1, final_weight_decay=0.3, schedule="linear", warmup=0.0)
    options = {**TINY, "discriminator_lr": 0.5}
    train_quickly(Inpainting, noise_images(32), epochs=1, method=options, callbacks=[watch], optimizer=config)
    expected = [[rate * 1e-3, rate * 0.5e-3] for rate in (1.0, 0.75, 0.5, 0.25)]
    assert watch.rates == [pytest.approx(each) for each in expected]
    assert [decay[0] for decay in watch.decays] == [decay[1] for decay in watch.decays]
    assert watch.decays[0][0] == pytest.approx(0.1)
    assert watch.decays[2][0] == pytest.approx(0.2)


class Counting(Inpainting):
    updates = 0

    def after_update(self) -> None:
        self.updates += 1


@pytest.mark.parametrize("weight", [0.0, 0.001])
def test_after_update_runs_once_a_step(train_quickly: Callable, noise_images: Callable, weight: float) -> None:
    options = {**TINY, "adversarial_weight": weight}
    assert train_quickly(Counting, noise_images(24), epochs=2, accumulate=2, method=options).updates == 4


def test_the_log_has_both_losses(train_quickly: Callable, noise_images: Callable, tmp_path: Path) -> None:
    train_quickly(Inpainting, noise_images(16), epochs=1, method=TINY)
    row = read_metrics(tmp_path / "run" / "metrics.csv")[0]
    assert {"loss", "l1", "l2", "psnr", "adversarial", "discriminator", "lr"} <= row.keys()
    assert float(row["discriminator"]) == pytest.approx(math.log(2), abs=0.2)


def test_holes_of_new_images_are_painted_better_than_with_the_mean_colour(train_quickly: Callable) -> None:
    train, test = small_shapes(16, 600, 200)
    recipe = {"epochs": 2, "batch_size": 25, "optimizer": OptimizerConfig(lr=2e-3)}
    method = train_quickly(Inpainting, train, method={**TINY, "code_dim": 32}, **recipe).eval()
    batch = next(iter(ImageLoader(test, 16, batch_size=200)))
    with torch.no_grad():
        image = method.views(batch.image)[0]
        found = step(method, image)["l2"].item()
        guess = weighted_mean((method.encoder.mean - image).square(), hole_of(method, image)).item()
    assert found < 0.75 * guess
