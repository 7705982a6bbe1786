"""`Run`: a folder with what comes out of it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from ssl_toolkit import Run, load_encoder, pretrain
from ssl_toolkit.errors import UsageError
from ssl_toolkit.tasks.run import loss_curve


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return pretrain(
        "simclr", "shapes:train:64", tmp_path_factory.mktemp("run") / "a<b", encoder="convnet", image_size=16, epochs=2,
        batch_size=16, workers=0, progress=False, logger=False, accelerator="cpu",
    )  # fmt: skip


def test_it_stands_where_a_path_does(run: Run) -> None:
    assert os.fspath(run) == str(run) == str(run.path)
    assert (run / "encoder.safetensors").is_file()
    assert load_encoder(run).sha256 == run.encoder.sha256
    assert Path(run) == run.path
    with pytest.raises(UsageError, match="is not a run folder"):
        Run(run.path.parent)


def test_metrics_are_columns_or_a_frame(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    columns = run.metrics
    assert isinstance(columns, dict)
    assert columns["step"] == [float(step) for step in range(1, 9)]
    assert np.isfinite(columns["loss"]).all()

    class Pandas:
        DataFrame = staticmethod(lambda columns: ("frame", list(columns)))

    monkeypatch.setitem(sys.modules, "pandas", Pandas)
    assert run.metrics == ("frame", list(columns))


def test_it_shows_itself(run: Run) -> None:
    assert re.fullmatch(
        r"Run\('.*a<b': method simclr, encoder convnet, data .*, epochs 2, steps 8, loss [\d.]+\)", repr(run)
    )
    page = run._repr_html_()
    assert "a&lt;b" in page
    assert "a<b" not in page
    assert page.count("<svg") == 1
    assert len(re.search(r'points="(.*?)"', page)[1].split()) == 8  # type: ignore[index]


def test_a_curve_goes_from_corner_to_corner() -> None:
    curve = loss_curve({"step": [1.0, 2.0, 3.0], "loss": [4.0, 3.0, 2.0]})
    assert 'points="0.0,0.0 240.0,60.0 480.0,120.0"' in curve
    assert loss_curve({"step": [1.0], "loss": [1.0]}) == loss_curve({}) == ""


def test_it_is_scored_reported_and_resumed(run: Run) -> None:
    before = run.encoder.sha256
    found = run.evaluate(
        "shapes:train:40", "shapes:test:20", protocol="knn", baselines=False, workers=0, progress=False
    )
    assert "knn, top-1" in run._repr_html_()
    assert found["encoder"]["sha256"] == before
    assert run.report(images=8, workers=0, progress=False) == run / "report.html"
    assert Run(run.path).resume().encoder.sha256 == before


def test_it_is_extended_and_says_so_wherever_it_is_shown(run: Run) -> None:
    with pytest.raises(UsageError, match=r"--epochs is 3, .* has 2: give --extend too"):
        run.resume(epochs=3)
    longer = run.resume(epochs=3, extend=True)
    assert [*longer.metrics["step"]][-1] == 12
    assert "epochs 3, extended from 2 at step 8, steps 12" in repr(longer)
    text = run.report(images=8, workers=0, progress=False).read_text()
    assert "3, extended from 2 at step 8" in text
    for command in (
        "config.yaml&#39; --epochs 2 --out NEW_FOLDER",
        "ssl-toolkit pretrain --out NEW_FOLDER --resume --extend --epochs 3",
    ):
        assert command in text
    assert Run(run.path).resume().encoder.sha256 == longer.encoder.sha256
