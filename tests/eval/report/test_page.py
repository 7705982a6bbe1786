"""The report: one page that needs nothing, hides nothing, and survives hostile names and missing parts."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_toolkit import pretrain
from ssl_toolkit.cli.demo import main as demo_command
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.eval.report.page import make_report
from ssl_toolkit.eval.report.score_parts import verdict
from ssl_toolkit.eval.scores.metrics import in_percent
from ssl_toolkit.tasks import demo as demo_module
from ssl_toolkit.tasks.evaluation import evaluate
from ssl_toolkit.tasks.reporting import report
from tests.chromium import PROGRAM, chromium

CLASSES = ("<script>alert(1)", '"><img src=x onerror=alert(1)>')
PREFIX = "data:image/png;base64,"


class Page(HTMLParser):
    """What a browser would find: tags, addresses, pictures, text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.addresses: list[str] = []
        self.places: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses += [value or "" for name, value in attrs if name in ("src", "srcset", "href")]
        self.places += [value or "" for name, value in attrs if name == "id"]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scored run on labelled images, one of them broken, in folders that are named to do harm."""
    folder = tmp_path_factory.mktemp("report") / "<script>"
    generator = np.random.default_rng(0)
    for split, number in (("train", 12), ("test", 8)):
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for i in range(number):
                pixels = generator.integers(0, 60, (18, 20, 3), dtype=np.uint8)
                pixels[..., 2 * label] += 180
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    (folder / "train" / CLASSES[0] / "<b>.png").write_text("no image")
    run = pretrain(
        "simclr", data=str(folder / "train"), out=str(folder / "run"), encoder="convnet", image_size=16,
        batch_size=8, epochs=2, workers=0, max_bad_rate=0.5, progress=False,
    )  # fmt: skip
    evaluate(
        str(run), train=str(folder / "train"), test=str(folder / "test"), workers=0, max_bad_rate=0.5, progress=False
    )
    return folder


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be tampered with."""
    return Path(shutil.copytree(folder / "run", tmp_path / "<script>"))


def test_page_needs_nothing_and_runs_nothing(folder: Path) -> None:
    path = make_report(folder / "run")
    assert path == folder / "run" / "report.html"
    assert path.stat().st_size < 5e6
    page = Page(path)
    assert not page.tags & {"script", "link", "iframe", "object", "b"}
    assert not {name for name in page.attributes if name.startswith("on")}
    pictures = [address for address in page.addresses if not address.startswith("#")]
    assert len(pictures) > 70
    for address in pictures:
        assert address.startswith(PREFIX)
        Image.open(io.BytesIO(base64.b64decode(address.removeprefix(PREFIX), validate=True))).verify()


def test_page_says_what_was_run_and_how_good_it_is(folder: Path) -> None:
    text = Page(make_report(folder / "run", folder / "page.html")).text
    results = json.loads((folder / "run" / "results.json").read_text())["results"]
    for scores in results.values():
        for score in scores.values():
            assert in_percent(score) in text
    for words in (
        "SimCLR", "convnet", "kNN", "linear probe", "random weights", "raw pixels", "8 nearest by cosine among 16",
        "6 optimiser steps", "config.yaml", "temperature: 0.2", "What is taken for what", "python 3.", "CPU cores",
        verdict(results), str(folder / "train"), *CLASSES,
    ):  # fmt: skip
        assert words in text
    assert "Left out" not in text


def test_contents_name_every_section_that_is_there(folder: Path, run: Path) -> None:
    page = Page(make_report(folder / "run", folder / "page.html"))
    links = [address.removeprefix("#") for address in page.addresses if address.startswith("#")]
    assert links == page.places
    assert {"scores", "doctor", "neighbours", "map", "bad"} <= set(links)
    (run / "bad_images.csv").unlink()
    (run / "results.json").unlink()
    shutil.rmtree(run / "checkpoints")
    (run / "encoder.safetensors").unlink()
    page = Page(make_report(run, images=2))
    assert page.places == ["facts", "scores", "training", "doctor", "commands", "versions", "left_out"]
    assert "could not be read" not in page.text  # there were none


def test_page_says_what_is_healthy_and_what_to_do_next(folder: Path, run: Path) -> None:
    text = Page(make_report(folder / "run", folder / "page.html", images=9)).text
    for words in (
        "Higher is better",
        "In good health",
        "Next: ",
        "healthy 5 or more, higher is better",
        "-0.6 or less",
    ):
        assert words in text
    results = json.loads((run / "results.json").read_text())
    for name, (knn, linear) in {"trained": (0.2, 0.2), "random": (0.5, 0.5), "pixels": (0.4, 0.3)}.items():
        results["results"][name]["knn"]["top1"], results["results"][name]["linear"]["top1"] = knn, linear
    (run / "results.json").write_text(json.dumps(results))
    text = Page(make_report(run, images=2)).text
    assert "Not above random weights and raw pixels by more than the ±" in text
    assert f"Next: ssl-toolkit doctor {run} says" in text
    assert "Of raw pixels, the linear probe (30.0 %) is below kNN (40.0 %)." in text
    results["results"]["pixels"]["linear"]["top1"] = 0.4
    (run / "results.json").write_text(json.dumps(results))
    assert "Of raw pixels" not in Page(make_report(run, images=2)).text


def test_page_says_that_there_was_no_test_set(folder: Path, run: Path) -> None:
    evaluate(str(run), str(folder / "train"), progress=False, workers=0, baselines=False, max_bad_rate=1.0)
    text = Page(make_report(run, images=2)).text
    assert "kNN asks all the others of them" in text
    assert "to learn from" not in text


def test_page_lists_bad_images_with_their_reasons(folder: Path, run: Path) -> None:
    text = Page(make_report(folder / "run", folder / "page.html")).text
    assert "1 while training" in text
    assert f"1 of {folder / 'train'} while scoring" in text
    assert "<b>.png" in text
    assert "not an image" in text
    with (run / "bad_images.csv").open("w", encoding="utf-8", errors="surrogateescape") as file:
        file.write('path,reason\n"a\udcff\n,b.png",one\n' + "".join(f"{i}.png,reason {i}\n" for i in range(9)))
    text = Page(make_report(run)).text
    assert "10 while training" in text
    assert "a��,b.png" in text
    assert "reason 3" in text
    assert "reason 4" not in text
    assert "5 more" in text


def test_run_without_scores_says_how_to_get_them(run: Path) -> None:
    (run / "results.json").unlink()
    text = Page(make_report(run)).text
    assert "has not been measured yet" in text
    assert f"ssl-toolkit evaluate '{run}' --train DATA --test DATA" in text
    assert "8 nearest by cosine among 24 images" in text  # of the training data


def test_data_that_is_gone_is_named(run: Path) -> None:
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("train\n", "gone\n", 1))
    results = json.loads((run / "results.json").read_text())
    results["protocol"]["test"]["data"] = "/nowhere/<i>"
    (run / "results.json").write_text(json.dumps(results))
    page = Page(make_report(run))
    assert page.text.count("no such file or folder: '/nowhere/<i>'") == 3
    assert {"views", "units", "neighbours", "map"}.isdisjoint(page.places)
    assert "i" not in page.tags
    assert "linear probe" in page.text


def test_run_that_is_not_finished(run: Path) -> None:
    (run / "encoder.safetensors").unlink()
    (run / "metrics.csv").unlink()
    text = Page(make_report(run)).text
    assert text.count("the run has no encoder yet") == 4
    assert "Training no curves" in text
    assert "simclr on" in text


def test_scores_of_another_encoder_are_called_out(run: Path) -> None:
    assert "earlier state" not in Page(make_report(run, images=2)).text
    results = json.loads((run / "results.json").read_text())
    results["encoder"]["sha256"] = "0" * 64
    (run / "results.json").write_text(json.dumps(results))
    assert "earlier state" in Page(make_report(run, images=2)).text


@pytest.mark.parametrize(
    "damage", ["", "[]", "{}", '{"results": {"trained": {}}}', '{"results": {"trained": {"knn": 1}}}']
)
def test_damaged_scores_are_named(run: Path, damage: str) -> None:
    (run / "results.json").write_text(damage)
    assert "is not what ssl-toolkit evaluate writes" in Page(make_report(run, images=2)).text


@pytest.mark.parametrize("damage", ["step,epoch,loss\n1,0\n2,x,3\n", "\0", "a,b\n1,2\n"])
def test_damaged_metrics_are_named(run: Path, damage: str) -> None:
    (run / "metrics.csv").write_text(damage)
    assert "metrics.csv" in Page(make_report(run, images=2)).text


def test_views_of_an_unknown_method_are_named(run: Path) -> None:
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("name: simclr", "name: simclar"))
    assert "What the method sees unknown method" in Page(make_report(run, images=2)).text
    (run / "config.yaml").write_text(config.replace("flip_p", "flap_p"))
    assert "What the method sees config.yaml does not fit" in Page(make_report(run, images=2)).text


def test_what_is_no_run_is_refused(tmp_path: Path, run: Path) -> None:
    with pytest.raises(UsageError, match="not a run folder"):
        make_report(tmp_path)
    for damage in ("", "{", "- 1"):
        (run / "config.yaml").write_text(damage)
        with pytest.raises(ToolkitError, match=r"config\.yaml is damaged"):
            make_report(run)


def test_page_that_cannot_be_written_leaves_nothing(run: Path) -> None:
    before = sorted(run.rglob("*"))
    with pytest.raises(UsageError, match="cannot be written"):
        make_report(run, run / "checkpoints")
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize("channels", [1, 5])
def test_grey_and_many_channels(tmp_path: Path, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 18, 16, channels), dtype=np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    run = pretrain(
        "rotation", data=str(tmp_path / "images.npy"), out=str(tmp_path / "run"), encoder="convnet", image_size=16,
        batch_size=8, epochs=2, workers=0, progress=False,
    )  # fmt: skip
    page = Page(make_report(run, images=9))
    assert "Left out" not in page.text
    assert "8 nearest by cosine among 9 images" in page.text
    assert "images.npy#" in page.text


def test_attention_is_shown_of_vision_transformers_only(folder: Path, tmp_path: Path) -> None:
    run = pretrain(
        "simclr", data=str(folder / "train"), out=str(tmp_path / "run"), encoder="test_vit", image_size=32,
        batch_size=8, epochs=1, workers=0, max_bad_rate=0.5, progress=False,
    )  # fmt: skip
    text = Page(make_report(run, images=4)).text
    assert "Where the encoder looks" in text
    assert "attention the class token pays" in text
    assert "mean over 2 heads, then head by head" in text
    assert "Left out" not in text
    assert "encoder looks" not in Page(make_report(folder / "run", folder / "page.html", images=2)).text
    (folder / "train").rename(folder / "moved")
    try:
        text = Page(make_report(run, images=4)).text
    finally:
        (folder / "moved").rename(folder / "train")
    assert text.count("no such file or folder") == 5


def test_page_shows_what_layers_respond_to_and_what_speaks_for_a_class(folder: Path, run: Path) -> None:
    pytest.importorskip("captum")
    page = Page(make_report(folder / "run", folder / "page.html"))
    for words in ("First-layer filters", "Feature maps", "What speaks for a class"):
        assert words in page.text
    assert "No picture" not in page.text
    assert "The task itself" not in page.text  # of SimCLR there is none
    (run / "results.json").unlink()
    assert "What speaks for a class" not in Page(make_report(run, images=9)).text  # there may be no labels


def test_page_shows_the_pictures_that_are_asked_for(folder: Path) -> None:
    pytest.importorskip("captum")
    page = Page(make_report(folder / "run", folder / "page.html", pictures=["saliency", "attention"]))
    assert "More pictures" in page.text
    assert "Saliency" in page.text
    assert page.text.count("No picture: convnet") == 1  # a ConvNet has no attention
    assert "More pictures" not in Page(make_report(folder / "run", folder / "page.html")).text


def test_page_shows_the_methods_own_task(folder: Path, tmp_path: Path) -> None:
    run = pretrain(
        "rotation", data=str(folder / "train"), out=str(tmp_path / "run"), encoder="convnet", image_size=16,
        batch_size=8, epochs=1, workers=0, max_bad_rate=0.5, progress=False,
    )  # fmt: skip
    text = Page(make_report(run, images=2)).text
    assert "The task itself" in text
    assert "the turn that the network names for each" in text
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("name: rotation", "name: rotatoin"))
    assert "The task itself unknown method" in Page(make_report(run, images=2)).text
    (run / "config.yaml").write_text(config)
    shutil.rmtree(run / "checkpoints")
    assert "The task itself the run has no checkpoint" in Page(make_report(run, images=2)).text


def test_map_is_the_one_asked_for(folder: Path) -> None:
    text = Page(make_report(folder / "run", folder / "page.html", images=8, projection="tsne")).text
    assert "8 images of" in text
    assert "by t-SNE of their features" in text
    assert "PCA" not in text


def test_command_checks_its_numbers(folder: Path) -> None:
    with pytest.raises(UsageError, match="--images is 1"):
        report(str(folder / "run"), images=1)
    page = Page(report(str(folder / "run"), out=str(folder / "new" / "page.html"), images=2, workers=0, progress=False))
    assert "1 nearest by cosine among 2 images" in page.text


# --- in a browser ----------------------------------------------------------------------------------------------------


LINES = """[...document.querySelectorAll(".number")].filter((cell) => cell.textContent).map((cell) => {
  const text = document.createRange();
  text.selectNodeContents(cell);
  return new Set([...text.getClientRects()].map((box) => box.top)).size;
})"""


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [1280, 390])
def test_browser_shows_values_on_curves_and_wraps_no_figure(folder: Path, width: int) -> None:
    path = make_report(folder / "run", folder / "page.html", images=9)
    with chromium(width, 900) as page:
        page.open(path.as_uri())
        page.wait("document.readyState === 'complete'")
        assert page.run("document.documentElement.scrollWidth") <= width
        assert set(page.run(LINES)) == {1}
        page.run("document.querySelector('.curve').scrollIntoView({block: 'center', behavior: 'instant'})")
        shown = "[...document.querySelectorAll('.tip')].filter((tip) => getComputedStyle(tip).visibility === 'visible')"
        assert page.run(f"{shown}.length") == 0
        place = "document.querySelectorAll('.curve .point rect')[1].getBoundingClientRect()"
        x, y = page.run(f"[{place}.x + {place}.width / 2, {place}.y + {place}.height / 2]")
        page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        (told,) = page.run(f"{shown}.map((tip) => tip.textContent)")
        assert told.startswith("step 2: ")
        page.run("window.scrollTo({top: 1e6, behavior: 'instant'})")
        assert page.run("document.querySelector('nav').getBoundingClientRect().top") == 0  # the contents stay
        assert page.requests == [path.as_uri()] or all(each.startswith("data:") for each in page.requests[1:])
        assert page.errors == []


# --- the demo --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_whole_demo_keeps_its_promise(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ssl_toolkit.cli", "demo", "--out", str(tmp_path / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "demo" / "results.json").read_text())["results"]
    top1 = {name: each["knn"]["top1"] for name, each in scores.items()}
    assert top1["pixels"] < 0.45
    assert top1["trained"] > top1["pixels"] + 0.25
    assert top1["trained"] > top1["random"] + 0.25


@pytest.mark.slow
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_module, "TEST", "shapes:test:60")
    out = tmp_path / "demo"
    demo_command(["--out", str(out), "--images", "256", "--epochs", "1", "--progress", "false"])
    told = capsys.readouterr()
    for step in range(1, 6):
        assert f"{step}/5 " in told.err
    lines = told.out.splitlines()
    assert {line.split("  ")[0] for line in lines} >= {"trained", "random weights", "raw pixels"}
    assert lines[-1] == f"report: {out / 'report.html'}"
    assert Page(out / "report.html").text.count("SimCLR on shapes:train:256") == 2
    with Image.open(out / "neighbours.png") as picture:
        assert picture.format == "PNG"
    assert json.loads((out / "index" / "manifest.json").read_text())["count"] == 60
    with pytest.raises(UsageError, match="--resume or --overwrite"):
        demo_module.demo(str(out), images=256, epochs=1, progress=False)
