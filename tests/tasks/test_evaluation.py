"""`evaluate` in Python: objects of every kind, and results that print as the table of the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_toolkit import Run, evaluate
from ssl_toolkit.encoders import Encoder, TextConfig, TextTower, load_text, save_encoder, save_text
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.health.collapse import effective_rank
from ssl_toolkit.eval.scores.protocol import SUITES, fitting
from ssl_toolkit.tasks.evaluation import Scores, labelled_sets

LABELS = torch.arange(24) % 2
IMAGES = (torch.rand(24, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 100).to(torch.uint8)
IMAGES[LABELS == 1] += 150
DATA = torch.utils.data.TensorDataset(IMAGES, LABELS)
MEASURED = ["RankMe", "alpha-ReQ", "NESum", "TwoNN"]
READ: dict[str, Any] = {"workers": 0, "progress": False, "protocol": "knn"}


class Scale(nn.Module):
    """A network with a weight that nothing draws anew."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> Tensor:
        return self.weight * image.mean(dim=(2, 3))


def test_a_module_is_scored_beside_random_weights_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate(nn.Conv2d(3, 8, 3), DATA, DATA, **READ)
    assert list(found["results"]) == ["trained", "random", "pixels"]
    assert found["results"]["trained"]["knn"]["top1"] == 1
    assert found["encoder"]["path"] == "<torch.nn.modules.conv.Conv2d>"
    assert found["protocol"]["train"] == {
        "data": "<torch.utils.data.dataset.TensorDataset of 24>", "images": 24, "bad": 0
    }  # fmt: skip
    assert "no baseline" not in capsys.readouterr().err


def test_a_module_that_cannot_be_drawn_anew_has_no_such_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate(Scale(), DATA, **READ)
    assert set(found["results"]) == {"trained", "pixels"}
    said = [line for line in capsys.readouterr().err.splitlines() if "no baseline" in line]
    assert len(said) == 1
    assert "Scale> has no random weights to compare with: '', which holds 'weight'" in said[0]


def test_sets_are_a_mapping(small_encoder: Encoder, tmp_path: Path) -> None:
    found = evaluate(small_encoder, sets={"a": (DATA, DATA), "b": DATA}, out=tmp_path / "x.json", **READ)
    assert {name: each["protocol"]["left_out"] for name, each in found["sets"].items()} == {"a": False, "b": True}
    assert [(row["set"], row["encoder"], row["knn"]) for row in found.rows][:2] == [
        ("a", "trained", 1.0), ("a", "random", 1.0)
    ]  # fmt: skip
    scores, measures = str(found).split("\n\n")
    assert [line.split()[0] for line in scores.splitlines()] == [
        "top-1,",
        "a",
        "random",
        "raw",
        "b",
        "random",
        "raw",
    ]
    titles = [line.partition("  ")[0] for line in measures.splitlines()]
    assert titles == ["without labels", *(f"{name}: {each}" for name in "ab" for each in MEASURED)]
    assert labelled_sets(None, None, ["a=x,y", "b=z"]) == {"a": ["x", "y"], "b": ["z"]}


def test_scores_print_as_a_table() -> None:
    results = {
        "trained": {"knn": {"top1": 0.643, "interval": [0.634, 0.652]}, "linear": {"top1": 0.7}},
        "pixels": {"knn": {"top1": 0.25}, "linear": {"top1": 0.5}},
    }
    found = Scores(protocol={"names": ["knn", "linear"]}, results=results)
    assert str(found).splitlines() == [
        f"{'top-1, %':<16}{'kNN':>15}{'linear probe':>15}",
        f"{'trained':<16}{'64.3 ±0.9':>15}{'70.0':>15}",
        f"{'raw pixels':<16}{'25.0':>15}{'50.0':>15}",
    ]
    assert repr(found) == str(found)
    assert found._repr_html_().count("<tr>") == 3
    assert found.rows == [
        {"set": "", "encoder": "trained", "knn": 0.643, "linear": 0.7},
        {"set": "", "encoder": "pixels", "knn": 0.25, "linear": 0.5},
    ]


def test_what_needs_no_labels_is_beside_the_scores(small_encoder: Encoder) -> None:
    found = evaluate(small_encoder, DATA, DATA, lidar=True, **READ)
    x = small_encoder.eval()(IMAGES).detach().numpy()
    assert set(found["measures"]) == {"trained", "random"}
    assert found["measures"]["trained"].keys() == {"rankme", "lidar", "alpha_req", "nesum", "two_nn"}
    assert found["measures"]["trained"]["rankme"] == pytest.approx(effective_rank(x), rel=1e-3)
    assert found["times"]["trained"].keys() == {"encoding", "knn", "lidar"}
    assert found["times"]["trained"]["encoding"] > 0


def test_a_suite_is_what_fits(small_encoder: Encoder, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate(Scale(), DATA, DATA, suite="quick", baselines=False, **READ)
    assert found["protocol"]["names"] == ["knn", "linear"]  # one mean an image: nothing for a query to look at
    assert "attentive does not fit the encoder or the images: left out" in capsys.readouterr().err
    assert fitting(SUITES["quick"], small_encoder, None) == ["knn", "linear", "attentive"]  # type: ignore[arg-type]


def test_many_protocols_are_rows_with_calibration_and_seconds() -> None:
    names = ["knn", "linear", "svm", "sweep", "low_shot"]
    scores = {name: {"top1": 0.5} for name in names} | {"linear": {"top1": 0.75, "ece": 0.034}}
    seconds = {"encoding": 3.0, **dict.fromkeys(names, 1.25)}
    found = Scores(protocol={"names": names}, results={"trained": scores, "pixels": scores}, times={"trained": seconds})
    lines = [line.split() for line in str(found).splitlines()]
    assert lines[0] == ["top-1,", "%", "trained", "raw", "pixels", "ECE,", "%", "seconds"]
    assert lines[1] == ["encoding", "3.0"]
    assert lines[3] == ["linear", "probe", "75.0", "75.0", "3.4", "1.2"]
    assert len(lines) == 7


def test_a_run_keeps_its_scores(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    assert Run(tmp_path).scores is None
    (tmp_path / "results.json").write_text(
        '{"protocol": {"names": ["knn"]}, "results": {"trained": {"knn": {"top1": 1}}}}'
    )
    assert "100.0" in str(Run(tmp_path).scores)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"run": [3]}, r"^run is <list of 1>"),
        ({"train": 7, "run": None}, r"^train is <int>: give a word or path"),
        ({"test": np.zeros((4, 4)), "run": None}, r"^test <numpy.ndarray \(4, 4\) float64>: shape"),
        ({"train": IMAGES, "test": IMAGES, "run": None}, r"^'<torch.Tensor .*>' has no labels to score against"),
        ({"sets": {"a": DATA}}, "either as --train"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(small_encoder: Encoder, given: dict[str, Any], message: str) -> None:
    given = {"train": DATA, "test": DATA, **given}
    given["run"] = given.get("run") or small_encoder
    with pytest.raises(UsageError, match=message) as error:
        evaluate(**given, **READ)
    assert len(str(error.value).splitlines()) == 1


def with_text(encoder: Encoder, folder: Path) -> Path:
    """The folder of an encoder and of a text tower with random weights."""
    folder.mkdir()
    save_encoder(encoder, folder / "encoder.safetensors")
    torch.manual_seed(1)
    save_text(TextTower(TextConfig("bytes", encoder.feature_dim, 16, 1)), folder / "text.safetensors")
    return folder


def test_zero_shot_asks_the_texts_of_the_prompts(small_encoder: Encoder, tmp_path: Path) -> None:
    run = with_text(small_encoder, tmp_path / "run")
    (tmp_path / "prompts.txt").write_text("a {}\n1: the bright one\n")
    found = evaluate(run, test=DATA, prompts=tmp_path / "prompts.txt", **READ | {"protocol": "zero_shot"})
    scores = {name: each["zero_shot"] for name, each in found["results"].items() if each}
    assert set(scores) == {"trained", "random"}  # of pixels no text says anything
    assert scores["trained"]["prompts"] == {"0": ["a 0"], "1": ["a 1", "the bright one"]}
    encode = load_text(run / "text.safetensors").encode
    vectors = torch.stack([encode(["a 0"])[0], encode(["a 1", "the bright one"]).mean(0)])
    with torch.no_grad():
        x = small_encoder.eval()(small_encoder.eval_view()(IMAGES))
    answers = (F.normalize(x) @ F.normalize(vectors).T).argmax(1)
    assert scores["trained"]["top1"] == pytest.approx((answers == LABELS).float().mean().item())
    assert found["protocol"]["train"]["images"] == 24
    assert "zero-shot" in str(found)
    both = evaluate(run, DATA, DATA, **READ | {"protocol": "knn,zero_shot"})
    assert {"knn", "zero_shot"} == set(both["results"]["trained"])
    assert set(both["results"]["pixels"]) == {"knn"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"protocol": "zero_shot"},
            r"texts need an encoder with a text tower, .* beside .*encoder.safetensors is none",
        ),
        ({"protocol": "knn", "prompts": "x.txt"}, "--prompts is for --protocol zero_shot"),
        ({"protocol": "zero_shot", "prompts": "x.txt"}, "--prompts x.txt cannot be read"),
    ],
)
def test_zero_shot_says_what_it_lacks(
    small_encoder: Encoder, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    save_encoder(small_encoder, tmp_path / "encoder.safetensors")
    with pytest.raises(UsageError, match=message):
        evaluate(tmp_path / "encoder.safetensors", DATA, **READ | options)


def test_a_text_tower_of_another_encoder_is_refused(small_encoder: Encoder, tmp_path: Path) -> None:
    run = with_text(small_encoder, tmp_path / "run")
    save_text(TextTower(TextConfig("bytes", 7, 16, 1)), run / "text.safetensors")
    with pytest.raises(UsageError, match=r"text.safetensors gives 7 features, the encoder 256: they are not"):
        evaluate(run, DATA, **READ | {"protocol": "zero_shot"})
