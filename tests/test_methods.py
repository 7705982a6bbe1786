"""Methods by their names: short ones, class paths, and classes that lie in a folder of the user's."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ssl_toolkit.cli import dispatch
from ssl_toolkit.contrastive.simclr import SimCLR
from ssl_toolkit.errors import UsageError
from ssl_toolkit.methods import installed_methods, method_class


def test_short_names_and_class_paths() -> None:
    assert {"simclr", "rotation"} <= set(installed_methods())
    assert method_class("simclr") is SimCLR
    assert method_class("ssl_toolkit.contrastive.simclr.SimCLR") is SimCLR


def test_every_installed_method_can_be_imported() -> None:
    for name in installed_methods():
        assert method_class(name).__doc__


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("simclear", "unknown method 'simclear': did you mean simclr"),
        ("no.such.module.Method", "--method no.such.module.Method cannot be imported"),
        ("ssl_toolkit.contrastive.simclr.SimCLRR", "cannot be imported"),
        ("torch.nn.Linear", "--method torch.nn.Linear is no ssl_toolkit.method.Method"),
    ],
)
def test_what_is_no_method_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        method_class(name)


# --- a method under work, from another folder ------------------------------------------------------------------------

SOURCE = """
from ssl_toolkit.contrastive.simclr import SimCLR
class Mine(SimCLR):
    "A method under work."
"""
READ = ["--workers", "0"]
QUIET = [*READ, "--progress", "false"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was trained where the method lies; the process is elsewhere now."""
    for name in ("code", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "code" / "plugged_in.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path / "code")
    monkeypatch.setattr(sys, "path", [*sys.path])
    dispatch(
        ["pretrain", "--method", "plugged_in.Mine", "--data", "shapes:train:40", "--encoder", "convnet", "--image-size",
         "16", "--batch-size", "8", "--epochs", "1", "--out", str(tmp_path / "run"), "--logger", "csv", *QUIET]
    )  # fmt: skip
    sys.path.remove(str(tmp_path / "code"))
    del sys.modules["plugged_in"]
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "run"


def test_what_needs_the_method_says_what_to_add(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "--method plugged_in.Mine cannot be imported: No module named 'plugged_in'; install its package, or add its"
    commands = [
        ["doctor", str(run), "--images", "32", *READ],
        ["pretrain", "--out", str(run), "--resume", *QUIET],
        ["check", "--config", str(run / "config.yaml"), *QUIET],
    ]
    for command in commands:
        with pytest.raises(UsageError, match=told) as error:
            dispatch(command)
        assert len(str(error.value).splitlines()) == 1
    dispatch(["report", str(run), "--images", "8", *QUIET])
    page = (run / "report.html").read_text()
    assert page.count("plugged_in.Mine cannot be imported") >= 1
    assert "Traceback" not in page

    monkeypatch.syspath_prepend(run.parent / "code")
    capsys.readouterr()
    dispatch([*commands[0], "--json"])
    assert "embedding" in json.loads(capsys.readouterr().out)["measures"]
    dispatch(commands[1])
    dispatch(["report", str(run), "--images", "8", *QUIET])
    assert "cannot be imported" not in (run / "report.html").read_text()


def test_what_needs_the_encoder_alone_works_everywhere(run: Path, tmp_path: Path) -> None:
    train = ["--train", "shapes:train:40"]
    dispatch(["evaluate", str(run), *train, "--protocol", "knn", *QUIET])
    dispatch(["compare", str(run)])
    dispatch(["embed", str(run), "--data", "shapes:test:8", "--out", str(tmp_path / "features"), *QUIET])
    dispatch(["index", str(run), "--data", "shapes:test:8", "--out", str(tmp_path / "index"), *QUIET])
    dispatch(["search", str(tmp_path / "index"), "shapes:test#3"])
    dispatch(["plot", "pca", str(run), "--data", "shapes:test:8", "--images", "2", *QUIET])
    dispatch(["finetune", str(run), *train, "--epochs", "1", "--out", str(tmp_path / "tuned"), *QUIET])
    assert "plugged_in" not in sys.modules
