"""`pretrain` in Python: every kind of object it takes, every one it refuses in a line, and what is left of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from torch import Tensor, nn

from ssl_toolkit import Run, pretrain
from ssl_toolkit.augment import OwnViews, simclr_views
from ssl_toolkit.contrastive.simclr import SimCLR
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.encoders import Encoder, EncoderConfig, load_encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.logs import CsvLog
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.tasks.assembly import assemble
from ssl_toolkit.tasks.diagnosis import doctor
from ssl_toolkit.tasks.pretraining import settings_of, stored_settings

IMAGES = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)
TINY: dict[str, Any] = {
    "method": "simclr", "data": IMAGES, "encoder": "convnet", "image_size": 16, "epochs": 1, "batch_size": 8,
    "workers": 0, "progress": False, "doctor": False, "logger": "csv", "accelerator": "cpu", "out": "unused",
}  # fmt: skip


class Net(nn.Module):
    """A network of the user's own, with the batch norm and the flattening that make memory layouts matter."""

    def __init__(self, form: str = "vector", channels: int = 3) -> None:
        super().__init__()
        self.conv, self.norm, self.form = nn.Conv2d(channels, 12, 3, 2, 1), nn.BatchNorm2d(12), form

    def forward(self, image: Tensor) -> Tensor:
        found = self.norm(self.conv(image)).relu()
        if self.form == "vector":
            return nn.functional.adaptive_avg_pool2d(found, 1).view(len(found), -1)
        return found if self.form == "map" else found.flatten(2).transpose(1, 2)


class Wide(SimCLR):
    """A method of the user's own."""


def built(**given: Any) -> tuple[Any, dict[str, Any]]:
    """The method that `pretrain` would train, and its settings."""
    settings = settings_of(TINY | given)
    return assemble(settings)[1], settings


def trained(out: Path, **given: Any) -> Run:
    return pretrain(**{**TINY, "out": out, **given})


# --- method ----------------------------------------------------------------------------------------------------------


def test_a_method_by_name_class_dictionary_and_path_is_the_same() -> None:
    ways: list[Any] = ["simclr", SimCLR, {"name": SimCLR}, {"name": "simclr"}, "ssl_toolkit.contrastive.simclr.SimCLR"]
    states = []
    for way in ways:
        method, settings = built(method=way)
        assert type(method) is SimCLR
        states.append(method.state_dict())
        assert stored_settings(settings)["method"]["temperature"] == 0.2
    assert stored_settings(settings_of(TINY | {"method": SimCLR}))["method"]["name"] == "simclr"
    for state in states[1:]:
        assert all(torch.equal(state[name], states[0][name]) for name in states[0])


def test_options_of_a_method_reach_it() -> None:
    assert built(method={"name": SimCLR, "temperature": 0.7})[0].temperature == 0.7


def test_a_method_that_is_there_is_trained_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    method = Wide(Encoder(EncoderConfig("convnet", image_size=16, load_size=16)), simclr_views(16), temperature=0.5)
    before = method.encoder.backbone.features[0].weight.detach().clone()
    given = {"method": method, "encoder": None, "image_size": None}
    run = trained(tmp_path / "run", **given)
    after = method.encoder.backbone.features[0].weight
    assert not torch.equal(after, before)
    torch.testing.assert_close(run.encoder.backbone.features[0].weight, after)
    assert run.config["method"]["name"] == "<test_pretraining.Wide>"
    with pytest.raises(UsageError, match=r"^method was an object of Python, <test_pretraining\.Wide>.*again in Python"):
        doctor(str(run))
    assert "was an object of Python" in run.report(images=8, workers=0, progress=False).read_text()


# --- encoder ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "maps"), [("vector", False), ("map", True), ("tokens", False)])
def test_a_module_of_any_form_is_an_encoder(form: str, maps: bool) -> None:
    network = Net(form)
    method, settings = built(encoder=network)
    assert method.encoder.feature_dim == 12
    assert method.encoder(torch.rand(2, 3, 16, 16)).shape == (2, 12)
    assert method.encoder.backbone.module is not network  # a copy is trained
    assert stored_settings(settings)["encoder"]["name"] == "<test_pretraining.Net>"
    if maps:
        assert method.encoder.map_shape() == (12, 8, 8)
    else:
        with pytest.raises(UsageError, match=r"^encoder <test_pretraining\.Net> gives features .* maps \(N, D, h, w\)"):
            built(encoder=network, method="autoencoder")


def test_an_own_module_is_trained_saved_and_loaded_again(tmp_path: Path) -> None:
    network = Net()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    run = trained(tmp_path / "run", encoder=network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(UsageError, match=r"<test_pretraining\.Net>.*load_encoder\(path, backbone=module\)"):
        load_encoder(run)
    loaded = load_encoder(run, backbone=Net())
    assert loaded.sha256 == run.encoder.sha256
    assert not torch.equal(loaded.backbone.module.conv.weight, before["conv.weight"])
    with pytest.raises(UsageError, match="was an object of Python"):
        _ = Run(run.path).encoder
    scores = run.evaluate("shapes:train:40", "shapes:test:20", protocol="knn", workers=0, progress=False)
    assert set(scores["results"]) == {"trained", "random", "pixels"}
    on = pretrain(**{**TINY, "out": tmp_path / "on", "encoder": run.encoder})
    assert on.encoder.config == run.encoder.config


def test_an_encoder_that_is_there_is_copied_and_resized() -> None:
    given = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
    method, _ = built(encoder=given)
    assert method.encoder is not given
    assert method.encoder.config.image_size == 16
    assert torch.equal(method.encoder.backbone.features[0].weight, given.backbone.features[0].weight)
    method, _ = built(encoder=given, image_size=None)
    assert method.encoder.config.image_size == 32


# --- views and optimiser ---------------------------------------------------------------------------------------------


def test_a_function_is_applied_once_a_view() -> None:
    calls: list[tuple[int, ...]] = []

    def shift(image: Tensor) -> Tensor:
        calls.append(tuple(image.shape))
        assert image.is_floating_point()
        return image.roll(len(calls), dims=3)

    method, settings = built(views=shift, load_size=20)
    assert isinstance(method.views, OwnViews)
    calls.clear()
    image = torch.randint(0, 256, (4, 3, 20, 20), dtype=torch.uint8)
    first, second = method.views(image)
    assert calls == [(4, 3, 20, 20)] * 2
    torch.testing.assert_close(first, (image / 255).roll(1, dims=3))
    torch.testing.assert_close(second, (image / 255).roll(2, dims=3))
    assert "shift" in stored_settings(settings)["views"]


def test_a_function_gets_central_squares_of_unequal_images() -> None:
    views = OwnViews(lambda image: image, 1, 4)
    image = torch.zeros(2, 1, 4, 8, dtype=torch.uint8)
    image[0, :, :, 2:6], image[1, :, :, :4] = 255, 51
    (made,) = views(image, torch.tensor([[4, 8], [4, 4]]))
    torch.testing.assert_close(made, torch.tensor([1.0, 0.2]).view(2, 1, 1, 1).expand(2, 1, 4, 4))


def test_views_are_taken_as_they_are_and_options_reach_the_recipe() -> None:
    views = simclr_views(16, flip_p=0.25)
    assert built(views=views)[0].views is views
    _, settings = built(views={"flip_p": 0.25})
    assert stored_settings(settings)["views"] | {"flip_p": 0.25, "size": 16} == stored_settings(settings)["views"]


def test_an_optimiser_by_config_dictionary_and_function() -> None:
    for way in (OptimizerConfig(lr=0.5), {"lr": 0.5}):
        assert built(optimizer=way)[0].optimizer_config == OptimizerConfig(lr=0.5)
    method, _ = built(optimizer=lambda groups: torch.optim.SGD(groups, lr=0.5, weight_decay=0.1))
    method.total_steps = 10
    made = method.configure_optimizers()
    assert isinstance(made["optimizer"], torch.optim.SGD)
    assert [group["weight_decay"] for group in made["optimizer"].param_groups] == [0.1, 0.0]  # norms and biases
    assert made["lr_scheduler"]["scheduler"].base_lrs == [0.5, 0.5]
    count = sum(p.numel() for group in made["optimizer"].param_groups for p in group["params"])
    assert count == sum(p.numel() for p in method.parameters() if p.requires_grad)


# --- callbacks and loggers -------------------------------------------------------------------------------------------


class Count(pl.Callback):
    steps = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.steps += 1


def test_callbacks_and_loggers_are_called(tmp_path: Path) -> None:
    counter, log = Count(), CsvLog(tmp_path / "own.csv")
    run = trained(tmp_path / "run", callbacks=counter, logger=["csv", log], epochs=2)
    assert counter.steps == 4
    assert (tmp_path / "own.csv").read_text() == (run / "metrics.csv").read_text()
    assert run.config["callbacks"] == ["<test_pretraining.Count>"]
    assert run.config["logger"] == ["csv", "<ssl_toolkit.logs.CsvLog>"]
    assert not (run / "tensorboard").exists()
    trained(tmp_path / "two", callbacks=[counter, Count()])
    assert counter.steps == 6


# --- what is refused -------------------------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], str]] = [
    ({"method": 3}, r"method is <int>: give a name, or a class or instance"),
    ({"method": nn.Linear}, r"method is <torch.nn.modules.linear.Linear>: give a name"),
    ({"method": {"name": "simclr", "temprature": 1}}, r"'method.temprature': did you mean method.temperature"),
    ({"method": {"name": "simclr", "temperature": "hot"}}, r"--method.temperature is 'hot': it must be a number"),
    ({"data": 7}, r"data is <int>: give a word or path, a list of paths"),
    ({"data": np.zeros((4, 4), np.uint8)}, r"data <numpy.ndarray \(4, 4\) uint8>: shape"),
    ({"data": IMAGES.astype(float)}, r"data <numpy.ndarray .*: float values from 0 to 255"),
    ({"data": IMAGES[:4]}, r"too few for one batch of 8"),
    ({"encoder": 5}, r"encoder is <int>: give a name, a run"),
    ({"encoder": Net(channels=1)}, r"encoder <test_pretraining.Net> cannot take images \(2, 3, 16, 16\)"),
    ({"encoder": nn.LSTM(16, 4)}, r"encoder <torch.nn.modules.rnn.LSTM> cannot take"),
    ({"encoder": {"name": "convnet", "nrom": "layer"}}, r"'encoder.nrom': did you mean encoder.norm"),
    ({"encoder": Encoder(EncoderConfig("convnet", channels=1))}, r"Encoder> takes 1 channels.*--channels 1"),
    ({"views": 3}, r"views is <int>: give a dictionary"),
    ({"views": {"flip": 1}}, r"'views.flip': did you mean views.flip_p"),
    ({"views": {"crop_scale": 0.2}}, r"--views.crop-scale is 0.2: it must be \(a number, a number\)"),
    ({"views": lambda image: image.mean()}, r"views makes \(\) .*: it must give images"),
    ({"views": lambda image: image.to(torch.uint8)}, r"views makes .* torch.uint8: it must give floats"),
    ({"optimizer": "adam"}, r"optimizer is <str of 4>: give an OptimizerConfig"),
    ({"optimizer": {"lrr": 1}}, r"'optimizer.lrr': did you mean optimizer.lr"),
    ({"optimizer": {"lr": -1.0}}, r"--optimizer.lr is -1.0"),
    ({"optimizer": {"name": "sgd", "betas": (0.9, 0.95)}}, r"--optimizer.betas is for adamw and adam"),
    ({"optimizer": {"betas": 0.9}}, r"--optimizer.betas is 0.9: it must be \(a number, a number\) or None"),
    ({"optimizer": {"bias_lr_share": 2}}, r"--optimizer.bias-lr-share is 2: it must be from 0 to 1"),
    ({"clip_mode": "parameter"}, r"--clip-mode parameter clips to --clip-gradient, which is 0"),
    ({"encoder": {"name": "convnet", "heads": 2}}, r"--encoder.heads 2 is for vision transformers"),
    (
        {"encoder": {"name": "convnet", "checkpoint_activations": True}},
        r"--encoder.checkpoint-activations is for",
    ),
    ({"strategy": "fsdp"}, r"--strategy fsdp shares weights out over processes, and there is one: give more --dev"),
    ({"strategy": "fsdp", "devices": 2, "precision": "16-mixed"}, r"does not go with --precision 16-mixed"),
    ({"strategy": "fsdp", "devices": 2, "compile": "always"}, r"does not go with --compile always"),
    ({"strategy": "fsdp", "devices": 2, "method": "inpainting"}, r"does not go with Inpainting and its adversary"),
    ({"nodes": 2}, r"--nodes is 2, and nothing has started this process among others"),
    ({"nodes": 0}, r"--nodes is 0: it must be at least 1"),
    ({"seeds": 2, "nodes": 2}, r"--nodes is 2: with --seeds it must be 1"),
    ({"callbacks": [3]}, r"callbacks holds <int>: it must be a callback"),
    ({"callbacks": "early"}, r"callbacks holds <str of 5>"),
    ({"logger": "wandbb"}, r"unknown logger 'wandbb': did you mean wandb"),
    ({"logger": 3}, r"logger is <int>: give a name"),
    ({"epochs": "many"}, r"--epochs is 'many': it must be a whole number"),
    ({"epochs": True}, r"--epochs is True: it must be a whole number"),
    ({"workers": "all"}, r"--workers is 'all': it must be a whole number or auto"),
    ({"cache": "gpu"}, r"--cache is 'gpu': it must be auto or device or memory or none"),
    ({"progress": 1}, r"--progress is 1: it must be True or False"),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=lambda value: value[:40] if isinstance(value, str) else None)
def test_what_does_not_fit_is_said_in_a_line(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        trained(tmp_path / "run", **given)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_views_that_leave_the_unit_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"after views, takes uint8 or uint16 images or floats in \[0, 1\]"):
        built(views=lambda image: 2 * image - 1)


@pytest.mark.parametrize(("name", "extra"), [("tensorboard", "tb"), ("wandb", "wandb"), ("mlflow", "mlflow")])
def test_a_logger_that_is_not_installed_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, extra: str
) -> None:
    monkeypatch.setattr("ssl_toolkit.logs.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=rf"logger {name} needs .* pip install '\.\[{extra}\]'"):
        trained(tmp_path / "run", logger=name)


def test_a_method_that_is_there_needs_no_other_parts() -> None:
    method = SimCLR(Encoder(EncoderConfig("convnet", image_size=16, load_size=16)), simclr_views(16))
    given = {"method": method, "encoder": None}
    for name, value in (("encoder", "convnet"), ("views", {"flip_p": 0.0}), ("optimizer", {"lr": 0.1})):
        with pytest.raises(UsageError, match=rf"its own {name}: leave {name} out"):
            built(**given | {name: value})
    with pytest.raises(
        UsageError, match=r"image_size 24, load_size 24: the method's encoder has its own: leave that out"
    ):
        built(**given | {"image_size": 24})


# --- what is stored, and going on ------------------------------------------------------------------------------------


def test_a_run_from_before_options_existed_goes_on(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    given: dict[str, Any] = {"data": str(tmp_path / "images.npy"), "views": {"flip_p": 0.25}}
    run = trained(tmp_path / "run", **given)
    config = yaml.safe_load((run / "config.yaml").read_text())
    for group, option in ((config, "recalibrate"), (config["optimizer"], "betas"), (config["views"], "grey_p")):
        del group[option]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    trained(tmp_path / "run", **given, resume=True)
    with pytest.raises(UsageError, match=r"--recalibrate is 8, but the run in .* has 0"):
        trained(tmp_path / "run", **given, resume=True, recalibrate=8)


def test_numbers_of_numpy_and_paths_are_stored_as_plain_values(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    run = trained(
        tmp_path / "run", data=tmp_path / "images.npy", epochs=np.int64(1), optimizer={"lr": np.float32(0.5)},
        views={"crop_scale": (0.5, 1.0)},
    )  # fmt: skip
    text = (run / "config.yaml").read_text()
    stored = yaml.safe_load(text)
    assert (stored["data"], stored["epochs"], stored["out"]) == (str(tmp_path / "images.npy"), 1, str(run))
    assert (stored["optimizer"]["lr"], stored["views"]["crop_scale"]) == (0.5, [0.5, 1.0])


def test_a_run_with_objects_goes_on_where_they_are_given_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ssl_toolkit import cli

    given = {"encoder": Net(), "views": lambda image: image.flip(3), "callbacks": [Count()], "epochs": 2}
    given["optimizer"] = lambda groups: torch.optim.SGD(groups, lr=0.01)
    whole = trained(tmp_path / "whole", **given)
    part = trained(tmp_path / "part", checkpoint_every=1, **given)
    for file in sorted((part / "checkpoints").iterdir())[1:]:  # as if killed before the end
        file.unlink()
    (part / "encoder.safetensors").unlink()
    assert part.resume().encoder.sha256 == whole.encoder.sha256

    with pytest.raises(UsageError, match=r"^encoder was an object of Python, <test_pretraining\.Net>"):
        Run(part.path).resume(data=IMAGES)
    again = Run(part.path).resume(data=IMAGES, **given)
    assert again.encoder.sha256 == whole.encoder.sha256
    with pytest.raises(UsageError, match=r"--data is <numpy.ndarray \(8, 16, 16, 3\) uint8>, but the run in .* has"):
        Run(part.path).resume(**{**given, "data": IMAGES[:8]})

    monkeypatch.setattr("sys.argv", ["ssl-toolkit", "pretrain", "--out", str(part), "--resume"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2
    assert "was an object of Python" in said


@pytest.mark.parametrize("logger", [["csv"], False, True])
def test_loggers_of_every_form_are_read_again_on_the_command_line(tmp_path: Path, logger: Any) -> None:
    from ssl_toolkit.cli import dispatch

    run = trained(tmp_path / "run", data="shapes:train:16", logger=logger)
    assert run.config["logger"] == logger
    (run / "encoder.safetensors").unlink()
    dispatch(["pretrain", "--out", str(run), "--resume", "--progress", "false"])
    assert (run / "encoder.safetensors").is_file()


def test_the_doctor_finds_what_python_trained(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", data="shapes:train:64", method=Wide, views={"flip_p": 0.0})
    assert run.config["method"]["name"] == "test_pretraining.Wide"
    assert set(doctor(str(run), images=32, workers=0)["measures"]) == {"embedding", "features", "step"}


def test_an_image_set_is_data(tmp_path: Path) -> None:
    images = open_images("shapes:train:32")
    run = trained(tmp_path / "run", data=images)
    assert run.config["data"].startswith("<ssl_toolkit.data.shapes.ShapesSet of 32>")
    assert (images.labels >= 0).all()  # the caller's own is left alone
