"""What holds for every installed method: it learns, it does not collapse, it trains what it should and no more."""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import pkgutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ssl_toolkit.contrastive
import ssl_toolkit.pretext
from ssl_toolkit.augment import eval_view
from ssl_toolkit.contrastive.simclr import SimCLR
from ssl_toolkit.contrastive.simsiam import SimSiam
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import Encode, Features, extract
from ssl_toolkit.eval.health.collapse import effective_rank, embedding_std
from ssl_toolkit.eval.health.doctor import CollapseDoctor
from ssl_toolkit.eval.scores.knn import knn
from ssl_toolkit.method import Method
from ssl_toolkit.methods import installed_methods, method_class
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.pretext.inpainting import Inpainting
from ssl_toolkit.pretext.rotation import Rotation
from tests.conftest import SOUND, Arrays, frames_of, small_config, small_shapes, tiny_heads

every_method = pytest.mark.parametrize(
    "found", [pytest.param(method_class(name), id=name) for name in installed_methods()]
)


def test_every_method_is_installed() -> None:
    ours = {
        value
        for part in (ssl_toolkit.contrastive, ssl_toolkit.pretext)
        for module in pkgutil.iter_modules(part.__path__, f"{part.__name__}.")
        for value in vars(importlib.import_module(module.name)).values()
        if isinstance(value, type)
        and issubclass(value, Method)
        and value.__module__ == module.name
        and not inspect.isabstract(value)
    }
    assert ours <= {method_class(name) for name in installed_methods()}, "install the package again"


# What it does to one batch


def small(found: type[Method]) -> Method:
    torch.manual_seed(0)
    return found(
        Encoder(small_config(found, 32)), found.default_views(32, channels=3 * frames_of(found)), **tiny_heads(found)
    )


def batch_of(label: torch.Tensor, frames: int = 1) -> Batch:
    image = torch.randint(
        0, 256, (len(label), 3 * frames, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return Batch(image, label, torch.arange(len(label)), caption=CAPTIONS[: len(label)], sound=SOUNDS[: len(label)])


CAPTIONS = [f"picture {n}" for n in range(64)]
SOUNDS = torch.randn(64, *SOUND, generator=torch.Generator().manual_seed(1)).half()
UNLABELLED = torch.full((8,), -1)


def backward(found: type[Method]) -> Method:
    """The method after the backward pass of its first batch."""
    method, batch = small(found), batch_of(UNLABELLED, frames_of(found))
    method.step(method.views(batch.image), batch)["loss"].backward()
    return method


@every_method
def test_weights_can_be_shared_out(found: type[Method]) -> None:
    """FSDP refuses scalars."""
    assert all(parameter.ndim for parameter in small(found).parameters())


@every_method
def test_views_have_no_gradient_and_step_returns_finite_scalars(found: type[Method]) -> None:
    method, batch = small(found), batch_of(UNLABELLED, frames_of(found))
    views = method.views(batch.image)
    assert not any(view.requires_grad for view in views)
    scalars = method.step(views, batch)
    assert scalars["loss"].requires_grad
    for name, value in scalars.items():
        assert value.ndim == 0, name
        assert value.isfinite(), name


@every_method
def test_every_trained_weight_has_a_gradient_and_only_those(found: type[Method]) -> None:
    method = backward(found)
    for name, parameter in method.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.abs().sum() > 0 or "bias" in name, name
    assert all(parameter.requires_grad for parameter in method.encoder.parameters())


@every_method
def test_momentum_networks_and_buffers_have_no_gradient(found: type[Method]) -> None:
    method = backward(found)
    matrices = [(n, p) for n, p in method.named_parameters() if p.ndim > 1 and p.requires_grad]
    for (name, weight), (copy, other) in itertools.combinations(matrices, 2):
        assert not torch.equal(weight, other), f"{copy} starts as {name} and is trained"
    assert not any(buffer.requires_grad for buffer in method.buffers())


@every_method
def test_labels_never_reach_the_loss(found: type[Method]) -> None:
    views = small(found).views(batch_of(UNLABELLED, frames_of(found)).image)
    scalars = []
    for label in (UNLABELLED, torch.arange(8)):
        method = small(found)  # anew, for a step may change what it remembers
        scalars.append({name: value.item() for name, value in method.step(views, batch_of(label)).items()})
    assert scalars[0] == scalars[1]


@every_method
def test_features_are_the_kept_encoders_not_a_heads(found: type[Method]) -> None:
    method = small(found).eval()
    image = torch.rand(4, 3, 32, 32)
    assert isinstance(method.kept_encoder, Encoder)
    assert method(image).shape == (4, method.encoder.feature_dim)
    assert torch.equal(method(image), method.kept_encoder(image))


@every_method
def test_optimizer_has_the_trained_weights_and_decays_no_norm_or_bias(found: type[Method]) -> None:
    method = small(found)
    configured = method.configure_optimizers()
    first = configured if isinstance(configured, dict) else configured[0]  # an adversary has an optimiser of its own
    groups = first["optimizer"].param_groups
    decay = {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decay.keys() == {parameter for parameter in method.parameters() if parameter.requires_grad}
    for module in method.modules():
        norm = isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm))
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in decay:
                undecayed = norm or "bias" in name or parameter.numel() == 1
                assert (decay[parameter] == 0) == undecayed, f"{name} of {module}"


@every_method
def test_the_compiler_gets_what_the_method_asks_of_its_encoder(found: type[Method]) -> None:
    method, batch = small(found), batch_of(UNLABELLED, frames_of(found))
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable:
        graphs.append(graph)
        return graph.forward

    method.compile_encoder(backend=backend)
    with torch.no_grad():
        method.step(method.views(batch.image), batch)
    torch._dynamo.reset()
    assert graphs


# Networks with a norm behind their pooling.
@pytest.mark.parametrize("name", ["test_convnext", "test_vit2"])
@every_method
def test_no_trained_weight_is_left_without_a_gradient_by_other_networks(found: type[Method], name: str) -> None:
    """Processes that train together would wait for it."""
    config = replace(small_config(found, 64), name=name, patch_size=8 if "vit" in name else 0)
    try:
        method = found(Encoder(config), found.default_views(64, channels=3 * frames_of(found)), **tiny_heads(found))
        image = torch.rand(8, 3 * frames_of(found), 64, 64)
        batch = batch_of(UNLABELLED)._replace(image=(255 * image).to(torch.uint8))
        method.step(method.views(batch.image), batch)["loss"].backward()
    except UsageError as error:
        pytest.skip(str(error))
    assert [name for name, weight in method.named_parameters() if weight.requires_grad and weight.grad is None] == []


# What it does to an encoder. Shapes take more steps than a test can wait for: after few, most methods know colours
# and no outlines. So theirs are images in which the views share a colour alone, and random features see the rest.

TINTS = 8


def tinted(count: int, seed: int, paleness: float = 0.75, darkest: float = 1.0) -> Arrays:
    """Blocks of random brightness, 16 px, in one of eight pale tints, which is the class; images may be darker."""
    rng = np.random.default_rng(seed)
    label = np.arange(count) % TINTS
    hue = (label + rng.uniform(-0.3, 0.3, count)) / TINTS
    tint = np.clip(np.abs((6 * hue[:, None] + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)  # (N, 3)
    block = rng.uniform(20, 255, (count, 1, 4, 4)).repeat(4, 2).repeat(4, 3)
    if darkest < 1:
        block *= rng.uniform(darkest, 1, (count, 1, 1, 1))
    pixels = block * (paleness + (1 - paleness) * tint)[:, :, None, None] + rng.normal(0, 10, (count, 3, 16, 16))
    return Arrays(pixels.clip(0, 255).astype(np.uint8), label)


def textured(count: int, seed: int) -> Arrays:
    """Quarters of 12 px, each striped down, striped across, checked or plain, which decides its colour."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 4, (count, 2, 2)).repeat(12, 1).repeat(12, 2)  # (N, 24, 24)
    down, across = np.meshgrid(np.arange(24) // 2 % 2, np.arange(24) // 2 % 2, indexing="ij")
    pattern = np.stack([down, across, (down + across) % 2, np.full_like(down, 0.5)])
    pattern = np.take_along_axis(pattern[None], kind[:, None], axis=1)  # (N, 1, 24, 24)
    grey = rng.uniform(100, 160, (count, 1, 1, 1)) + rng.uniform(60, 100, (count, 1, 1, 1)) * (pattern - 0.5)
    tint = np.array([[1, 0.6, 0.5], [0.5, 1, 0.6], [0.6, 0.7, 1.4], [1, 1, 0.3]])[kind].transpose(0, 3, 1, 2)
    luminance = (tint * np.array([0.2, 0.7, 0.1])[:, None, None]).sum(axis=1, keepdims=True)
    pixels = grey * tint / luminance + rng.normal(0, 5, (count, 1, 24, 24))
    return Arrays(pixels.clip(0, 255).astype(np.uint8))


@functools.cache
def train_and_test(size: int) -> tuple[ImageSet, ImageSet]:
    """Tinted images of 16 px, textured ones of 24 px, shapes of 32 px."""
    if size == 16:
        return tinted(1000, seed=0), tinted(600, seed=1)
    if size == 24:
        return textured(1000, seed=0), textured(300, seed=1)
    return small_shapes(size, 1500, 1000)


def features(encode: Encode, images: ImageSet, size: int) -> Features:
    return extract(encode, ImageLoader(images, size), view=eval_view(size))


def scores(encode: Encode, size: int) -> tuple[float, float, float]:
    """Accuracy of the nearest neighbours, effective rank, scatter."""
    train, test = (features(encode, images, size) for images in train_and_test(size))
    return knn(train, test)["top1"], effective_rank(test.x), embedding_std(test.x)


@functools.cache
def untrained_accuracy(config: EncoderConfig) -> float:
    """Of random weights; or of the same once their batch norms have seen the images, if that is better."""
    size, encoder = config.image_size, Encoder(config).reinitialized(0)
    random = scores(encoder, size)[0]
    with torch.no_grad():
        for batch in ImageLoader(train_and_test(size)[0], size, batch_size=50, shuffle=True):
            encoder(eval_view(size)(batch.image))
    return max(random, scores(encoder, size)[0])


JITTER = {"jitter": (0.8, 0.8, 0.4, 0.02), "grey_p": 0.0, "flip_p": 0.0}
PLAIN = {**JITTER, "crop_scale": (0.5, 1.0)}
PAIR = {**PLAIN, "blur_p": 0.0}
UNLIKE_PAIR = {**PLAIN, "blur_p": (0.0, 0.0), "solarize_p": (0.0, 0.0)}
CROPS = {**JITTER, "global_scale": (0.5, 1.0), "local_count": 0}
SWAV_CROPS = {**CROPS, "blur_p": 0.0}
DINO_CROPS = {**CROPS, "global_blur_p": (0.0, 0.0), "solarize_p": 0.0}
SHAPE_PAIR = {"size": 24, "crop_scale": (0.5, 1.0), "jitter": (0.4, 0.4, 0.4, 0.1), "grey_p": 0.5, "blur_p": 0.0}

HIDDEN = {"hidden_dim": 256}
HEAD = {"hidden_dim": 256, "projection_dim": 64}
MOMENTUM = {**HEAD, "momentum": 0.95}
BYOL = {"hidden_dim": 512, "projection_dim": 32, "momentum": 0.95}
CPC = {"steps": 2, "context_dim": 64, "projection_dim": 32}
DATA2VEC = {"masks": 2, "class_weight": 0.1, "momentum": 0.98}
DINO = {"hidden_dim": 256, "bottleneck_dim": 64, "prototypes": 32, "momentum": 0.95}
SIMSIAM = {"projection_dim": 512, "hidden_dim": 128}
SWAV = {**HEAD, "prototypes": 64, "queue_size": 500, "queue_start": 0.5}

LEARNS: dict[str, dict[str, Any]] = {
    "autoencoder": {"epochs": 3, "lr": 2e-3, "views": {}},
    "barlow_twins": {"epochs": 2, "lr": 2e-3, "views": UNLIKE_PAIR, "method": {"projection_dim": 64}},
    "byol": {"epochs": 4, "lr": 2e-3, "views": UNLIKE_PAIR, "method": BYOL},
    "cpc": {"epochs": 4, "lr": 1e-3, "views": PLAIN, "method": CPC},
    "dcl": {"epochs": 3, "lr": 2e-3, "views": PAIR, "method": HEAD},
    "dense_cl": {"epochs": 3, "lr": 1e-3, "views": PAIR, "method": {**MOMENTUM, "queue_size": 500}},
    "deepcluster_v2": {"epochs": 2, "lr": 2e-3, "views": SWAV_CROPS, "method": {**HEAD, "prototypes": 64}},
    "dino": {"epochs": 4, "lr": 1e-3, "views": DINO_CROPS, "method": DINO},
    "inpainting": {"epochs": 4, "lr": 2e-3, "views": {}, "method": {"code_dim": 32, "discriminator_dim": 8}},
    "lejepa": {
        "epochs": 2,
        "lr": 2e-3,
        "views": {**CROPS, "blur_p": 0.0, "solarize_p": 0.0},
        "method": {**HEAD, "slices": 64},
    },
    "moco": {"epochs": 3, "lr": 2e-3, "views": PAIR, "method": {**MOMENTUM, "queue_size": 500}},
    "moco_v3": {"epochs": 2, "lr": 2e-3, "views": UNLIKE_PAIR, "method": MOMENTUM},
    "nnclr": {"epochs": 3, "lr": 2e-3, "views": PAIR, "method": {**HEAD, "queue_size": 500}},
    "pirl": {"epochs": 1, "lr": 2e-3, "views": {**JITTER, "crop_scale": (0.5, 1.0)}, "method": {"projection_dim": 64}},
    "ressl": {"epochs": 3, "lr": 2e-3, "views": PAIR, "method": {**MOMENTUM, "queue_size": 500}},
    "rotation": {"epochs": 4, "lr": 3e-3, "views": {"size": 24}, "size": 32},
    "simclr": {"epochs": 4, "lr": 3e-3, "views": SHAPE_PAIR, "method": HEAD, "size": 32},
    "simsiam": {"epochs": 4, "lr": 5e-4, "views": PAIR, "method": SIMSIAM},
    "supcon": {"epochs": 3, "lr": 2e-3, "views": PAIR, "method": HEAD},
    "swav": {"epochs": 3, "lr": 2e-3, "views": SWAV_CROPS, "method": SWAV},
    "tico": {"epochs": 3, "lr": 2e-3, "views": UNLIKE_PAIR, "method": {**MOMENTUM, "rho": 8.0}},
    "w_mse": {"epochs": 3, "lr": 2e-3, "views": PAIR, "method": {"hidden_dim": 256, "projection_dim": 16}},
    "vicreg": {"epochs": 2, "lr": 2e-3, "views": UNLIKE_PAIR, "method": {"projection_dim": 64}},
}


# Tasks whose features take longer than a test to pass random ones (docs/results.md has them on photographs): how well
# they answer their question about held-out images, and chance. What colour a shape has cannot be known, that of a
# texture can.
COLOURS = {"epochs": 3, "lr": 3e-3, "views": {"crop_scale": (0.8, 1.0)}, "size": 24}
PUZZLES: dict[str, tuple[dict[str, Any], float]] = {
    "colorization": (COLOURS, 1 / 4),
    "jigsaw": ({"epochs": 3, "lr": 3e-3, "views": {}, "size": 32, "method": {"permutations": 24, **HIDDEN}}, 1 / 24),
    "relative_patch": ({"epochs": 2, "lr": 3e-3, "views": {}, "size": 32, "method": HIDDEN}, 1 / 8),
    "split_brain": (COLOURS, 1 / 4),
}

# Methods that predict what was hidden, on networks whose random features already tell these images apart: their loss
# on held-out images, as a share of that before training.
PAINTERS: dict[str, tuple[dict[str, Any], float]] = {
    "masked_autoencoder": ({"epochs": 3, "lr": 2e-3, "views": {}}, 0.8),
    "simmim": ({"epochs": 3, "lr": 2e-3, "views": {}, "size": 24}, 0.8),
    "i_jepa": ({"epochs": 3, "lr": 1e-3, "views": {}, "size": 24}, 0.8),
    "data2vec2": ({"epochs": 4, "lr": 3e-3, "views": {}, "size": 24, "method": DATA2VEC}, 0.7),
}

# Methods on ViTs, whose random features tell tinted images apart: paler and darker ones they tell less well.
PALE: dict[str, dict[str, Any]] = {
    "dinov2": {"epochs": 6, "lr": 2e-3, "method": DINO},
    "msn": {"epochs": 12, "lr": 1e-3, "method": {**HEAD, "momentum": 0.98, "prototypes": 32}},
}


# Methods whose test is another one.
ELSEWHERE = {
    "audio_visual": "learns from sounds, in its own tests",
    "bigan": "takes time, in its own tests",
    "clip": "learns from captions, in its own tests",
    "distill": "learns from a teacher, below",
    "pixpro": "of positions, in its own tests",
    **dict.fromkeys(PALE, "takes time, below"),
    "ibot": "takes half an hour, see docs/results.md",
}


def train_briefly(train_quickly: Callable, found: type[Method], recipe: dict[str, Any], **more: Any) -> Method:
    options = {"size": 16, "batch_size": 50, "seed": 1, **recipe, **more}
    optimizer = OptimizerConfig(lr=options.pop("lr"))
    return train_quickly(found, train_and_test(options["size"])[0], optimizer=optimizer, **options)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, path in installed_methods().items()
        if path.startswith("ssl_toolkit.")
        and name not in {**PUZZLES, **PAINTERS, **ELSEWHERE}
        and frames_of(method_class(name)) == 1  # what learns from clips alone is taught by a test of its own
    ],
)
def test_learns_and_does_not_collapse(train_quickly: Callable, name: str) -> None:
    doctor = CollapseDoctor(every=2)
    encoder = train_briefly(train_quickly, method_class(name), LEARNS[name], callbacks=[doctor]).kept_encoder
    size = encoder.config.image_size
    accuracy, rank, scatter = scores(encoder, size)
    # Weights that do not move come 0.12 above, for batch norms that have seen a method's views give better features.
    assert accuracy > untrained_accuracy(encoder.config) + {16: 0.2, 32: 0.1}[size]
    assert rank > 10
    assert scatter > 0.2
    assert doctor.findings == []


def test_distills_what_another_method_learned(train_quickly: Callable) -> None:
    teacher = train_briefly(train_quickly, method_class("vicreg"), LEARNS["vicreg"]).kept_encoder
    recipe = {"epochs": 3, "lr": 2e-3, "views": {"crop_scale": (0.5, 1.0)}, "method": {"teacher": teacher}}
    method = train_briefly(train_quickly, method_class("distill"), recipe, out="student")
    accuracy, rank, _ = scores(method.kept_encoder, 16)
    assert accuracy > untrained_accuracy(method.encoder.config) + 0.2
    assert rank > 10


@pytest.mark.slow
def test_a_student_passes_simclr_in_less_time(train_quickly: Callable) -> None:
    """In as many steps, each of one view and a teacher's forward pass in the place of two views, all of one size."""
    teacher = train_briefly(train_quickly, SimCLR, {**LEARNS["simclr"], "epochs": 12}).kept_encoder
    alone = train_briefly(train_quickly, SimCLR, {**LEARNS["simclr"], "epochs": 2}, out="alone").kept_encoder
    views = {"size": 24, "crop_scale": (0.5, 1.0)}
    recipe = {"epochs": 2, "lr": 3e-3, "size": 32, "views": views, "method": {"teacher": teacher}}
    student = train_briefly(train_quickly, method_class("distill"), recipe, out="student").kept_encoder
    good, without, found = (scores(each, 32)[0] for each in (teacher, alone, student))
    assert good > without + 0.05
    assert found > without + 0.03


@pytest.mark.parametrize("name", PUZZLES)
def test_solves_puzzles_of_new_images(train_quickly: Callable, name: str) -> None:
    recipe, chance = PUZZLES[name]
    doctor = CollapseDoctor(every=2)
    method = train_briefly(train_quickly, method_class(name), recipe, callbacks=[doctor]).eval()
    assert doctor.findings == []
    torch.manual_seed(0)
    with torch.no_grad():
        size = recipe["size"]
        batches = list(ImageLoader(train_and_test(size)[1], size, batch_size=100))
        accuracy = np.mean([method.step(method.views(batch.image), batch)["accuracy"].item() for batch in batches])
    assert accuracy > chance + 0.06
    assert effective_rank(features(method, train_and_test(size)[1], size).x) > 10


@pytest.mark.parametrize("name", PAINTERS)
def test_paints_what_was_hidden_of_new_images(train_quickly: Callable, name: str) -> None:
    recipe, share = PAINTERS[name]
    doctor = CollapseDoctor(every=2)
    method = train_briefly(train_quickly, method_class(name), recipe, callbacks=[doctor])
    assert doctor.findings == []
    untrained = train_briefly(train_quickly, method_class(name), recipe | {"epochs": 0}, out="untrained")
    assert loss_of_new_images(method) < share * loss_of_new_images(untrained)


def loss_of_new_images(method: Method) -> float:
    """Mean over batches of a hundred."""
    size = method.encoder.config.image_size
    torch.manual_seed(0)
    with torch.no_grad():
        batches = list(ImageLoader(train_and_test(size)[1], size, batch_size=100))
        return float(
            np.mean([method.eval().step(method.views(batch.image), batch)["loss"].item() for batch in batches])
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", PALE)
def test_learns_what_random_networks_of_its_kind_do_not_see(train_quickly: Callable, name: str) -> None:
    train, test = (tinted(count, seed, paleness=0.9, darkest=0.15) for count, seed in ((1000, 0), (600, 1)))
    options = {"size": 16, "batch_size": 50, "seed": 1, "views": DINO_CROPS, **PALE[name]}
    optimizer = OptimizerConfig(lr=options.pop("lr"))
    encoder = train_quickly(method_class(name), train, optimizer=optimizer, **options).kept_encoder
    found, random = (
        knn(*(features(each, images, 16) for images in (train, test)))["top1"]
        for each in (encoder, encoder.reinitialized(0))
    )
    assert found > random + 0.08


class NothingStopped(SimSiam):
    """Its gradient also flows into the targets."""

    def step(self, views: list[torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
        z = self.projector(self.encoder(torch.cat(views)))
        (z1, z2), (p1, p2) = z.chunk(2), self.predictor(z).chunk(2)
        return {"loss": -(torch.cosine_similarity(p1, z2) + torch.cosine_similarity(p2, z1)).mean() / 2}


@pytest.mark.parametrize(("found", "collapses"), [(SimSiam, False), (NothingStopped, True)])
def test_without_the_stopped_gradient_simsiam_collapses(
    train_quickly: Callable, found: type[SimSiam], collapses: bool
) -> None:
    method = train_briefly(train_quickly, found, LEARNS["simsiam"]).eval()
    projections = features(lambda image: method.projector(method.encoder(image)), train_and_test(16)[1], 16)
    assert (effective_rank(projections.x) < 50) == collapses


def test_first_loss_is_that_of_chance() -> None:
    batch = batch_of(torch.full((64,), -1))
    rotation = small(Rotation)
    loss = rotation.step(rotation.views(batch.image), batch)["loss"].item()
    assert loss == pytest.approx(torch.tensor(4.0).log().item(), abs=0.15)


def test_seed_decides_the_run(train_quickly: Callable, noise_images: Callable) -> None:
    weights = [
        train_quickly(SimCLR, noise_images(16), out=str(number), epochs=1, seed=seed).encoder.sha256
        for number, seed in enumerate((0, 0, 1))
    ]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize("adversary", [False, True])
def test_the_last_step_of_an_epoch_is_over_what_is_left(
    train_quickly: Callable[..., Any], noise_images: Callable[..., Arrays], adversary: bool
) -> None:
    found, method = (Inpainting, tiny_heads(Inpainting) | {"adversarial_weight": 0.001}) if adversary else (SimCLR, {})
    common = {"epochs": 2, "optimizer": OptimizerConfig("sgd", momentum=0.0, warmup=0.0), "method": method}
    images = noise_images(18)  # two batches an epoch
    whole, left = (train_quickly(found, images, out=f"{n}", accumulate=n, **common) for n in (2, 3))
    ours, theirs = (torch.cat([weight.flatten() for weight in each.parameters()]) for each in (left, whole))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)
