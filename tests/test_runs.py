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


def test_of_devices_and_nodes_the_product_counts(tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", {"devices": 2, "nodes": 2, "seed": 0})
    start_run(tmp_path / "run", {"devices": 4, "nodes": 1, "seed": 0}, resume=True)
    assert run.config()["nodes"] == 2
    with pytest.raises(UsageError, match=r"--devices x --nodes is 2 processes, but the run in .* has 4, on which its"):
        start_run(tmp_path / "run", {"devices": 2, "nodes": 1, "seed": 0}, resume=True)
    start_run(tmp_path / "old", {"devices": 2})  # from before there were nodes
    start_run(tmp_path / "old", {"devices": 2, "nodes": 1}, resume=True, usual={"nodes": None})


def test_resuming_deletes_what_a_killed_process_was_writing(tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", {})
    left = run.checkpoints / ".step-00000003.tmp-0123456789abcdef.ckpt"
    left.write_text("half")
    whole = run.checkpoints / "step-00000002.ckpt"
    whole.write_text("whole")
    start_run(tmp_path / "run", {}, resume=True)
    assert list(run.checkpoints.iterdir()) == [whole]


def test_a_run_is_extended_once_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, path = {"seed": 0, "epochs": 6}, tmp_path / "run"
    run = start_run(path, config, extend=False)
    assert (run.extensions(), run.first_epochs(12)) == ([], 6)
    longer = {**config, "epochs": 12}
    with pytest.raises(UsageError, match=r"--epochs is 12, .* has 6: give --extend too to go on with it, or start"):
        start_run(path, longer, resume=True, extend=False)
    with pytest.raises(UsageError, match=r"--epochs is 5, .* has 6: resume it as it was, or start"):
        start_run(path, {**config, "epochs": 5}, resume=True, extend=True)
    with pytest.raises(UsageError, match=r"--epochs is 12, .* has 6: resume it as it was"):  # of another command
        start_run(path, longer, resume=True)
    with pytest.raises(UsageError, match=r"--seed is 1, but"):
        start_run(path, {"seed": 1, "epochs": 12}, resume=True, extend=True)
    with pytest.raises(UsageError, match=r"--extend goes on with a run: give --resume too"):
        start_run(path, longer, extend=True)
    assert run.config() == config
    for step in (88, 90):
        (run.checkpoints / f"step-{step:08d}.ckpt").touch()
    for _ in range(2):  # the same command goes on when the extended run was stopped
        start_run(path, longer, resume=True, extend=True)
        assert run.config() == longer
        assert run.extensions() == [{"step": 90, "epochs": 6}]
    assert capsys.readouterr().err.count("extended: from 6 to 12 epochs at step 90; schedules go on") == 1
    start_run(path, {**config, "epochs": 20}, resume=True, extend=True)
    assert run.extensions() == [{"step": 90, "epochs": 6}, {"step": 90, "epochs": 12}]
    assert run.first_epochs(20) == 6


def test_a_run_from_before_a_setting_existed_goes_on_with_its_default(tmp_path: Path) -> None:
    start_run(tmp_path / "run", {"seed": 0, "views": {"size": 8}})
    usual = {"seed": 1, "new": 2, "views": {"blur": 0.5}}
    start_run(tmp_path / "run", {"seed": 0, "new": 2, "views": {"size": 8, "blur": 0.5}}, resume=True, usual=usual)
    with pytest.raises(UsageError, match=r"--new is 3, but the run in .* has 2"):
        start_run(tmp_path / "run", {"seed": 0, "new": 3, "views": {"size": 8, "blur": 0.5}}, resume=True, usual=usual)


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
