from pathlib import Path

import pytest

from ssl_toolkit.errors import UsageError
from ssl_toolkit.runs import RunFolder, flatten, start_run


def test_new_run_keeps_its_configuration(tmp_path: Path) -> None:
    config = {"data": "shapes:train", "optimizer": {"lr": 0.1}, "views": {"crop_scale": [0.2, 1.0]}}
    run = start_run(tmp_path / "a" / "b", config)
    assert RunFolder(tmp_path / "a" / "b").config() == config
    assert run.checkpoints.is_dir()


def test_existing_run_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", {"seed": 0})
    run.encoder_file.write_text("precious")
    with pytest.raises(UsageError, match=r"holds a run already.*--resume or --overwrite"):
        start_run(tmp_path / "run", {"seed": 1})
    assert run.encoder_file.read_text() == "precious"
    start_run(tmp_path / "run", {"seed": 1}, overwrite=True)
    assert not run.encoder_file.exists()
    assert run.config() == {"seed": 1}


def test_what_is_no_run_is_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not empty and not a run"):
        start_run(tmp_path, {}, overwrite=True)
    with pytest.raises(UsageError, match="is a file"):
        start_run(tmp_path / "thesis.txt", {}, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_resuming_refuses_another_configuration(tmp_path: Path) -> None:
    config = {"seed": 0, "workers": 2, "optimizer": {"lr": 0.1}}
    start_run(tmp_path / "run", config)
    start_run(tmp_path / "run", {**config, "workers": 0}, resume=True)
    with pytest.raises(UsageError, match=r"--optimizer.lr is 0.2, but the run in .* has 0.1"):
        start_run(tmp_path / "run", {**config, "optimizer": {"lr": 0.2}}, resume=True)
    with pytest.raises(UsageError, match=r"--max-steps is 5, but the run in .* has None"):
        start_run(tmp_path / "run", {**config, "max_steps": 5}, resume=True)


def test_resuming_deletes_what_a_killed_process_was_writing(tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", {})
    left = run.checkpoints / ".step-00000003.tmp-0123456789abcdef.ckpt"
    left.write_text("half")
    whole = run.checkpoints / "step-00000002.ckpt"
    whole.write_text("whole")
    start_run(tmp_path / "run", {}, resume=True)
    assert list(run.checkpoints.iterdir()) == [whole]


def test_resuming_nothing_starts_a_run(tmp_path: Path) -> None:
    assert start_run(tmp_path / "run", {"seed": 0}, resume=True).config() == {"seed": 0}


def test_overwriting_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    start_run(tmp_path / "disk", {"seed": 1})
    (tmp_path / "disk" / "metrics.csv").write_text("step\n")
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    run = start_run(tmp_path / "run", {"seed": 2}, overwrite=True)
    assert (tmp_path / "run").is_symlink()
    assert run.config() == {"seed": 2}
    assert not run.metrics_file.exists()


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        start_run(tmp_path / "file" / "run", {})


def test_flatten() -> None:
    assert flatten({"a": 1, "b": {"c": 2, "d": {"e": 3}}}) == {"a": 1, "b.c": 2, "b.d.e": 3}
