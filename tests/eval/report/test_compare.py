"""Runs beside each other: ranked, each baseline once, and nothing compared that was not measured alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.eval.report.compare import compare_runs
from ssl_toolkit.tasks.comparing import compare


def scored(
    path: Path, knn: float, random: float | None = 0.25, images: int = 100, protocols: tuple[str, ...] = ("knn",)
) -> Path:
    """A run folder with the results that `ssl-toolkit evaluate` would leave in it."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("method: {name: simclr}\n")

    def scores(top1: float) -> dict[str, Any]:
        return {protocol: {"top1": top1, "interval": [top1 - 0.01, top1 + 0.01]} for protocol in protocols}

    baselines = {} if random is None else {"random": scores(random), "pixels": scores(0.125)}
    results = {
        "encoder": {"name": "convnet", "method": "SimCLR"},
        "protocol": {"train": {"data": "a", "images": 50}, "test": {"data": "b", "images": images}, "classes": 8},
        "results": {"trained": scores(knn), **baselines},
    }
    (path / "results.json").write_text(json.dumps(results))
    return path


def test_best_first_then_each_baseline_once(tmp_path: Path) -> None:
    runs = [scored(tmp_path / "a", 0.5), scored(tmp_path / "b", 0.75), scored(tmp_path / "c", 0.625, None)]
    assert [row.name for row in compare_runs([*runs, runs[0]])] == ["b", "c", "a", "random weights", "raw pixels"]
    lines = str(compare([str(run) for run in runs])).partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == ["top-1,", "b", "c", "a", "random", "raw"]
    assert lines[1].split() == ["b", "SimCLR", "convnet", "75.0", "±1.0"]
    assert len({len(line) for line in lines}) == 1


def test_what_is_healthy_and_next_is_said_of_each_run(tmp_path: Path) -> None:
    runs = [scored(tmp_path / name, knn) for name, knn in (("good", 0.5), ("like", 0.255), ("poor", 0.1))]
    runs.append(scored(tmp_path / "alone", 0.4, None))
    rows = {row.name: row.not_above for row in compare_runs(runs)}
    both = ("random weights", "raw pixels")
    assert rows == {"good": (), "like": both[:1], "poor": both, "alone": None, **dict.fromkeys(both)}
    text = " ".join(str(compare([str(run) for run in runs])).split())
    assert "Higher is better" in text
    assert "In good health, a trained encoder is above raw pixels and random weights by more than its ±" in text
    assert f"good: Above the baselines by more than the ±. Next: `ssl-toolkit index {runs[0]}`" in text
    assert "like: Not above random weights by more than the ±" in text
    assert "poor: Not above random weights and raw pixels by more" in text
    assert f"Next: `ssl-toolkit doctor {runs[2]}`" in text
    assert "alone: No baseline was scored" in text


def test_random_weights_of_other_encoders_are_told_apart(tmp_path: Path) -> None:
    runs = [scored(tmp_path / "a", 0.5), scored(tmp_path / "b", 0.75, 0.375), scored(tmp_path / "c", 0.625)]
    names = [row.name for row in compare_runs(runs)]
    assert names == ["b", "c", "a", "random weights: a", "random weights: b", "raw pixels"]


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    runs = [scored(tmp_path / "x" / "run", 0.5), scored(tmp_path / "y" / "run", 0.75)]
    assert [row.name for row in compare_runs(runs)][:2] == [str(runs[1]), str(runs[0])]


def of_sets(run: Path, **knn: float) -> Path:
    """The run, scored on several labelled sets."""
    results = json.loads((run / "results.json").read_text())
    part = {key: results.pop(key) for key in ("protocol", "results")}
    results["sets"] = {}
    for name, top1 in knn.items():
        trained = {"knn": {"top1": top1, "interval": [top1, top1]}}
        results["sets"][name] = {**part, "results": {**part["results"], "trained": trained}}
    (run / "results.json").write_text(json.dumps(results))
    return run


def test_several_labelled_sets_are_columns(tmp_path: Path) -> None:
    runs = [
        of_sets(scored(tmp_path / "a", 0.5), pets=0.5, flowers=0.25),
        of_sets(scored(tmp_path / "b", 0.5), pets=0.75, flowers=0.125),
    ]
    rows = compare_runs(runs)
    assert [(row.name, [score["top1"] for score in row.scores.values()]) for row in rows] == [
        ("b", [0.75, 0.125]), ("a", [0.5, 0.25]), ("random weights", [0.25, 0.25]), ("raw pixels", [0.125, 0.125])
    ]  # fmt: skip
    assert list(rows[0].scores) == ["pets: knn", "flowers: knn"]
    lines = str(compare([str(run) for run in runs], str(tmp_path / "chart.png"))).partition("\n\n")[0].splitlines()
    assert lines[0].split()[-4:] == ["pets:", "kNN", "flowers:", "kNN"]
    assert lines[1].split()[:7] == ["b", "SimCLR", "convnet", "75.0", "±0.0", "12.5", "±0.0"]
    assert lines[1].endswith("not above random weights")  # on flowers
    assert len({len(line) for line in lines if "not above" not in line}) == 1
    with pytest.raises(UsageError, match=r"c was scored on 100 images by 50 of 8 classes, .*a on pets: 100 images"):
        compare_runs([runs[0], scored(tmp_path / "c", 0.5)])


def measured(run: Path, **measures: float) -> Path:
    """The run, with measures that need no labels."""
    results = json.loads((run / "results.json").read_text())
    results["measures"] = {"trained": measures, "random": {"rankme": 1.0}}
    (run / "results.json").write_text(json.dumps(results))
    return run


def test_measures_without_labels_are_ranked_beside_the_linear_probe(tmp_path: Path) -> None:
    # By the linear probe: a < b < c < d. RankMe takes b and c for one another, alpha is nearest to 1 for the best.
    figures = {"a": (0.1, 3, 2.0), "b": (0.2, 9, 0.3), "c": (0.3, 5, 1.4), "d": (0.4, 11, 0.9)}
    runs = []
    for name, (linear, rankme, alpha) in figures.items():
        runs.append(scored(tmp_path / name, 1 - linear, protocols=("knn", "linear")))
        results = json.loads((runs[-1] / "results.json").read_text())
        results["results"]["trained"]["linear"] = {"top1": linear}
        (runs[-1] / "results.json").write_text(json.dumps(results))
        measured(runs[-1], rankme=rankme, alpha_req=alpha)
    found = compare([str(run) for run in runs])
    assert found.correlations == {"rankme": pytest.approx(0.8), "alpha_req": pytest.approx(1.0)}
    table = str(found).split("\n\n")[1].splitlines()
    assert table[0].split() == ["without", "labels", "RankMe", "alpha-ReQ"]
    assert table[1].split() == ["a", "3", "2"]
    assert table[-1].split() == ["Spearman", "with", "linear", "+0.80", "+1.00"]
    few = compare([str(run) for run in runs[:3]])
    assert few.correlations == {}
    assert "Spearman" not in str(few)
    assert "RankMe" in str(few)
    assert "without labels" not in str(compare([str(scored(tmp_path / "e", 0.5))]))


def test_measures_of_seeds_are_means(tmp_path: Path) -> None:
    for run, value in zip(runs := seeded(tmp_path / "a", 0.5, 0.52), (2, 4), strict=True):
        measured(run, rankme=value)
    assert compare_runs(runs)[0].measures == {"rankme": 3}


def seeded(folder: Path, *knn: float, **settings: Any) -> list[Path]:
    """Runs that differ in their seed only."""
    runs = []
    for seed, top1 in enumerate(knn):
        runs.append(scored(folder.with_name(f"{folder.name}-{seed}"), top1))
        config = {"method": {"name": "simclr"}, "seed": seed, "out": str(runs[-1]), **settings}
        (runs[-1] / "config.yaml").write_text(yaml.safe_dump(config))
    return runs


def test_seeds_share_a_row_with_mean_deviation_and_test(tmp_path: Path) -> None:
    runs = seeded(tmp_path / "a", 0.5, 0.52, 0.54) + seeded(tmp_path / "b", 0.60, 0.61, 0.65, epochs=9)
    alone = scored(tmp_path / "c", 0.4)
    best, other, single, *_ = compare_runs([*runs, alone])
    assert [(row.name, len(row.runs)) for row in (best, other, single)] == [("b", 3), ("a", 3), ("c", 1)]
    assert best.scores["knn"]["top1"] == pytest.approx(0.62)
    assert best.scores["knn"]["seeds"] == [0.60, 0.61, 0.65]
    low, high = other.scores["knn"]["interval"]
    assert (high - low) / 2 == pytest.approx(0.02)  # the deviation of 50, 52, 54
    # By hand: 10 points over sqrt(4/3 + 7/3), with 3.7 degrees of freedom; p of the t-distribution's table.
    assert other.difference == pytest.approx(-10)
    assert other.p == pytest.approx(0.0078004, rel=0.001)
    assert (best.difference, best.p, single.p) == (None, None, None)
    lines = str(compare([*map(str, runs), str(alone)])).splitlines()
    assert lines[0].split() == ["top-1,", "%", "method", "encoder", "seeds", "kNN", "to", "b"]
    assert lines[1].split() == ["b", "SimCLR", "convnet", "3", "62.0", "±2.6"]
    assert lines[2].split() == ["a", "SimCLR", "convnet", "3", "52.0", "±2.0", "-10.0,", "p", "0.0078"]
    assert lines[3].split()[-3:] == ["40.0", "±1.0", "-22.0"]
    assert "Welch's t-test" in "\n".join(lines)
    assert compare_runs(runs, against="a")[0].difference == pytest.approx(10)
    with pytest.raises(UsageError, match="unknown run to compare with 'bb': did you mean b"):
        compare_runs(runs, against="bb")


def test_what_is_no_seed_of_another_has_a_row_of_its_own(tmp_path: Path) -> None:
    first, second, third = seeded(tmp_path / "a", 0.5, 0.6, 0.7)
    (second / "config.yaml").write_text((first / "config.yaml").read_text())  # the same run again
    (third / "config.yaml").write_text((third / "config.yaml").read_text() + "extended: [{step: 9, epochs: 1}]\n")
    rows = compare_runs([first, second, third])
    assert [row.name for row in rows[:3]] == ["a-2", "a-1", "a-0"]
    assert "Differences are not tested" in str(compare([str(first), str(second)]))
    table = str(compare([str(third)]))
    assert "SimCLR (extended)" in table
    assert "a-2: extended from 1 at step 9." in table


def test_the_same_advice_is_given_once(tmp_path: Path) -> None:
    text = str(compare([str(scored(tmp_path / name, 0.5)) for name in "ab"]))
    assert text.count("Above the baselines") == 1
    assert "a, b: Above the baselines by more than the ±. Next: `ssl-toolkit index RUN`" in text


def test_folders_of_seeds_are_rows_and_folders_of_runs_are_looked_into(tmp_path: Path) -> None:
    for name, scores in (("a", (0.5, 0.6)), ("b", (0.7, 0.9))):
        for seed, top1 in enumerate(scores):
            scored(tmp_path / "sweep" / name / f"seed{seed}", top1)
    (scored(tmp_path / "sweep" / "failed", 0.1) / "results.json").unlink()
    rows = compare_runs([tmp_path / "sweep"])
    assert [(row.name, row.scores["knn"]["top1"]) for row in rows[:2]] == [("b", 0.8), ("a", 0.55)]
    assert rows[:2] == compare_runs([tmp_path / "sweep" / "a", tmp_path / "sweep" / "b"])[:2]


def test_seeds_as_bad_as_random_weights_on_the_mean_are_marked(tmp_path: Path) -> None:
    (row, *_) = compare_runs(seeded(tmp_path / "a", 0.24, 0.28))  # random weights have 0.25, the ± is 0.01
    assert row.not_above == ("random weights",)
    (row, *_) = compare_runs(seeded(tmp_path / "b", 0.25, 0.28))
    assert row.not_above == ()


def test_like_random_weights_is_said_in_the_row_and_in_colour(tmp_path: Path) -> None:
    runs = [scored(tmp_path / "good", 0.5), scored(tmp_path / "like", 0.255)]
    table = compare([str(run) for run in runs]).table()
    (marked,) = [line for line in table.text(colour=True).splitlines() if "\x1b[31m" in line]
    assert marked.startswith("\x1b[31mlike")
    assert marked.endswith("  not above random weights\x1b[0m")
    assert "\x1b" not in str(table)
    assert table.html().count('<tr style="color:#c2410c">') == 1


def test_long_names_wrap(tmp_path: Path) -> None:
    name = "method.temperature=0.1,optimizer.lr=0.001,views.crop_scale=0.08-1"
    found = compare([str(scored(tmp_path / name, 0.5))])
    lines = str(found).splitlines()
    assert lines[1].split() == ["method.temperature=0.1,", "SimCLR", "convnet", "50.0", "±1.0"]
    assert max(map(len, lines[:6])) <= 100
    assert "".join(line.split()[0] for line in lines[1:4]) == name
    assert f"<td>{lines[1].split()[0]}<wbr>" in found._repr_html_()


def test_the_chart_is_written(tmp_path: Path) -> None:
    compare([str(scored(tmp_path / "a", 0.5))], str(tmp_path / "charts" / "a.png"))
    with Image.open(tmp_path / "charts" / "a.png") as picture:
        assert picture.format == "PNG"


def test_what_was_not_measured_alike_is_refused(tmp_path: Path) -> None:
    run = scored(tmp_path / "a", 0.5)
    with pytest.raises(UsageError, match=r"b was scored on 80 images by 50 of 8 classes, .*a on 100 images by 50"):
        compare_runs([run, scored(tmp_path / "b", 0.5, images=80)])
    with pytest.raises(UsageError, match=r"c was scored by knn, linear, .*a by knn: evaluate both alike"):
        compare_runs([run, scored(tmp_path / "c", 0.5, protocols=("knn", "linear"))])


def test_what_is_no_scored_run_is_named(tmp_path: Path) -> None:
    run = scored(tmp_path / "a", 0.5)
    with pytest.raises(UsageError, match="nothing is not a run folder"):
        compare_runs([run, tmp_path / "nothing"])
    (run / "results.json").write_text("{}")
    with pytest.raises(ToolkitError, match=r"results\.json is not what ssl-toolkit evaluate writes"):
        compare_runs([run])
    (run / "results.json").unlink()
    with pytest.raises(UsageError, match=r"a has not been scored: ssl-toolkit evaluate .*a --train"):
        compare_runs([run])
