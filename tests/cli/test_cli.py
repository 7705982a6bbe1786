"""The command line as its users meet it: every command end to end, and bad input answered in a few lines."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ssl_toolkit.cli import COMMANDS, main
from ssl_toolkit.encoders import ConvNet, encoder_metadata, load_encoder
from ssl_toolkit.tasks.common import default_patch_size
from tests.killing import alive, exit_code, forked

TINY = [
    "--method", "simclr", "--data", "shapes:train:64", "--encoder", "convnet", "--image-size", "16",
    "--batch-size", "16", "--epochs", "2", "--workers", "0",
]  # fmt: skip


def ssl_toolkit(*args: object) -> subprocess.CompletedProcess[str]:
    """The command in this process: to load everything anew for each would take longer than what is tried."""
    out, err, at_term = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
    words = ["ssl-toolkit", *map(str, args)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), patch.object(sys, "argv", words):
            main()
    except SystemExit as end:
        code = end.code
    finally:
        signal.signal(signal.SIGTERM, at_term)
    return subprocess.CompletedProcess(words, int(code or 0), out.getvalue(), err.getvalue())


def succeed(*args: object) -> str:
    done = ssl_toolkit(*args)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small run, images of two classes beside it, and an index of some of them."""
    folder = tmp_path_factory.mktemp("cli")
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for label, colour in (("red", 0), ("blue", 2)):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 80, (20, 24, 3), dtype=np.uint8)
                pixels[..., colour] += 150
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")
    succeed("pretrain", *TINY, "--out", folder / "run")
    succeed("index", "--overwrite", folder / "run", "--data", folder / "train", "--out", folder / "index")
    return folder


def test_run_folder(folder: Path) -> None:
    names = {path.name for path in (folder / "run").iterdir()}
    assert {"config.yaml", "metrics.csv", "checkpoints", "encoder.safetensors"} <= names
    config = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    assert config["method"]["name"] == "simclr"
    assert config["method"]["temperature"] == 0.2
    assert config["views"]["flip_p"] == 0.5


def test_evaluate_on_several_labelled_sets(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    table = succeed(
        "evaluate", tmp_path / "run",
        "--sets", f"colours={folder / 'train'},{folder / 'test'}", "shapes=shapes:train:40",
        "--protocol", "knn,svm",
    )  # fmt: skip
    lines = table.split("\n\n")[0].splitlines()
    assert lines[0].split() == ["top-1,", "%", "kNN", "linear", "SVM"]
    assert [line.split()[0] for line in lines[1:]] == ["colours", "random", "raw", "shapes", "random", "raw"]
    assert len({len(line) for line in lines}) == 1
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert "results" not in results
    assert {name: each["protocol"]["left_out"] for name, each in results["sets"].items()} == {
        "colours": False, "shapes": True
    }  # fmt: skip
    for each in results["sets"].values():
        assert set(each["results"]) == {"trained", "random", "pixels"}
        assert set(each["results"]["trained"]) == {"knn", "svm"}
    assert "colours: kNN" in succeed("compare", tmp_path / "run")
    succeed("report", tmp_path / "run", "--images", "8")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<h3>colours</h3>" in page
    assert "<h3>shapes</h3>" in page
    assert f"--sets colours={folder / 'train'},{folder / 'test'} shapes=shapes:train:40" in page


def test_evaluate(folder: Path) -> None:
    table = succeed(
        "evaluate", folder / "run", "--train", folder / "train", "--test", folder / "test",
        "--protocol", "knn,linear", "--out", folder / "results.json",
    )  # fmt: skip
    results = json.loads((folder / "results.json").read_text())
    assert set(results) >= {"encoder", "protocol", "results"}
    assert set(results["results"]) == {"trained", "random", "pixels"}
    for scores in results["results"].values():
        assert 0 <= scores["knn"]["top1"] <= 1
        assert 0 <= scores["linear"]["top1"] <= 1
    assert results["results"]["pixels"]["linear"]["top1"] == 1  # red and blue
    for word in ("trained", "random weights", "raw pixels", "kNN", "linear probe"):
        assert word in table


def test_embed(folder: Path) -> None:
    succeed("embed", folder / "run", "--data", folder / "test", "--out", folder / "features")
    features = np.load(folder / "features" / "features.npy")
    assert features.shape == (8, 256)
    assert features.dtype == np.float32
    assert np.load(folder / "features" / "labels.npy").tolist() == [0] * 4 + [1] * 4


def test_index_and_search(folder: Path) -> None:
    queries = [folder / "train" / "red" / "3.png", folder / "test" / "blue"]
    files = ["--grid", folder / "hits.png", "--csv", folder / "hits.csv"]
    found = json.loads(succeed("search", folder / "index", *queries, "-k", "5", "--json", *files))
    names = [str(queries[0]), *(str(queries[1] / f"{number}.png") for number in range(4))]
    assert [one["query"] for one in found] == names
    for one in found:
        assert [hit["rank"] for hit in one["hits"]] == [1, 2, 3, 4, 5]
        assert list(one["hits"][0]) == ["rank", "path", "score", "label"]
    assert (found[0]["label"], found[0]["hits"][0]["label"]) == ("red", "red")
    assert str(queries[0]) not in [hit["path"] for hit in found[0]["hits"]]
    assert len((folder / "hits.csv").read_text().splitlines()) == 26
    with Image.open(folder / "hits.png") as picture:
        assert picture.format == "PNG"
    assert "red" in succeed("search", folder / "index", queries[0], "-k3")


def test_report(folder: Path) -> None:
    succeed("report", folder / "run")
    page = (folder / "run" / "report.html").read_text()
    assert "SimCLR" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_doctor(folder: Path) -> None:
    found = json.loads(succeed("doctor", folder / "run", "--json"))
    assert set(found["measures"]) == {"embedding", "features", "step"}
    assert found["findings"] == []
    assert "no finding" in succeed("doctor", folder / "run", "--data", folder / "train")
    (folder / "bare").mkdir()
    for name in ("config.yaml", "encoder.safetensors"):
        (folder / "bare" / name).write_bytes((folder / "run" / name).read_bytes())
    assert set(json.loads(succeed("doctor", folder / "bare", "--json"))["measures"]) == {"features"}


def test_sweep_lists_what_failed_and_exits_1(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(f"method: simclr\nencoder: convnet\nimage_size: 16\ndata: {folder / 'train'}\n")
    command = [
        "sweep", tmp_path / "base.yaml", "--grid", "method.temperature=0.1,0.2", "batch-size=8,999", "--epochs", "1",
        "--workers", "0", "--out", tmp_path / "sweep", "--train", folder / "train", "--protocol", "knn",
    ]  # fmt: skip
    done = ssl_toolkit(*command)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "2 of 4 runs failed: the same command tries them again" in done.stderr
    lines = done.stdout.splitlines()
    assert {line.split()[0] for line in lines[1:3]} == {f"temperature={value},batch_size=8" for value in (0.1, 0.2)}
    assert sum(line.startswith("FAILED temperature=0.1,batch_size=999: '") for line in lines) == 1
    assert (
        yaml.safe_load((tmp_path / "sweep" / "temperature=0.2,batch_size=8" / "config.yaml").read_text())["epochs"] == 1
    )


def test_check_takes_the_options_of_pretrain_and_leaves_nothing(folder: Path) -> None:
    options = [*TINY, "--out", folder / "checked", "--steps", "20", "--overfit-steps", "30"]
    found = json.loads(succeed("check", *options, "--json"))
    assert [check["passed"] for check in found["checks"]] == [True, True]
    assert found["images_per_second"] > 0
    assert found["memory_bytes"] > 2**20
    assert not (folder / "checked").exists()


def test_check_fails_where_nothing_can_be_learnt(folder: Path) -> None:
    done = ssl_toolkit("check", *TINY, "--optimizer.lr", "1e-12", "--steps", "20")
    assert done.returncode == 1
    assert "overfits a few batches failed" in done.stderr
    assert "FAILED" in done.stdout


def test_views(folder: Path) -> None:
    options = ["--data", folder / "train", "--recipe", "multicrop", "--size", "16", "--images", "3"]
    picture = folder / "pictures" / "views.png"
    assert succeed("views", *options, "--views.local-count", "2", "--out", picture).strip() == str(picture)
    with Image.open(picture) as drawn:
        few = drawn.size
    succeed("views", *options, "--views.local-count", "4", "--out", picture)
    with Image.open(picture) as drawn:
        assert drawn.width == few[0]
        assert drawn.height > 1.3 * few[1]  # seven rows instead of five


def test_plot(folder: Path) -> None:
    for name, options in (("pca", ["--images", "3"]), ("features", ["--unit", "3", "--layer", "features.2"])):
        picture = folder / "pictures" / f"{name}.png"
        words = ["plot", name, folder / "run", "--data", folder / "train", "--workers", "0", "--out", picture]
        assert succeed(*words, *options).strip() == str(picture)
        with Image.open(picture) as drawn:
            assert drawn.format == "PNG"


def test_propagate(folder: Path, tmp_path: Path) -> None:
    wide = np.random.default_rng(0).integers(0, 256, (32, 80, 3), dtype=np.uint8)
    for number in range(5):
        (tmp_path / "clip").mkdir(exist_ok=True)
        Image.fromarray(wide[:, 8 * number : 8 * number + 40]).save(tmp_path / "clip" / f"{number}.png")
    mask = Image.new("L", (40, 32))
    mask.paste(255, (16, 8, 32, 24))
    mask.save(tmp_path / "mask.png")
    words = ["propagate", folder / "run", "--clip", tmp_path / "clip", "--size", "32", "--out", tmp_path / "out"]
    table = succeed(*words, "--masks", tmp_path / "mask.png")
    for word in (
        "trained",
        "random weights",
        "first frame, copied",
        "own colours",
        "ab error",
        "PSNR",
        "there and back",
    ):
        assert word in table
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(found["colours"]) == {"trained", "random", "copied", "own"}
    assert set(found["masks"]) == {"trained", "random"}
    assert found["clip"] == {"path": str(tmp_path / "clip"), "frames": 5, "stride": 1, "size": [32, 40], "cell": 8}
    assert {"results.json", *(name.strip("/") for name in found["written"])} == {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 5
    assert "--overwrite" in ssl_toolkit(*words).stderr
    table = succeed(*words, "--overwrite", "--baselines", "false", "--stride", "2", "--context", "1")
    assert "random" not in table
    assert "there" not in table
    assert not (tmp_path / "out" / "masks").exists()


def test_precision_auto_is_resolved_and_stored(folder: Path) -> None:
    from ssl_toolkit.training import automatic_precision

    succeed("pretrain", *TINY, "--out", folder / "auto", "--precision", "auto")
    stored = yaml.safe_load((folder / "auto" / "config.yaml").read_text())["precision"]
    assert stored == automatic_precision()


@pytest.mark.parametrize(
    ("name", "size", "patch"),
    [
        ("vit_tiny_patch16_224", 224, 0),
        ("vit_tiny_patch16_224", 128, 0),
        ("vit_tiny_patch16_224", 64, 8),
        ("vit_tiny_patch16_224", 32, 4),
        ("vit_base_patch14_dinov2", 32, 0),  # cannot be halved to an eighth
        ("resnet18", 32, 0),
    ],
)
def test_patches_of_small_images_are_small(name: str, size: int, patch: int) -> None:
    assert default_patch_size(name, size) == patch


def test_methods_lists_what_is_installed() -> None:
    lines = succeed("methods").splitlines()
    assert {line.split()[0] for line in lines} >= {"simclr", "rotation"}


def test_print_config_can_be_run_again(folder: Path) -> None:
    text = succeed("pretrain", *TINY, "--out", folder / "again", "--method.temperature", "0.3", "--print_config")
    (folder / "recipe.yaml").write_text(text)
    again = succeed("pretrain", "--config", folder / "recipe.yaml", "--seed", "4", "--print-config")
    first, second = yaml.safe_load(text), yaml.safe_load(again)
    assert first["method"]["temperature"] == 0.3
    assert second == {**first, "seed": 4}


def test_a_config_serves_every_command(folder: Path) -> None:
    (folder / "evaluate.yaml").write_text(f"train: {folder / 'train'}\ntest: nowhere\nmax-bad-rate: 0.5\n")
    options = ["evaluate", folder / "run", "--config", folder / "evaluate.yaml", "--test", folder / "test"]
    shown = yaml.safe_load(succeed(*options, "--print-config"))
    assert (shown["test"], shown["max_bad_rate"], shown["seed"]) == (str(folder / "test"), 0.5, 0)
    assert "trained" in succeed(*options, "--protocol", "knn", "--baselines", "false")
    assert yaml.safe_load(succeed("embed", "some/run", "--print-config"))["workers"] == 2  # nothing else is needed


def test_a_run_made_in_python_is_resumed_on_the_command_line(folder: Path) -> None:
    from ssl_toolkit import pretrain

    options = {"data": "shapes:train:64", "encoder": "convnet", "image_size": 16, "batch_size": 16, "workers": 0}
    pretrain("simclr", out=str(folder / "python"), epochs=1, progress=False, **options)
    succeed("pretrain", "--out", folder / "python", "--resume")
    config = yaml.safe_load((folder / "python" / "config.yaml").read_text())
    assert (config["load_size"], config["views"]["size"]) == (16, 16)
    assert not {"print_config", "config"} & set(config)


def test_bad_images_while_scoring_do_not_end_a_training(folder: Path, tmp_path: Path) -> None:
    for number in range(40):
        place = tmp_path / "images" / ("a" if number % 2 else "b")
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (number, 0, 0)).save(place / f"{number}.png")
    (tmp_path / "images" / "a" / "1.png").write_bytes(b"broken")
    succeed(
        "pretrain", "--method", "simclr", "--data", tmp_path / "images", "--encoder", "convnet", "--batch-size", "16",
        "--epochs", "1", "--workers", "0", "--max-bad-rate", "0.05", "--knn-every", "1", "--cache", "none",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert len((tmp_path / "run" / "bad_images.csv").read_text().splitlines()) == 2


def test_start_from_a_given_encoder(folder: Path) -> None:
    options = [*TINY[:4], "--epochs", "1", "--batch-size", "16", "--workers", "0"]
    succeed("pretrain", *options, "--encoder", folder / "run", "--out", folder / "tuned")
    config = yaml.safe_load((folder / "tuned" / "config.yaml").read_text())
    assert config["encoder"]["name"] == str(folder / "run")


def test_start_from_the_weights_of_another_project(folder: Path, tmp_path: Path) -> None:
    state = ConvNet().state_dict()
    torch.save({"student": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "byol.pth")
    options = ["--weights", tmp_path / "byol.pth", "--encoder.mean", "[0.1,0.2,0.3]", "--optimizer.lr", "1e-12"]
    succeed("pretrain", *TINY, *options, "--out", tmp_path / "run")
    encoder = load_encoder(tmp_path / "run")
    torch.testing.assert_close(encoder.backbone.features[0].weight, state["features.0.weight"])
    assert encoder.config.mean == (0.1, 0.2, 0.3)
    assert "no finding" in succeed("doctor", tmp_path / "run")
    succeed(
        "index", tmp_path / "byol.pth", "--architecture", "convnet", "--data", folder / "test", "--out", tmp_path / "i"
    )
    succeed("search", tmp_path / "i", folder / "test" / "red" / "0.png")


def test_weights_that_cannot_be_fetched_are_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("test_resnet.r160_in1k", "hf-hub:timm/test_resnet.r160_in1k"):
        for command in (["pretrain", *TINY, "--encoder", name], ["embed", name, "--data", folder / "test"]):
            done = ssl_toolkit(*command, "--out", folder / "never")
            assert done.returncode == 1
            assert done.stderr.startswith(f"ssl-toolkit: error: the weights of {name} cannot be fetched")
            assert len(done.stderr.splitlines()) == 1
            assert not (folder / "never").exists()


def test_resume_alone_continues_a_run_to_the_same_encoder(folder: Path) -> None:
    options = [*TINY, "--epochs", "30", "--checkpoint-every", "4"]
    succeed("pretrain", *options, "--out", folder / "whole")
    more: list[object] = [*options, "--out", folder / "killed"]
    for signum, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)):
        before = len(list((folder / "killed" / "checkpoints").glob("*.ckpt"))) and newest(folder / "killed")
        told = folder / "told"
        with told.open("w") as out:
            process = forked(["pretrain", *more], out.fileno())
        wait_for(lambda before=before: newest(folder / "killed") > before, process, told)
        os.kill(process, signum)
        assert exit_code(process) == code, told.read_text()
        more = ["--out", folder / "killed", "--resume"]
    succeed("pretrain", "--out", folder / "killed", "--resume")
    ours, theirs = (encoder_metadata(folder / name)["sha256"] for name in ("killed", "whole"))
    assert ours == theirs


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_a_closed_terminal_loses_nothing(folder: Path) -> None:
    ours, theirs = os.openpty()

    def own_terminal() -> None:
        os.close(ours)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever the tests run under
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    command = ["pretrain", *TINY, "--epochs", "300", "--out", folder / "hung", "--progress", "true"]
    process = forked(command, theirs, before=own_terminal)
    os.close(theirs)
    metrics = folder / "hung" / "metrics.csv"
    wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 2, process)
    os.close(ours)  # SIGHUP, and from now on every word to the terminal is an error
    assert exit_code(process) == 128 + signal.SIGHUP
    assert newest(folder / "hung") > 0
    assert load_encoder(folder / "hung")


def newest(run: Path) -> int:
    """Step of the newest checkpoint, -1 if there is none."""
    return max((int(path.stem.split("-")[1]) for path in (run / "checkpoints").glob("step-*.ckpt")), default=-1)


def wait_for(condition, process: int, told: Path | None = None) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 120
    while not condition():
        assert alive(process), told and told.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys; from ssl_toolkit.cli import dispatch\n"
        f"try: dispatch({[*command.split(), '--help']!r})\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'faiss', 'kornia', 'timm'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ssl-toolkit")


TUNE = ["--train", "shapes:train:40", "--out", "x"]

# Arguments, and what the answer names: the place, and the value or the nearest right name.
BAD = [
    (["pretrian"], ["pretrian", "pretrain"]),
    (["pretrain", "--method", "simclar", "--data", "shapes:train", "--out", "x"], ["simclar", "simclr"]),
    (["pretrain", "--data", "shapes:train", "--out", "x"], ["--method", "simclr"]),
    (["pretrain", *TINY], ["out"]),
    (
        ["pretrain", *TINY, "--out", "x", "--method", "jigsaw", "--views.size", "16"],
        ["views of 16 px", "--views.size 27"],
    ),
    (["pretrain", *TINY, "--out", "x", "--method", "masked_autoencoder"], ["convnet", "vit_tiny_patch16_224"]),
    (["pretrain", *TINY, "--out", "x", "--method", "colorization", "--channels", "1"], ["RGB", "--channels 3"]),
    (["pretrain", *TINY, "--out", "x", "--epocs", "3"], ["--epocs", "--epochs"]),
    (["pretrain", *TINY, "--out", "x", "--epoch", "3"], ["--epoch", "--epochs"]),
    (["pretrain", *TINY, "--out", "x", "--epochs", "many"], ["epochs", "many"]),
    (["pretrain", *TINY, "--out", "x", "--epochs", "0"], ["--epochs", "0"]),
    (["pretrain", *TINY, "--out", "x", "--optimizer", "adamv"], ["optimizer", "adamv"]),
    (["pretrain", *TINY, "--out", "x", "--optimizer.lr", "-1"], ["--optimizer.lr", "-1"]),
    (["pretrain", *TINY, "--out", "x", "--method.temprature", "1"], ["--method.temprature", "--method.temperature"]),
    (["pretrain", *TINY, "--out", "x", "--views.crop_scale", "0.2"], ["--views.crop-scale is 0.2"]),
    (["pretrain", *TINY, "--out", "x", "--logger", "wandbb"], ["wandbb", "wandb"]),
    (["pretrain", *TINY, "--out", "x", "--encoder", "resnet19"], ["resnet19", "resnet18"]),
    (["pretrain", *TINY, "--out", "x", "--encoder", "resnet18.a9_in1k"], ["a9_in1k", "a1_in1k"]),
    (["pretrain", *TINY, "--out", "x", "--weights", "missing.pth"], ["missing.pth"]),
    (["pretrain", *TINY, "--out", "x", "--encoder.std", "[0.2,0.2,0]"], ["std (0.2, 0.2, 0.0)", "above 0"]),
    (["pretrain", *TINY, "--out", "x", "--batch-size", "1000"], ["64", "--batch-size"]),
    (["pretrain", *TINY, "--out", "x", "--data", "cifar11:train"], ["cifar11", "cifar10"]),
    (["pretrain", *TINY, "--out", "x", "--data", "no/such/folder"], ["no/such/folder"]),
    (["pretrain", *TINY, "--out", "x", "--data", "shapes:tran"], ["tran", "train"]),
    (["pretrain", *TINY, "--out", "FULL"], ["FULL", "not a run"]),
    (["pretrain", *TINY, "--out", "RUN"], ["RUN", "--overwrite"]),
    (["pretrain", *TINY, "--out", "RUN", "--resume", "--seed", "9"], ["--seed", "9"]),
    (["pretrain", "--out", "RUN", "--resume", "--epochs", "4"], ["--epochs is 4", "has 2", "give --extend too"]),
    (["pretrain", *TINY, "--out", "RUN", "--extend"], ["--extend", "give --resume too"]),
    (["pretrain", *TINY, "--out", "RUN", "--seeds", "2"], ["RUN holds a run already", "--seeds"]),
    (["pretrain", *TINY, "--out", "x", "--seeds", "0"], ["--seeds is 0"]),
    (["sweep", *TINY, "--out", "x"], ["grid"]),
    (["sweep", *TINY, "--out", "x", "--grid", "optimizer.lrr=1"], ["optimizer.lrr", "optimizer.lr"]),
    (["sweep", *TINY, "--out", "x", "--grid", "optimizer.lr=log:-1:1:3"], ["log:-1:1:3", "above 0"]),
    (["sweep", *TINY, "--out", "x", "--grid", "epochs="], ["epochs has no values"]),
    (["sweep", *TINY, "--out", "x", "--grid", "epochs=1,1"], ["epochs has 1 twice"]),
    (["sweep", *TINY, "--out", "RUN", "--grid", "epochs=1,2"], ["RUN is not empty and not a sweep"]),
    (["sweep", "simclr_cifar11", "--out", "x", "--grid", "epochs=1"], ["simclr_cifar11", "simclr_cifar10"]),
    (["compare", "RUN", "--against", "x"], ["RUN"]),  # not scored, or with no row of that name
    (["pretrain", "--config", "missing.yaml", *TINY, "--out", "x"], ["missing.yaml"]),
    (["pretrain", "--config", "BAD.yaml", *TINY, "--out", "x"], ["epocs", "epochs"]),
    (["evaluate", "no/run", "--train", "shapes:train", "--test", "shapes:test"], ["no/run"]),
    (["evaluate", "RUN", "--train", "shapes:train:40", "--test", "shapes:test:20", "--protocol", "kn"], ["kn", "knn"]),
    (["evaluate", "RUN", "--train", "FLAT", "--test", "FLAT"], ["FLAT", "no labels"]),
    (["evaluate", "RUN"], ["--train DATA", "--sets NAME=TRAIN,TEST"]),
    (["evaluate", "RUN", "--train", "shapes:train:9", "--sets", "a=shapes:train:9"], ["either", "--sets"]),
    (["evaluate", "RUN", "--sets", "shapes:train:9"], ["--sets shapes:train:9", "NAME=TRAIN,TEST"]),
    (["evaluate", "RUN", "--sets", "a/b=shapes:train:9"], ["--sets a/b=shapes:train:9", "name"]),
    (["evaluate", "RUN", "--sets", "a=x,y,z"], ["--sets a=x,y,z", "NAME=TRAIN,TEST"]),
    (["evaluate", "RUN", "--sets", "a=shapes:train:9", "a=shapes:train:8"], ["names a twice"]),
    (["evaluate", "RUN", "--sets", "a=shapes:train:9", "b=FLAT"], ["FLAT", "no labels"]),
    (["evaluate", "RUN", "--train", "shapes:train:9", "--sgd-epochs", "0"], ["--sgd-epochs", "0"]),
    (["evaluate", "RUN", "--train", "shapes:train:9", "--sgd-lr", "-1"], ["--sgd-lr", "-1"]),
    (["evaluate", "RUN", "--train", "FLAT"], ["FLAT", "no labels"]),
    (["index", "RUN", "--data", "FLAT", "--out", "x", "--update"], ["x", "no index"]),
    (["index", "RUN", "--data", "FLAT", "--out", "x", "--index", "IVF9,Flat"], ["--index IVF9,Flat", "4 vectors"]),
    (["compare", "FULL"], ["FULL", "not a run"]),
    (["search", "no/index", "a.jpg"], ["no/index"]),
    (["search", "RUN", "a.jpg", "-k", "0"], ["-k", "0"]),
    (["search", "INDEX", "VECTORS.npy"], ["VECTORS.npy", "(N, 256)", "(3, 5)"]),
    (["search", "INDEX", "missing.npy"], ["missing.npy"]),
    (["search", "INDEX", "cifar11:test"], ["cifar11", "cifar10"]),
    (["search", "INDEX", "FULL"], ["FULL", "no images"]),
    (["search", "INDEX", "VECTORS.npy", "--max-bad-rate", "x"], ["--max-bad-rate is x: it must be a number"]),
    (["search", "INDEX", "FLAT/0.png", "--csv", "BAD.yaml/x.csv"], ["--csv BAD.yaml"]),
    (["merge", "INDEX", "no/index", "--out", "x"], ["no/index", "no index"]),
    (["merge", "INDEX", "INDEX", "--out", "INDEX"], ["--out INDEX", "--overwrite"]),
    (["merge", "INDEX", "--out", "x", "--index", "IVF9999,Flat"], ["--index IVF9999,Flat", "24 vectors"]),
    (["merge", "INDEX", "--out", "BAD.yaml"], ["--out BAD.yaml"]),
    (["duplicates", "INDEX", "--threshold", "2"], ["--threshold", "2", "from 0 to 1"]),
    (["outliers", "INDEX", "--k", "0"], ["-k", "0"]),
    (["search", "INDEX", "missing.jpg"], ["missing.jpg"]),
    (["explore", "no/index"], ["no/index"]),
    (["explore", "INDEX", "--points", "0"], ["--points", "0"]),
    (["explore", "INDEX", "-k", "0"], ["-k", "0"]),
    (["explore", "INDEX", "--port", "70000"], ["--port", "70000", "65535"]),
    (["explore", "INDEX", "--projection", "tsn"], ["projection", "tsn", "tsne"]),
    (["embed", "RUN", "--data", "FLAT", "--out", "BAD.yaml"], ["--out BAD.yaml"]),
    (["index", "RUN", "--data", "FLAT", "--out", "x", "--workers", "-1"], ["--workers", "-1"]),
    (["evaluate", "RUN", "--train", "FLAT", "--test", "FLAT", "--out", "BAD.yaml/x.json"], ["--out BAD.yaml"]),
    (["evaluate", "RUN", "--train", "FLAT", "--test", "FLAT", "--max-bad-rate", "2"], ["--max-bad-rate", "2"]),
    (["pretrain", "--config", "NULL.yaml", *TINY[2:], "--out", "x"], ["method"]),
    (["pretrain", *TINY, "--out", "x", "--method.temperature", "-1"], ["--method.temperature", "-1"]),
    (["pretrain", *TINY, "--out", "x", "--views.flip_p", "2"], ["views.flip_p", "2"]),
    (["pretrain", *TINY, "--out", "x", "--image-size", "8"], ["16 pixels"]),
    (["pretrain", *TINY, "--out", "x", "--encoder", "RUN", "--image-size", "64", "--load-size", "32"], ["load-size"]),
    (["pretrain", *TINY, "--out", "x", "--encoder", "RUN", "--channels", "1"], ["--channels 3"]),
    (["finetune", "no/run", *TUNE], ["no/run"]),
    (["finetune", "RUN", *TUNE, "--test", "no/such"], ["no/such"]),
    (["finetune", "RUN", *TUNE, "--train", "FLAT"], ["FLAT", "no labels"]),
    (["finetune", "RUN", *TUNE, "--out", "FULL"], ["FULL", "not a run"]),
    (["finetune", "RUN", *TUNE, "--out", "RUN"], ["RUN", "--overwrite"]),
    (["finetune", "RUN", *TUNE, "--label-budget", "1.5"], ["--label-budget is 1.5"]),
    (["finetune", "RUN", *TUNE, "--label-budget", "0"], ["--label-budget", "0"]),
    (["finetune", "RUN", *TUNE, "--label-budget", "1"], ["--validation 0"]),
    (["finetune", "RUN", *TUNE, "--validation", "0", "--patience", "3"], ["--patience is 3"]),
    (["finetune", "RUN", *TUNE, "--layer-decay", "1.1"], ["--layer-decay", "1.1"]),
    (["finetune", "RUN", *TUNE, "--mixup", "-1"], ["--mixup", "-1"]),
    (["finetune", "RUN", *TUNE, "--ema", "2"], ["--ema", "2"]),
    (["finetune", "RUN", *TUNE, "--init", "imagenet"], ["init", "imagenet"]),
    (["finetune", "RUN", *TUNE, "--crop-scale", "0.5"], ["--crop-scale is 0.5"]),
    (["finetune", "RUN", *TUNE, "--crop-scale", "[0.5, 0.1]"], ["crop scale", "0.5", "0.1"]),
    (["finetune", "RUN", *TUNE, "--optimizer.lr", "-1"], ["--optimizer.lr", "-1"]),
    (["finetune", "RUN", *TUNE, "--test", "shapes:test", "--device", "cuda"], ["--device cuda"]),
    (["report", "FULL"], ["FULL"]),
    (["report", "RUN", "--pictures", "pca,saliancy"], ["saliancy", "saliency"]),
    (["check", *TINY, "--epocs", "3"], ["--epocs", "--epochs"]),
    (["check", "--data", "shapes:train"], ["--method", "simclr"]),
    (["check", *TINY, "--steps", "3"], ["--steps", "3", "at least 20"]),
    (["check", *TINY, "--overfit-steps", "0"], ["--overfit-steps", "0"]),
    (["check", *TINY, "--batch-size", "1000"], ["64", "--batch-size"]),
    (["doctor", "FULL"], ["FULL", "not a run"]),
    (["doctor", "RUN", "--data", "no/such/folder"], ["no/such/folder"]),
    (["doctor", "RUN", "--images", "3"], ["--images", "3"]),
    (["plot", "pcaa", "RUN", "--data", "FLAT"], ["pcaa", "pca"]),
    (["plot", "tsne", "RUN"], ["tsne", "--data"]),
    (["plot", "pca", "no/run", "--data", "FLAT"], ["no/run"]),
    (["plot", "attention", "RUN", "--data", "FLAT"], ["convnet", "attention", "vit_"]),
    (["plot", "saliency", "RUN", "--data", "FLAT"], ["FLAT", "no labels"]),
    (["plot", "saliency", "RUN", "--data", "shapes:test:60", "--target", "lampe"], ["lampe", "lamp"]),
    (["plot", "features", "RUN", "--data", "FLAT", "--layer", "features.55"], ["features.55", "features.5"]),
    (["plot", "features", "RUN", "--data", "FLAT", "--unit", "999"], ["--unit", "999", "255"]),
    (["plot", "ascent", "RUN", "--unit", "-1"], ["--unit", "-1"]),
    (["plot", "pca", "RUN", "--data", "FLAT", "--images", "0"], ["--images", "0"]),
    (["plot", "pca", "RUN", "--data", "FLAT", "--sample", "1"], ["--sample", "1"]),
    (["plot", "pca", "RUN", "--data", "FLAT", "--out", "BAD.yaml/x.png"], ["--out", "BAD.yaml"]),
    (["propagate", "no/run", "--clip", "FLAT", "--out", "x"], ["no/run"]),
    (["propagate", "RUN", "--out", "x"], ["clip"]),
    (["propagate", "RUN", "--clip", "no/clip.mp4", "--out", "x"], ["no/clip.mp4"]),
    (["propagate", "RUN", "--clip", "FULL", "--out", "x"], ["FULL", "neither a video nor images"]),
    (["propagate", "RUN", "--clip", "FLAT", "--out", "FULL"], ["FULL", "not empty"]),
    (["propagate", "RUN", "--clip", "FLAT", "--out", "BAD.yaml"], ["--out BAD.yaml"]),
    (["propagate", "RUN", "--clip", "FLAT", "--out", "x", "--size", "0"], ["--size", "0"]),
    (["propagate", "RUN", "--clip", "FLAT", "--out", "x", "--frames", "1"], ["--frames", "1"]),
    (["propagate", "RUN", "--clip", "FLAT", "--out", "x", "--stride", "9"], ["--stride 9", "one frame"]),
    (["propagate", "RUN", "--clip", "FLAT", "--out", "x", "--topk", "0"], ["--topk", "0"]),
    (["propagate", "RUN", "--clip", "FLAT", "--out", "x", "--context", "-1"], ["--context", "-1"]),
    (["propagate", "RUN", "--clip", "FLAT", "--out", "x", "--temperature", "0"], ["--temperature", "0"]),
    (["propagate", "RUN", "--clip", "FLAT", "--out", "x", "--masks", "no.png"], ["--masks no.png"]),
    (["propagate", "RUN", "--clip", "FLAT", "--out", "x", "--masks", "FLAT/0.png"], ["--masks", "empty"]),
    (["propagate", "RUN", "--clip", "FLAT", "--out", "x", "--masks", "FULL"], ["--masks FULL", "first frame"]),
    (["pretrain", "--method", "video_colorization", *TINY[2:], "--out", "x"], ["single images", "--data clips:PATH:4"]),
    (["views", "--data", "shapes:train", "--recipe", "simclar"], ["simclar", "simclr"]),
    (["views", "--data", "shapes:train", "--recipe", "byol", "--images", "0"], ["--images", "0"]),
    (["views", "--data", "shapes:train", "--recipe", "pretext", "--views.blur_p", "1"], ["--views.blur-p"]),
]


@pytest.mark.parametrize(("args", "named"), BAD, ids=lambda value: " ".join(map(str, value))[-40:])
def test_bad_input_is_answered_in_a_few_lines(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    args: list[str], named: list[str],
) -> None:  # fmt: skip
    from ssl_toolkit import cli

    monkeypatch.chdir(tmp_path)
    (tmp_path / "FULL").mkdir()
    (tmp_path / "FULL" / "thesis.txt").write_text("years of work")
    (tmp_path / "FLAT").mkdir()
    for number in range(4):
        Image.new("RGB", (16, 16)).save(tmp_path / "FLAT" / f"{number}.png")
    (tmp_path / "BAD.yaml").write_text("epocs: 3\n")
    np.save(tmp_path / "VECTORS.npy", np.ones((3, 5), np.float32))
    (tmp_path / "NULL.yaml").write_text("method: [simclr]\n")
    os.symlink(folder / "index", tmp_path / "INDEX")
    os.symlink(folder / "run", tmp_path / "RUN")
    before = sorted(tmp_path.rglob("*"))

    monkeypatch.setattr(sys, "argv", ["ssl-toolkit", *args])
    with pytest.raises(SystemExit) as end:
        cli.main()
    error = capsys.readouterr().err
    assert end.value.code == 2, error
    assert len(error.splitlines()) <= 10
    assert "Traceback" not in error
    for word in named:
        assert word in error
    assert sorted(tmp_path.rglob("*")) == before
