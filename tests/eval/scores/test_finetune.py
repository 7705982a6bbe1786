"""Fine-tuning: learning rates by depth, soft targets, averages, the best epoch, and a test set that chooses nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn

from ssl_toolkit.augment import finetune_views
from ssl_toolkit.cli import dispatch
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.encoders import ConvNet, Encoder, EncoderConfig, load_encoder, save_encoder
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.eval.features.extraction import Features
from ssl_toolkit.eval.report.compare import compare_runs
from ssl_toolkit.eval.scores import finetune as module
from ssl_toolkit.eval.scores.classifier import (
    Classifier,
    classify,
    load_classifier,
    save_classifier,
    score,
    ten_crop,
)
from ssl_toolkit.eval.scores.finetune import BestEpoch, FineTuning, layer_depths
from ssl_toolkit.eval.scores.linear_probe import fit_softmax
from ssl_toolkit.logs import read_metrics
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.tasks.finetuning import finetune
from tests.conftest import Arrays
from tests.test_training import StopAt, same_weights

CLASSES = ["a", "b", "c", "d"]


def tuning(encoder: Encoder, **options: Any) -> FineTuning:
    return FineTuning(encoder, finetune_views(encoder.config.image_size), classes=CLASSES, **options)


def classifier_of(encoder: Encoder) -> Classifier:
    return Classifier(encoder, nn.Linear(encoder.feature_dim, 4), CLASSES).eval()


# Learning rates.

DEPTHS = {
    "convnet": {"features.0.weight": 0, "features.1.bias": 0, "features.3.weight": 1, "features.14.weight": 4},
    "resnet18": {"conv1.weight": 0, "bn1.bias": 0, "layer1.0.conv1.weight": 1, "layer4.1.bn2.weight": 8},
    "vit_tiny_patch16_224": {"cls_token": 0, "pos_embed": 0, "blocks.0.norm1.bias": 1, "blocks.11.mlp.fc2.weight": 12},
}


@pytest.mark.parametrize("name", DEPTHS)
def test_each_weight_takes_the_learning_rate_of_its_depth(name: str) -> None:
    encoder = Encoder(EncoderConfig(name, image_size=32, load_size=32))
    depths, last = layer_depths(encoder), max(DEPTHS[name].values())
    assert {key: depths[key] for key in DEPTHS[name]} == DEPTHS[name]
    assert set(depths) == dict(encoder.backbone.named_parameters()).keys()
    assert sorted(set(depths.values())) == list(range(last + 1))

    method = tuning(encoder, optimizer=OptimizerConfig(lr=0.3, weight_decay=0.1, warmup=0), layer_decay=0.5)
    groups = method.configure_optimizers()["optimizer"].param_groups
    lr = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    for key, parameter in encoder.backbone.named_parameters():
        decay = 0 if parameter.ndim <= 1 else 0.1
        assert lr.pop(id(parameter)) == (pytest.approx(0.3 * 0.5 ** (last + 1 - depths[key])), decay)
    assert lr == {id(method.head.weight): (0.3, 0.1), id(method.head.bias): (0.3, 0)}
    assert groups[0]["lr"] == 0.3  # which is the one that metrics.csv shows


def test_the_schedule_moves_all_rates_together(small_encoder: Encoder) -> None:
    method = tuning(small_encoder, optimizer=OptimizerConfig(lr=1.0, warmup=0.5, schedule="linear"), layer_decay=0.5)
    method.total_steps = 8
    configured = method.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    for factor in (0.25, 0.5, 0.75, 1, 1, 0.75):
        rates = sorted({group["lr"] for group in optimizer.param_groups}, reverse=True)
        assert rates == pytest.approx([factor * 0.5**depth for depth in range(6)])
        optimizer.step()
        schedule.step()


def test_without_layer_decay_there_is_one_rate_and_no_need_of_depths(
    small_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ConvNet, "group_matcher")
    assert tuning(small_encoder, layer_decay=1).lr_scales() == {}
    with pytest.raises(UsageError, match="no layers of convnet: give --layer-decay 1"):
        tuning(small_encoder).lr_scales()


# The loss.


LOGITS = torch.tensor([1.0, 0.5, -2.0, 0.1])


def undecided(encoder: Encoder, **options: Any) -> FineTuning:
    """Its classifier says `LOGITS` of every image."""
    method = tuning(encoder, **options)
    nn.init.zeros_(method.head.weight)
    method.head.bias.data = LOGITS
    return method


@pytest.fixture
def batch() -> Batch:
    image = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return Batch(image, torch.tensor([0, 0, 0, 1, 1, 2, 3, 3]), torch.arange(8))


def test_smoothing_spreads_its_share_over_all_classes(small_encoder: Encoder, batch: Batch) -> None:
    log_p = LOGITS.log_softmax(0)
    found = undecided(small_encoder, label_smoothing=0.2).step([batch.image], batch)
    torch.testing.assert_close(found["loss"], -(0.8 * log_p[batch.label].mean() + 0.2 * log_p.mean()))
    assert found["accuracy"] == 3 / 8


def test_mixup_compares_with_both_labels_by_their_shares(small_encoder: Encoder, batch: Batch) -> None:
    log_p, method = LOGITS.log_softmax(0), undecided(small_encoder, mixup=1.0, label_smoothing=0.0)
    torch.manual_seed(3)
    torch.randint(1, ())  # which of the mixes
    keep, partner = method.mixes[0].draw(8)
    torch.manual_seed(3)
    found = method.step([batch.image], batch)
    expected = keep * log_p[batch.label] + (1 - keep) * log_p[batch.label[partner]]
    torch.testing.assert_close(found["loss"], -expected.mean())
    assert 0.05 < keep < 0.95
    assert found.keys() == {"loss"}  # accuracy of mixed images means nothing


def test_with_both_each_batch_draws_mixup_or_cutmix(small_encoder: Encoder, batch: Batch) -> None:
    method, seen = tuning(small_encoder, mixup=0.2, cutmix=1.0), []
    for mix in method.mixes:
        mix.register_forward_hook(lambda mix, *_: seen.append(type(mix).__name__))
    torch.manual_seed(0)
    for _ in range(40):
        method.step([batch.image], batch)
    assert seen.count("Mixup") + seen.count("CutMix") == 40
    assert 10 < seen.count("Mixup") < 30
    assert not len(tuning(small_encoder).mixes)


# What follows the weights.


class Record(pl.Callback):
    """The classifier's weight after each step, and what is kept after each epoch."""

    def __init__(self) -> None:
        self.trained: list[Tensor] = []
        self.kept: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.trained.append(pl_module.head.weight.detach().clone())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.kept.append({name: tensor.clone() for name, tensor in pl_module.classifier.state_dict().items()})


def test_the_average_is_that_of_its_recurrence(train_quickly: Callable, noise_images: Callable) -> None:
    record = Record()
    options = {"classes": CLASSES, "ema": 0.6}
    method = train_quickly(FineTuning, noise_images(24), epochs=3, method=options, callbacks=[record])
    average = record.trained[0]
    for step, weight in enumerate(record.trained[1:], start=2):
        decay = min(0.6, 1 - step ** (-2 / 3))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(method.classifier.head.weight, average)
    assert not torch.allclose(method.classifier.head.weight, method.head.weight)
    assert method.kept_encoder is method.classifier.encoder is not method.encoder
    buffers = [
        dict(m.named_buffers())["backbone.features.1.running_mean"] for m in (method.kept_encoder, method.encoder)
    ]
    assert not torch.allclose(*buffers)


def test_without_an_average_the_trained_weights_are_kept(small_encoder: Encoder) -> None:
    method = tuning(small_encoder, ema=0.0)
    method.after_update()
    assert method.kept_encoder is small_encoder
    assert method.classifier.head is method.head


def test_the_classifier_starts_as_the_probe_and_so_does_its_average(small_encoder: Encoder) -> None:
    generator = np.random.default_rng(0)
    label = np.arange(40) % 4
    x = generator.normal(size=(40, small_encoder.feature_dim)).astype(np.float32)
    probe = fit_softmax(Features(x, label, np.arange(40)), 0.1)
    method = tuning(small_encoder, probe=probe)
    for head in (method.head, method.classifier.head):
        torch.testing.assert_close(head(torch.from_numpy(x)), torch.from_numpy(probe.logits(x)), atol=1e-4, rtol=1e-4)


# Test-time augmentation.


class Mean(nn.Module):
    """Features that no mirror image changes: the mean of each channel."""

    def forward(self, image: Tensor) -> Tensor:
        return 40 * image.mean(dim=(2, 3))


def averaging_classifier(image_size: int, load_size: int) -> Classifier:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig("convnet", image_size=image_size, load_size=load_size))
    encoder.backbone = Mean()
    return Classifier(encoder, nn.Linear(3, 4), CLASSES).eval()


def test_test_time_augmentation_is_the_mean_of_probabilities() -> None:
    image = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    classifier = averaging_classifier(8, 12)
    corners = [image[..., y : y + 8, x : x + 8] for y, x in ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2))]
    expected = sum(classifier(corner).softmax(1) for corner in corners) / 5  # mirror images say the same
    torch.testing.assert_close(classifier.probabilities(image, augment=True), expected)
    torch.testing.assert_close(classifier.probabilities(image), classifier(corners[4]).softmax(1))
    assert not torch.allclose(expected, classifier.probabilities(image))
    assert len(ten_crop(image, classifier.encoder)) == 10


def test_what_no_mirror_image_changes_is_not_changed_by_mirroring(small_encoder: Encoder) -> None:
    image = torch.randint(0, 256, (2, 3, 20, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    classifier = averaging_classifier(16, 16)
    torch.testing.assert_close(classifier.probabilities(image, augment=True), classifier.probabilities(image))
    whole, mirrored = ten_crop(image, small_encoder)
    torch.testing.assert_close(whole, image[:, :, 2:18] / 255)
    assert torch.equal(mirrored, whole.flip(3))
    other = classifier_of(small_encoder)
    assert not torch.allclose(other.probabilities(image, augment=True), other.probabilities(image))


# The best epoch.


def scripted(monkeypatch: pytest.MonkeyPatch, scores: list[tuple[float, float]]) -> None:
    """Answers of the epochs to come, as (share of ten images named right, probability of the true class)."""
    answers = iter(scores)

    def answer(*_: Any, **__: Any) -> Features:
        share, p = next(answers)
        x = np.full((10, 2), [p, 1 - p], np.float32)
        wrong = round(10 * (1 - share))
        x[:wrong] = [0.4, 0.6]
        return Features(x, np.zeros(10, np.int64), np.arange(10))

    monkeypatch.setattr(module, "classify", answer)


def test_training_stops_when_patience_has_run_out_and_the_best_weights_come_back(
    train_quickly: Callable, noise_images: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The third equals the second in accuracy and has the lower loss.
    scripted(monkeypatch, [(0.5, 0.9), (0.8, 0.7), (0.8, 0.9), (0.7, 0.95), (0.8, 0.9), (1.0, 1.0)])
    record, best = Record(), BestEpoch([], patience=2)
    method = train_quickly(
        FineTuning, noise_images(16), epochs=6, method={"classes": CLASSES}, callbacks=[best, record]
    )
    assert len(record.kept) == 5
    assert best.best_epoch == 3
    assert best.best["val_top1"] == pytest.approx(0.8)
    assert best.best["val_loss"] == pytest.approx(-(8 * np.log(0.9) + 2 * np.log(0.4)) / 10)
    best.restore(method)
    for name, tensor in method.classifier.state_dict().items():
        assert torch.equal(tensor, record.kept[2][name]), name
    assert not torch.equal(record.kept[2]["head.weight"], record.kept[4]["head.weight"])
    logged = [row["val_top1"] for row in read_metrics(tmp_path / "run" / "metrics.csv") if row["val_top1"]]
    assert [float(value) for value in logged] == pytest.approx([0.5, 0.8, 0.8, 0.7, 0.8])


def test_without_patience_all_epochs_are_seen(
    train_quickly: Callable, noise_images: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [(0.5, 0.9), (0.4, 0.9), (0.3, 0.9), (0.2, 0.9)])
    best = BestEpoch([])
    train_quickly(FineTuning, noise_images(16), epochs=4, method={"classes": CLASSES}, callbacks=[best])
    assert (best.epoch, best.best_epoch) == (4, 1)


class EndOf(pl.Callback):
    """Dies after the last checkpoint of an epoch, and before anything is made of that epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch + 1 == self.epoch:
            raise StopAt.Killed


def test_killed_at_any_step_it_resumes_to_the_same_classifier(
    train_quickly: Callable, noise_images: Callable, tmp_path: Path
) -> None:
    images = noise_images(26)  # three batches an epoch
    others = Arrays(images.pixels[:12], (images.labels[:12] + 1) % 4)  # what is learnt is wrong here
    options = {"classes": CLASSES, "mixup": 0.2, "cutmix": 1.0}

    def run(out: str, *stops: pl.Callback) -> tuple[FineTuning, BestEpoch, list[Any]]:
        best = BestEpoch(ImageLoader(others, 16), patience=2)
        method = train_quickly(
            FineTuning, images, out=out, epochs=8, checkpoint_every=1, resume=True, method=options,
            callbacks=[*stops, best],
        )  # fmt: skip
        rows = [(row["step"], row["loss"], row["val_loss"]) for row in read_metrics(tmp_path / out / "metrics.csv")]
        return method, best, rows

    whole, best, rows = run("whole")
    assert best.epoch < 8  # it has stopped by itself
    stops = [StopAt(3), StopAt(3 * best.epoch - 1), EndOf(1), EndOf(best.epoch)]
    for number, stop in enumerate(stops):
        with pytest.raises(StopAt.Killed):
            run(f"stopped-{number}", stop)
        resumed, again, its_rows = run(f"stopped-{number}")
        assert same_weights(whole, resumed), number
        assert (again.epoch, again.best_epoch, again.best) == (best.epoch, best.best_epoch, best.best)
        assert all(torch.equal(best.weights[name], again.weights[name]) for name in best.weights)
        assert its_rows == rows
    # A run that has ended stays as it is.
    ended, again, its_rows = run("whole")
    assert same_weights(whole, ended)
    assert (again.best_epoch, its_rows) == (best.best_epoch, rows)


# Files.


def test_a_classifier_comes_back_as_it_was_saved(small_encoder: Encoder, tmp_path: Path) -> None:
    classifier, image = classifier_of(small_encoder.eval()), torch.rand(2, 3, 16, 16)
    sha256 = save_classifier(classifier, tmp_path / "classifier.safetensors")
    loaded = load_classifier(tmp_path)
    assert loaded.classes == CLASSES
    assert not loaded.training
    assert torch.equal(loaded(image), classifier(image))
    torch.testing.assert_close(loaded((image * 255).byte()), loaded((image * 255).byte() / 255))
    with pytest.raises(ValueError, match=r"floats in \[0, 1\]"):
        loaded(image * 255)
    assert save_classifier(loaded, tmp_path / "again.safetensors") == sha256
    loaded.classes = [*CLASSES[1:], "z"]
    assert save_classifier(loaded, tmp_path / "renamed.safetensors") != sha256


def test_what_is_no_classifier_is_refused(small_encoder: Encoder, tmp_path: Path) -> None:
    save_encoder(small_encoder, tmp_path / "encoder.safetensors")
    save_classifier(classifier_of(small_encoder), tmp_path / "classifier.safetensors")
    with pytest.raises(ToolkitError, match="not a classifier saved by ssl-toolkit"):
        load_classifier(tmp_path / "encoder.safetensors")
    with pytest.raises(ToolkitError, match="not an encoder saved by ssl-toolkit"):
        load_encoder(tmp_path / "classifier.safetensors")
    with pytest.raises(UsageError, match="no classifier at"):
        load_classifier(tmp_path / "missing")
    content = bytearray((tmp_path / "classifier.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "classifier.safetensors").write_bytes(content)
    with pytest.raises(ToolkitError, match="damaged"):
        load_classifier(tmp_path)


# The command.

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}
QUICK: dict[str, Any] = {"epochs": 6, "batch_size": 16, "workers": 0, "progress": False, "device": "cpu"}


def paint(folder: Path, colours: list[str], count: int, seed: int) -> str:
    generator = np.random.default_rng(seed)
    for name in colours:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 120, (16, 16, 3)) + 100 * np.array(COLOURS[name])
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return str(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """An encoder, images of three colours, and a test set that lacks one of them."""
    folder = tmp_path_factory.mktemp("finetune")
    torch.manual_seed(5)
    encoder = Encoder(EncoderConfig("convnet", image_size=16, load_size=16))
    for _ in range(40):
        encoder(torch.rand(16, 3, 16, 16))  # batch norms that know their input, as those of a trained encoder
    save_encoder(encoder, folder / "encoder.safetensors")
    return SimpleNamespace(
        encoder=str(folder / "encoder.safetensors"),
        train=paint(folder / "train", ["red", "green", "blue"], 24, 0),
        test=paint(folder / "test", ["green", "red"], 8, 1),
    )


def test_it_learns_and_knows_the_classes_of_the_test_set_by_name(place: SimpleNamespace, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    found = finetune(place.encoder, place.train, out, place.test, baseline=True, tta=True, **QUICK)
    assert found["results"].keys() == {"trained", "random"}
    score = found["results"]["trained"]["finetune"]
    assert score["top1"] == 1
    assert score["confusion"] == [[0, 0, 0], [0, 8, 0], [0, 0, 8]]  # no blue ones, in the training set's order
    assert [found["protocol"][part]["images"] for part in ("train", "validation", "test")] == [66, 6, 16]
    classifier = load_classifier(out)
    assert classifier.classes == ["blue", "green", "red"]
    red = torch.tensor([180, 60, 60], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    assert classifier.classes[int(classifier.probabilities(red).argmax())] == "red"
    assert load_encoder(out).sha256 == classifier.encoder.sha256 != load_encoder(place.encoder).sha256
    assert load_classifier(f"{out}/random").encoder.sha256 != classifier.encoder.sha256


def test_the_command_writes_a_run_that_resumes_by_its_name(
    place: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    options = ["--train", place.train, "--test", place.test, "--epochs", "2", "--batch-size", "16", "--mixup", "0.2"]
    dispatch(["finetune", place.encoder, *options, "--out", out, "--workers", "0", "--progress", "false"])
    table, results = capsys.readouterr().out, (tmp_path / "run" / "results.json").read_text()
    score = json.loads(results)["results"]["trained"]["finetune"]
    assert f"{100 * score['top1']:.1f}" in table
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "checkpoints", "classifier.safetensors", "config.yaml", "encoder.safetensors", "metrics.csv", "results.json",
    }  # fmt: skip
    dispatch(["finetune", place.encoder, "--out", out, "--resume", "--progress", "false"])
    assert capsys.readouterr().out == table
    assert json.loads((tmp_path / "run" / "results.json").read_text())["results"]["trained"]["finetune"] == score
    with pytest.raises(UsageError, match=r"--mixup is 0.3, but the run in .* has 0.2"):
        dispatch(["finetune", place.encoder, "--out", out, "--resume", "--mixup", "0.3"])
    assert [run.name for run in compare_runs([out])] == ["run"]


def test_labels_of_the_test_set_choose_nothing(place: SimpleNamespace, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for name, other in (("green", "red"), ("red", "blue")):
        (wrong / other).symlink_to(Path(place.test) / name)
    options = {**QUICK, "epochs": 2, "patience": 1}
    scores = []
    for test, out in ((place.test, "right"), (str(wrong), "swapped")):
        found = finetune(place.encoder, place.train, str(tmp_path / out), test, **options)
        scores.append(found["results"]["trained"]["finetune"])
    assert scores[0]["sha256"] == scores[1]["sha256"]
    assert scores[0]["confusion"] != scores[1]["confusion"]


def test_a_budget_of_labels_is_kept_and_its_validation_comes_out_of_it(place: SimpleNamespace, tmp_path: Path) -> None:
    options = {**QUICK, "epochs": 1}
    for budget, validation, images in ((4, 0.25, [9, 3]), (0.5, 0.0, [36, 0]), (1, 0.0, [3, 0])):
        found = finetune(
            place.encoder, place.train, str(tmp_path / f"{budget}"), place.test, label_budget=budget,
            validation=validation, **options,
        )  # fmt: skip
        assert [found["protocol"][part]["images"] for part in ("train", "validation")] == images


def test_without_a_test_set_a_fifth_is_held_out(place: SimpleNamespace, tmp_path: Path) -> None:
    found = finetune(place.encoder, place.train, str(tmp_path / "run"), **{**QUICK, "epochs": 1})
    assert [found["protocol"][part]["images"] for part in ("train", "validation", "test")] == [51, 6, 15]
    assert found["protocol"]["left_out"]


def test_images_without_a_label_are_left_out_of_the_training_and_refused_in_the_test(
    place: SimpleNamespace, tmp_path: Path
) -> None:
    lines = [
        f"{path},{path.parent.name if number % 2 else ''}"
        for number, path in enumerate(sorted(Path(place.train).rglob("*.png")))
    ]
    (tmp_path / "some.csv").write_text("\n".join(["path,label", *lines]))
    some, options = str(tmp_path / "some.csv"), {**QUICK, "epochs": 1, "validation": 0.0}
    found = finetune(place.encoder, some, str(tmp_path / "run"), place.test, **options)
    assert found["protocol"]["train"]["images"] == 36
    with pytest.raises(UsageError, match=r"36 of 72 images of --test .*some.csv have no label"):
        finetune(place.encoder, place.train, str(tmp_path / "other"), some, **options)
    assert not (tmp_path / "other").exists()


def test_scores_are_those_of_the_answers() -> None:
    x = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.5, 0.1, 0.4]], np.float32)
    found = score(Features(x, np.array([0, 1, 2]), np.arange(3)), 3)
    assert found["top1"] == pytest.approx(2 / 3)
    assert found["confusion"] == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]


def test_classifying_leaves_the_modes_as_they_were(small_encoder: Encoder) -> None:
    images = Arrays(np.zeros((5, 3, 16, 16), np.uint8), np.zeros(5, np.int64))
    classifier = classifier_of(small_encoder).train()
    found = classify(classifier, ImageLoader(images, 16))
    assert classifier.encoder.training
    assert found.x.shape == (5, 4)
    np.testing.assert_allclose(found.x.sum(1), 1, rtol=1e-5)
    assert not small_encoder.backbone.features[1].num_batches_tracked
