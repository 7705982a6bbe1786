from pathlib import Path

import pytest

from ssl_toolkit.errors import UsageError
from ssl_toolkit.logs import CsvLog, check_logger, make_loggers, read_metrics


def test_rows_columns_and_resuming(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    log = CsvLog(path)
    log.log_metrics({"loss": 1.5, "epoch": 0}, step=0)
    log.log_metrics({"loss": 1.25, "epoch": 0}, step=1)
    log.log_metrics({"knn_top1": 0.5, "epoch": 0}, step=1)  # the same step, a new column
    log.log_metrics({"loss": 1.0, "epoch": 1}, step=2)
    assert path.read_text() == "step,epoch,loss,knn_top1\n1,0,1.5,\n2,0,1.25,0.5\n3,1,1,\n"
    resumed = CsvLog(path, resume_step=2)
    assert [row["step"] for row in read_metrics(path)] == ["1", "2"]
    resumed.log_metrics({"loss": 0.5, "epoch": 1}, step=2)
    assert [row["loss"] for row in read_metrics(path)] == ["1.5", "1.25", "0.5"]


def test_no_metrics_yet(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.csv") == []


def test_a_torn_last_row_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,epoch,loss\n1,0,2.5\n2,0,2.25\n3,")
    log = CsvLog(path, resume_step=5)
    log.log_metrics({"loss": 2.0}, 2)
    assert [(row["step"], row["loss"]) for row in read_metrics(path)] == [("1", "2.5"), ("2", "2.25"), ("3", "2")]


@pytest.mark.parametrize(("asked", "made"), [("auto", 1), (True, 1), (False, 0), ("csv", 0), (["csv", "wandb"], 1)])
def test_loggers_by_name_keep_what_they_write_in_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: object, made: int
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    calls: list[str] = []
    for name in ("TensorBoardLogger", "WandbLogger", "MLFlowLogger"):
        monkeypatch.setattr(
            f"pytorch_lightning.loggers.{name}", lambda *args, **given: calls.append(str((args, given))) or CsvLog(LOG)
        )
    LOG = tmp_path / "log.csv"  # noqa: N806
    assert len(make_loggers(asked, tmp_path / "runs" / "a")) == made
    assert all(str(tmp_path / "runs" / "a") in call for call in calls)
    assert len(make_loggers(["tensorboard", "wandb", "mlflow", CsvLog(LOG)], tmp_path / "runs" / "a")) == 4
    assert len(calls) == made + 3


def test_mlflow_keeps_a_database_in_the_run_or_where_it_is_told_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("pytorch_lightning.loggers.MLFlowLogger", lambda *args, tracking_uri: tracking_uri)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert make_loggers("mlflow", tmp_path / "a") == [f"sqlite:///{tmp_path}/a/mlflow.db"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert make_loggers("mlflow", tmp_path / "a") == ["http://localhost:5000"]


def test_a_logger_of_a_run_that_was_an_object() -> None:
    with pytest.raises(UsageError, match=r"logger was an object of Python, <my\.Logger>"):
        check_logger(["csv", "<my.Logger>"])
