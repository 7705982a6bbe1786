"""Features: the right numbers in the right order, a module left as it was, and folders that are whole or refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl_toolkit.data.batch import Batch
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.eval.features import extraction as module
from ssl_toolkit.eval.features.extraction import Features, check_labelled, extract, load_features, stratified_split


class Loader:
    """Ten images of 2 x 2 pixels in batches of 4, 4 and 1; image 8 could not be read."""

    total = 10

    def __init__(self) -> None:
        self.image = torch.arange(40, dtype=torch.uint8).view(10, 1, 2, 2)
        self.label = torch.arange(10) % 3

    def __iter__(self) -> Iterator[Batch]:
        for rows in ([0, 1, 2, 3], [4, 5, 6, 7], [9]):
            yield Batch(self.image[rows], self.label[rows], torch.tensor(rows))


READ = np.array([0, 1, 2, 3, 4, 5, 6, 7, 9])


def flat(image: Tensor) -> Tensor:
    return image.flatten(1)


@pytest.fixture(params=["memory", "folder"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "deep" / "features" if request.param == "folder" else None


def test_known_values_in_order_without_the_image_that_could_not_be_read(out: Path | None) -> None:
    found = extract(flat, Loader(), out)
    np.testing.assert_array_equal(found.x, np.arange(40, dtype=np.float32).reshape(10, 4)[READ] / np.float32(255))
    np.testing.assert_array_equal(found.index, READ)
    np.testing.assert_array_equal(found.label, READ % 3)
    assert (found.x.dtype, found.label.dtype, found.index.dtype) == (np.float32, np.int64, np.int64)
    assert found.paths is None
    assert len(found) == 9


def test_a_folder_holds_plain_memory_mapped_arrays_and_no_more(tmp_path: Path) -> None:
    found = extract(flat, Loader(), tmp_path)
    assert isinstance(found.x, np.memmap)
    assert sorted(os.listdir(tmp_path)) == ["features.npy", "index.npy", "labels.npy"]
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy", allow_pickle=False), found.x)
    np.testing.assert_array_equal(np.load(tmp_path / "index.npy"), found.index)
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), found.label)


def test_more_rows_than_the_first_header_had_digits_for(tmp_path: Path) -> None:
    batches = [Batch(torch.zeros(300, 1, 1, 1, dtype=torch.uint8), torch.zeros(300).long(), torch.arange(300))] * 5
    assert extract(flat, batches, tmp_path).x.shape == (1500, 1)


def test_paths_of_any_kind_come_back(out: Path | None) -> None:
    odd = ["plain.jpg", "line\nbreak.jpg", "bytes\udcff.jpg", "ünï\u2028code.jpg", ""]
    found = extract(flat, Loader(), out, paths=lambda index: f"{index}{odd[index % 5]}")
    assert found.paths == [f"{index}{odd[index % 5]}" for index in READ]
    assert found.select(np.array([1])).paths == ["1line\nbreak.jpg"]


def test_an_encoder_is_in_eval_mode_meanwhile_and_each_part_in_its_own_afterwards() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Dropout(0.5))
    encoder[2].eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    for encode in (encoder, encoder.forward):
        found = extract(encode, Loader())
        np.testing.assert_allclose(found.x, extract(flat, Loader()).x / np.sqrt(1 + 1e-5), rtol=1e-6)
        assert [part.training for part in encoder.modules()] == [True, True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_modes_come_back_after_an_error() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))  # takes 3 numbers, gets 4
    with pytest.raises(RuntimeError, match="shapes"):
        extract(encoder, Loader())
    assert encoder.training


def test_training_goes_on_with_what_the_encoder_kept() -> None:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))
            self.table: Tensor | None = None

        def forward(self, image: Tensor) -> Tensor:
            if self.table is None:
                self.table = torch.linspace(0, 1, 4)
            return image.flatten(1) * self.scale * self.table

    encoder = Cached()
    assert not torch.is_inference(torch.from_numpy(extract(encoder, Loader()).x))
    encoder(torch.rand(2, 1, 2, 2)).sum().backward()  # refuses tensors made under inference_mode
    assert encoder.scale.grad is not None


def test_float32_whatever_is_around() -> None:
    weight = torch.full((4, 4), 1 / 3)
    plain = extract(lambda image: image.flatten(1) @ weight, Loader()).x
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(extract(lambda image: image.flatten(1) @ weight, Loader()).x, plain)
    half = extract(lambda image: (image.flatten(1) @ weight).half(), Loader()).x
    assert half.dtype == np.float32


def test_the_view_gets_bytes_and_the_encoder_its_result() -> None:
    def view(image: Tensor) -> Tensor:
        assert image.dtype == torch.uint8
        return image[..., :1, :1].float()

    np.testing.assert_array_equal(extract(flat, Loader(), view=view).x[:, 0], READ * 4)


def test_features_that_are_not_finite_are_counted_and_located(out: Path | None) -> None:
    def encode(image: Tensor) -> Tensor:
        x = image.flatten(1) * 255
        x[x[:, 0] == 20, 1] = float("nan")  # image 5
        x[x[:, 0] == 28, 3] = float("inf")  # image 7
        return x

    with pytest.raises(ToolkitError, match=r"2 of 4 images in a batch .* first position 5:"):
        extract(encode, Loader(), out)
    with pytest.raises(ToolkitError, match=r"first cat5\.jpg:"):
        extract(encode, Loader(), out, paths=lambda index: f"cat{index}.jpg")
    assert out is None or os.listdir(out) == []


def test_features_of_a_wrong_shape_are_refused() -> None:
    with pytest.raises(ToolkitError, match=r"4 images gave features of shape \(4, 1, 2, 2\)"):
        extract(lambda image: image, Loader())
    with pytest.raises(ToolkitError, match=r"4 images gave features of shape \(1, 4\)"):
        extract(lambda image: image.flatten(1)[:1], Loader())


def test_no_image_at_all_is_an_error(out: Path | None) -> None:
    with pytest.raises(ToolkitError, match="no image could be read"):
        extract(flat, [], out)


def test_an_error_on_the_way_leaves_the_old_features(tmp_path: Path) -> None:
    extract(flat, Loader(), tmp_path, paths=str)

    def encode(image: Tensor) -> Tensor:
        if len(image) == 1:
            raise RuntimeError("stop")
        return image.flatten(1) + 1

    with pytest.raises(RuntimeError, match="stop"):
        extract(encode, Loader(), tmp_path)
    np.testing.assert_array_equal(load_features(tmp_path).x, extract(flat, Loader()).x)
    assert sorted(os.listdir(tmp_path)) == ["features.npy", "index.npy", "labels.npy", "paths.jsonl"]


@pytest.mark.parametrize("name", ["labels.npy", "index.npy", "paths.jsonl", "features.npy"])
def test_a_stop_between_the_files_never_leaves_a_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    extract(flat, Loader(), tmp_path, paths=str)
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if target.name == name:
            raise RuntimeError("stop")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(RuntimeError, match="stop"):
        extract(lambda image: image.flatten(1) + 1, Loader(), tmp_path, paths=str)
    with pytest.raises(UsageError, match="holds no features"):
        load_features(tmp_path)


def test_replacing_features_drops_paths_that_are_no_longer_theirs(tmp_path: Path) -> None:
    extract(flat, Loader(), tmp_path, paths=str)
    assert extract(lambda image: image.flatten(1) + 1, Loader(), tmp_path).paths is None
    assert load_features(tmp_path).x.min() == 1


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no features"):
        load_features(tmp_path / "nowhere")
    extract(flat, Loader(), tmp_path)
    whole = (tmp_path / "features.npy").read_bytes()
    for damaged in (whole[:-4], whole[:100], whole[:5], b"", b"x" + whole[1:]):
        (tmp_path / "features.npy").write_bytes(damaged)
        with pytest.raises(ToolkitError, match="damaged"):
            load_features(tmp_path)
    (tmp_path / "features.npy").write_bytes(whole)
    np.save(tmp_path / "labels.npy", np.zeros(8, dtype=np.int64))
    with pytest.raises(ToolkitError, match=r"damaged .*rows \[8, 9\]"):
        load_features(tmp_path)
    (tmp_path / "labels.npy").unlink()
    with pytest.raises(ToolkitError, match="damaged"):
        load_features(tmp_path)


def test_pickles_are_never_executed(tmp_path: Path) -> None:
    extract(flat, Loader(), tmp_path)
    np.save(tmp_path / "labels.npy", np.array([{}] * 9, dtype=object), allow_pickle=True)
    with pytest.raises(ToolkitError, match="damaged"):
        load_features(tmp_path)


def test_the_progress_bar_counts_images(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = module.progress_bar

    def spy(total: int | None, what: str, unit: str, show: bool, done: int) -> object:
        made.append((total, show, real(total, what, unit, show=False)))
        made[-1][2].update = lambda n: made.append(n)
        return made[-1][2]

    monkeypatch.setattr(module, "progress_bar", spy)
    extract(flat, Loader(), progress=True)
    assert made[0][:2] == (10, True)
    assert made[1:] == [4, 4, 1]


def test_split_takes_the_same_share_of_every_class() -> None:
    label = np.repeat([3, 0, 7, 5], [100, 50, 3, 1])
    fit, chosen = stratified_split(label, 0.2, seed=0)
    np.testing.assert_array_equal(np.sort(np.concatenate([fit, chosen])), np.arange(154))
    assert {int(c): int((label[chosen] == c).sum()) for c in np.unique(label)} == {3: 20, 0: 10, 7: 1, 5: 0}


def test_split_leaves_one_of_each_class_to_fit_on() -> None:
    label = np.array([0, 0, 1, 1])
    fit, chosen = stratified_split(label, 0.99, seed=0)
    assert sorted(label[fit]) == [0, 1]
    assert sorted(label[chosen]) == [0, 1]


def test_split_depends_on_the_seed_alone() -> None:
    label = np.arange(1000) % 7
    first, again, other = (stratified_split(label, 0.3, seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.abs(np.diff(first)).max() > 5  # drawn, not the first or every third


def test_split_needs_two_of_a_kind() -> None:
    with pytest.raises(UsageError, match="no class has two"):
        stratified_split(np.arange(5), 0.5, seed=0)


def make(label: list[int], width: int = 2) -> Features:
    return Features(np.ones((len(label), width), np.float32), np.array(label, dtype=np.int64), np.arange(len(label)))


def test_check_labelled_names_what_is_wrong() -> None:
    check_labelled(make([0, 1, 2]), make([2, 0]))
    with pytest.raises(UsageError, match="1 of 3 images of the training set have no label"):
        check_labelled(make([0, -1, 2]), make([0]))
    with pytest.raises(UsageError, match="2 of 2 images of the test set have no label"):
        check_labelled(make([0]), make([-1, -1]))
    with pytest.raises(UsageError, match=r"2 classes are in the test set but not in the training set: labels 2, 9"):
        check_labelled(make([0, 1]), make([9, 2, 0, 2]))
    with pytest.raises(UsageError, match="training features have 2 columns, test features 3"):
        check_labelled(make([0]), make([0], width=3))
    with pytest.raises(UsageError, match="the test set is empty"):
        check_labelled(make([0]), make([]))
