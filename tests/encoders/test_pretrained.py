"""Weights that timm fetches: the hub is a folder here, read by timm's and the hub's own code."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.models._hub
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import nn

from ssl_toolkit.encoders import Encoder, EncoderConfig, load_encoder, names_weights, save_encoder, timm_weights
from ssl_toolkit.errors import ToolkitError, UsageError

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., nn.Module]:
    """``hub("timm/name", "architecture")`` puts a network of that architecture there, and returns it."""

    def download(repo_id: str, filename: str, **_: Any) -> str:
        file = tmp_path / repo_id / filename
        if not file.parent.is_dir():
            logging.getLogger("huggingface_hub").warning("Retrying in 1s")
            raise LocalEntryNotFoundError("An error happened\nwhile trying to locate the file")
        if not file.is_file():
            raise EntryNotFoundError(filename)
        return str(file)

    def put(name: str, architecture: str, state: dict[str, Any] | None = None, **about: Any) -> nn.Module:
        torch.manual_seed(0)
        network = timm.create_model(architecture, num_classes=7 if about else 1000).eval()
        folder = tmp_path / name
        folder.mkdir(parents=True)
        save_file(network.state_dict() if state is None else state, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"architecture": architecture, **about}))
        return network

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", download)
    timm_weights.cache_clear()
    return put


def config(name: str, size: int = 32, **options: Any) -> EncoderConfig:
    return EncoderConfig(name, image_size=size, load_size=size, **options)


def test_a_tag_means_timm_s_weights_and_normalisation(hub: Callable[..., nn.Module], tmp_path: Path) -> None:
    theirs = hub("timm/test_resnet.r160_in1k", "test_resnet")
    encoder = Encoder(config("test_resnet.r160_in1k")).eval()
    about = timm.get_pretrained_cfg("test_resnet.r160_in1k")
    assert (encoder.config.name, encoder.config.mean, encoder.config.std) == ("test_resnet", about.mean, about.std)
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features(encoder.normalize(image)), pre_logits=True)
        torch.testing.assert_close(encoder(image), expected)
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    assert load_encoder(tmp_path).sha256 == encoder.sha256
    fresh = encoder.reinitialized(1)
    assert fresh.config == encoder.config
    assert not torch.equal(fresh.backbone.conv1[0].weight, encoder.backbone.conv1[0].weight)


def test_normalisation_that_the_user_gives_wins(hub: Callable[..., nn.Module]) -> None:
    hub("timm/test_resnet.r160_in1k", "test_resnet")
    assert Encoder(config("test_resnet.r160_in1k", mean=MEAN)).config.mean == MEAN


def test_a_vit_takes_weights_for_images_of_another_size(hub: Callable[..., nn.Module]) -> None:
    theirs = hub("timm/test_vit.r160_in1k", "test_vit")
    encoder = Encoder(config("test_vit.r160_in1k", 64)).eval()
    assert encoder.backbone.pos_embed.shape[1] == 1 + 4 * 4
    assert torch.equal(encoder.backbone.blocks[0].attn.qkv.weight, theirs.blocks[0].attn.qkv.weight)
    assert timm_weights("test_vit.r160_in1k").image_size == 160  # type: ignore[union-attr]


def test_grey_images_take_the_sum_over_colours_and_the_mean_of_means(hub: Callable[..., nn.Module]) -> None:
    theirs = hub("timm/test_resnet.r160_in1k", "test_resnet")
    encoder = Encoder(config("test_resnet.r160_in1k", channels=1))
    torch.testing.assert_close(encoder.backbone.conv1[0].weight, theirs.conv1[0].weight.sum(dim=1, keepdim=True))
    about = timm.get_pretrained_cfg("test_resnet.r160_in1k")
    assert encoder.config.mean == pytest.approx((sum(about.mean) / 3,))


def test_the_hub(hub: Callable[..., nn.Module]) -> None:
    about = {"mean": MEAN, "std": STD, "input_size": (3, 96, 96), "first_conv": "conv1.0", "classifier": "fc"}
    theirs = hub("someone/thing", "test_resnet", num_classes=7, pretrained_cfg=about)
    encoder = Encoder(config("hf-hub:someone/thing"))
    assert (encoder.config.name, encoder.config.mean, encoder.config.std) == ("test_resnet", MEAN, STD)
    assert torch.equal(encoder.backbone.layer1[0].conv1.weight, theirs.layer1[0].conv1.weight)
    assert timm_weights("hf-hub:someone/thing").image_size == 96  # type: ignore[union-attr]


def test_weights_of_something_else_are_never_random_ones(hub: Callable[..., nn.Module]) -> None:
    hub("timm/test_resnet.r160_in1k", "test_resnet", {"other.weight": torch.zeros(1)})
    with pytest.raises(
        ToolkitError, match=r"weights of test_resnet.r160_in1k cannot be fetched .*Missing key"
    ) as found:
        Encoder(config("test_resnet.r160_in1k"))
    assert len(str(found.value).splitlines()) == 1


def test_options_that_no_encoder_file_keeps_are_refused(hub: Callable[..., nn.Module]) -> None:
    about = {"mean": MEAN, "std": STD, "input_size": (3, 96, 96)}
    hub("a/pooled", "test_vit", num_classes=7, pretrained_cfg=about, model_args={"global_pool": "avg", "img_size": 96})
    with pytest.raises(UsageError, match="options that an encoder file does not keep: global_pool"):
        Encoder(config("hf-hub:a/pooled"))


@pytest.mark.parametrize("name", ["test_resnet.r160_in1k", "hf-hub:no/such"])
def test_without_the_hub_it_is_one_line(
    name: str, hub: Callable[..., nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ToolkitError, match=f"the weights of {name} cannot be fetched") as found:
        Encoder(config(name))
    assert len(str(found.value).splitlines()) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert logging.getLogger("huggingface_hub").level != logging.CRITICAL


def test_what_timm_does_not_know() -> None:
    with pytest.raises(UsageError, match=r"unknown tag of resnet18 'foo': known are a1_in1k, "):
        Encoder(config("resnet18.foo"))
    with pytest.raises(UsageError, match=r"unknown encoder 'resnet19': did you mean .*resnet18"):
        Encoder(config("resnet19.a1_in1k"))
    assert timm_weights("resnet18") is None
    assert [names_weights(n) for n in ("resnet18", "resnet18.a1_in1k", "hf-hub:a/b", "runs/a.b")] == [
        False, True, True, False
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": "small"}, "weights of a standard stem"),
        ({"colours": "split"}, "a split encoder is two"),
        ({"norm": "layer"}, "for batch norms: give --encoder.norm batch"),
    ],
)
def test_another_network_than_the_weights(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Encoder(config("resnet18.a1_in1k", **options))


@pytest.mark.parametrize(
    "name", ["test_vit", "test_efficientnet", "test_convnext", "mobilenetv3_small_050", "levit_128s", "test_byobnet"]
)
def test_networks_of_many_families_leave_their_classifier_behind(name: str, hub: Callable[..., nn.Module]) -> None:
    tagged = timm.get_pretrained_cfg(name)
    full = f"{name}.{tagged.tag}"
    theirs = hub(f"timm/{full}", name).state_dict()
    encoder = Encoder(config(full, tagged.input_size[-1]))
    for own, tensor in encoder.backbone.state_dict().items():
        assert torch.equal(tensor, theirs[own])
