"""The table of rules: what each line is for, and that what is given wins."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest

from ssl_toolkit.methods import installed_methods, method_class
from ssl_toolkit.tasks.defaults import view_defaults
from ssl_toolkit.tasks.pretraining import pretrain
from ssl_toolkit.tasks.rules import RULES, VIEWS_PER_IMAGE, Case, choose, decide

CIFAR = Case(50_000, 32, cores=2)
IMAGENETTE = Case(9_469, 128, cores=2)
H100 = {"gpu": "nvidia h100 80gb hbm3", "minutes": None}
MILD, STRONGER = [0.2, 0.2, 0.2, 0.05], [0.4, 0.4, 0.4, 0.1]


def chosen(case: Case, method: str = "simclr", **given: Any) -> dict[str, Any]:
    """What is decided for a case, by option, beside what is given."""
    found = method_class(method)
    given = {"method": method, "channels": None} | {name.replace("__", "."): value for name, value in given.items()}
    case = replace(case, default_encoder=found.default_encoder, chosen=given)
    return {choice.option: choice.value for choice in choose(case, view_defaults(found))[1]}


@pytest.mark.parametrize(
    ("case", "method", "expected"),
    [
        (CIFAR, "simclr", {
            "encoder.name": "convnet", "image_size": 32, "views.size": 24, "views.crop_scale": [0.3, 1.0],
            "views.jitter": MILD, "views.blur_p": 0.0, "batch_size": 128, "epochs": 15,
        }),
        (IMAGENETTE, "simclr", {
            "encoder.name": "convnet", "image_size": 64, "views.size": 40, "views.crop_scale": [0.2, 1.0],
            "views.jitter": STRONGER, "views.blur_p": 0.0, "batch_size": 128, "epochs": 27,
        }),
        (CIFAR, "byol", {
            "encoder.name": "convnet", "image_size": 32, "views.size": 24, "views.crop_scale": [0.3, 1.0],
            "views.jitter": MILD, "views.blur_p": [0.0, 0.0], "views.solarize_p": [0.0, 0.0], "batch_size": 128,
            "epochs": 12,
        }),
        (CIFAR, "dino", {
            "encoder.name": "convnet", "image_size": 32, "views.size": 24, "views.jitter": MILD,
            "views.global_blur_p": [0.0, 0.0], "views.local_blur_p": 0.0,
            "views.solarize_p": 0.0, "views.local_count": 0, "batch_size": 128, "epochs": 10,
        }),
        (IMAGENETTE, "masked_autoencoder", {
            "encoder.name": "test_vit", "image_size": 64, "encoder.patch_size": 8, "views.size": 64, "batch_size": 128,
            "epochs": 37,
        }),
        (IMAGENETTE, "jigsaw", {
            "encoder.name": "convnet", "image_size": 64, "views.size": 96, "batch_size": 128, "epochs": 7,
        }),
        (replace(CIFAR, **H100), "simclr", {
            "encoder.name": "resnet18", "image_size": 32, "views.size": 32, "views.blur_p": 0.0, "batch_size": 256,
            "epochs": 100,
        }),
        (replace(IMAGENETTE, side=224, **H100), "dino", {
            "encoder.name": "resnet18", "image_size": 224, "views.size": 224, "batch_size": 256, "epochs": 100,
        }),
        (replace(CIFAR, **H100), "masked_autoencoder", {
            "encoder.name": "vit_tiny_patch16_224", "image_size": 32, "views.size": 32, "batch_size": 256,
            "epochs": 100,
        }),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_fits_a_machine_and_its_images(case: Case, method: str, expected: dict[str, Any]) -> None:
    found = chosen(case, method)
    assert found == expected


def test_views_of_clips_are_those_of_the_recipe() -> None:
    assert "views.jitter" in chosen(CIFAR, "cpc")
    assert "views.jitter" not in chosen(replace(CIFAR, frames=8), "cpc")


def test_views_of_a_vit_have_the_size_of_the_images() -> None:
    assert chosen(CIFAR, encoder__name="test_vit")["views.size"] == 32


def test_what_is_given_is_kept_and_what_follows_from_it_follows() -> None:
    found = chosen(CIFAR, views__blur_p=0.5, views__size=32, epochs=3, image_size=32)
    assert not {"views.blur_p", "views.size", "epochs", "image_size"} & set(found)
    assert found["views.jitter"] == MILD
    assert chosen(CIFAR, encoder__name="resnet18", encoder__patch_size=None)["epochs"] == 1
    assert "views.jitter" not in chosen(CIFAR, encoder__name="resnet18")
    assert chosen(CIFAR, encoder__name="vit_small_patch16_224")["epochs"] == 100  # of unknown speed
    assert chosen(IMAGENETTE, image_size=128)["views.size"] == 80


@pytest.mark.parametrize("cores", [1, 2, 4])
def test_the_epochs_fill_the_time(cores: int) -> None:
    case, choices = choose(
        replace(CIFAR, cores=cores, chosen={"method": "simclr", "channels": None}),
        view_defaults(method_class("simclr")),
    )
    seconds = case.seconds_per_epoch()
    assert seconds is not None
    epochs = next(choice.value for choice in choices if choice.option == "epochs")
    assert epochs * seconds <= 20 * 60 < (epochs + 1) * seconds


def test_many_cores_count_as_eight_and_few_images_end_early() -> None:
    assert chosen(replace(CIFAR, cores=8)) == chosen(replace(CIFAR, cores=64))
    few = chosen(Case(100, 32, cores=2))
    assert (few["epochs"], few["batch_size"]) == (200, 16)
    assert [chosen(Case(n, 32))["batch_size"] for n in (5, 64, 200, 512, 10**6)] == [5, 16, 32, 128, 128]


def test_a_gpu_whose_speed_is_known_fills_the_time() -> None:
    on = replace(CIFAR, gpu="nvidia h100 80gb hbm3", minutes=30.0)
    assert chosen(on)["epochs"] == int(30 * 60 / (50_000 / 17_700))
    assert chosen(replace(on, gpu="nvidia a100"))["epochs"] == 100


def decided(option: str, **facts: Any) -> Any:
    choice = decide(option, replace(CIFAR, **facts))
    return choice and choice.value


def test_a_method_is_chosen_by_what_the_images_are() -> None:
    assert decided("method") == "simclr"
    assert decided("method", copies=0.3) == "vicreg"
    assert decided("method", frames=8, copies=0.3) == "cpc"


def test_channels_and_sizes_that_say_nothing_are_left_out() -> None:
    assert decided("channels", grey=0.99) == 1
    assert decided("channels", grey=0.5) is None
    assert decided("channels", grey=1.0, channels=1) is None
    small = {"encoder.name": "convnet"}
    assert decided("image_size", side=128, detail=0.25, chosen=small) == 32
    assert decided("image_size", side=224, detail=0.5, chosen=small) == 64
    assert decided("image_size", side=224, detail=0.5) == 112


def test_every_rule_is_for_an_option_and_says_why_and_whence() -> None:
    known = set(inspect.signature(pretrain).parameters) | {"encoder.name", "encoder.patch_size"}
    known |= {f"views.{name}" for method in installed_methods() for name in view_defaults(method_class(method))}
    assert set(RULES) <= known
    assert set(VIEWS_PER_IMAGE) <= set(installed_methods())
    for rules in RULES.values():
        for rule in rules:
            assert rule.reason.format(**vars(CIFAR))
            assert rule.source
