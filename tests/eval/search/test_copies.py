"""Groups of copies: whole, without chains, around the image to keep, at a threshold that the images set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from test_likeness import EDITS, page, scene

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.scores.knn import unit
from ssl_toolkit.eval.search import copies
from ssl_toolkit.eval.search.copies import LIMITS, duplicates, worth
from ssl_toolkit.eval.search.index import EmbeddingIndex
from tests.conftest import BuildIndex, noise

Indexed = Callable[..., EmbeddingIndex]


@pytest.fixture
def indexed(build_index: BuildIndex, tmp_path: Path) -> Indexed:
    """``indexed({"a.png": image, ...})``: an index whose embedding says nothing."""

    def make(images: dict[str, Image.Image], **options: object) -> EmbeddingIndex:
        for name, image in images.items():
            image.save(tmp_path / name)
        return build_index(noise(len(images)), [str(tmp_path / name) for name in images], **options)

    return make


def named(index: EmbeddingIndex, found: copies.Copies) -> list[list[str]]:
    return [[Path(index.paths[place]).stem for place in group] for group in found.groups]


def test_pages_that_look_the_same_to_an_encoder_are_told_apart(indexed: Indexed) -> None:
    images = {f"page{number}.png": page(number) for number in range(40)}
    index = indexed({**images, "copy.jpg": page(39).convert("RGB")})
    x = np.ones(8) + 1e-3 * noise(41)  # what a poor encoder does to pages
    x[40] = x[39]
    index.vectors[:] = unit(x)
    assert (index.vectors @ index.vectors.T).min() > 0.99999
    found = duplicates(index)
    assert sorted(named(index, found)[0]) == ["copy", "page39"]
    assert len(found.groups) == 1


@pytest.mark.parametrize("edit", EDITS)
def test_each_edit_is_found(indexed: Indexed, edit: str) -> None:
    images = {f"{number}.png": scene(number) for number in range(8)}
    found = duplicates(index := indexed({**images, "edited.png": EDITS[edit](scene(5))}))
    assert [sorted(group) for group in named(index, found)] == [["5", "edited"]]


def test_a_group_is_whole_however_large(indexed: Indexed) -> None:
    few = {"larger.png": scene(0).resize((120, 120)), **{f"other{number}.png": scene(number) for number in range(1, 4)}}
    index = indexed({**{f"{number}.png": scene(0) for number in range(40)}, **few})
    index.vectors[:41] = index.vectors[0]  # each knows the same sixteen of forty
    found = duplicates(index)
    assert [len(group) for group in found.groups] == [41]
    assert len(found.likeness[0]) == 41
    assert found.likeness[0][0] == 1
    assert found.likeness[0][1:] == sorted(found.likeness[0][1:], reverse=True)


def test_no_chain_joins_what_is_unlike(indexed: Indexed) -> None:
    one, other = (np.asarray(scene(number), dtype=float) for number in (0, 1))
    steps = np.linspace(0, 1, 13)
    index = indexed({f"{n:02d}.png": Image.fromarray(((1 - s) * one + s * other).astype(np.uint8))
                     for n, s in enumerate(steps)})  # fmt: skip
    found = duplicates(index, 0.9)
    assert len(found.groups) > 1
    for group in found.groups:
        assert max(abs(place - group[0]) for place in group) < 8
    assert min(min(scores) for scores in found.likeness) >= 0.9
    members = [place for group in found.groups for place in group]
    assert len(members) == len(set(members))


def test_the_image_to_keep_is_the_largest_that_is_sharp(indexed: Indexed) -> None:
    image = scene(3).resize((192, 192))
    index = indexed({
        "small.png": image.resize((96, 96)), "kept.png": image, "cut.png": image.crop((5, 5, 187, 187)),
        "enlarged.png": image.resize((64, 64)).resize((400, 400)), "other.png": scene(4),
    })  # fmt: skip
    (group,) = named(index, duplicates(index))
    assert group[0] == "kept"
    assert sorted(group) == ["cut", "enlarged", "kept", "small"]


def test_of_equal_images_the_larger_file_is_kept(indexed: Indexed, tmp_path: Path) -> None:
    index = indexed({"a.png": scene(0), "b.png": scene(0)})
    with (tmp_path / "b.png").open("ab") as file:
        file.write(bytes(100))
    assert named(index, duplicates(index)) == [["b", "a"]]
    assert worth(index.paths[1], 3, None)[1:] == (96 * 96, (tmp_path / "b.png").stat().st_size)
    assert worth(str(tmp_path / "gone.png"), 3, None) == (0, 0, 0)
    assert worth("shapes:test#3", 3, None)[2] == 0


def test_the_threshold_comes_from_the_images(indexed: Indexed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "LIMITS", (0.0, 1.0))
    scenes = duplicates(indexed({f"{number}.png": scene(number) for number in range(20)})).threshold
    pages = duplicates(indexed({f"{number}.png": page(number) for number in range(20)})).threshold
    both = {f"{number}{kind}.png": EDITS["darker"](page(number)) if kind else page(number)
            for number in range(20) for kind in (0, 1)}  # fmt: skip
    assert 0 < scenes < pages < 0.9  # pages are more alike
    assert duplicates(indexed(both)).threshold == pytest.approx(pages, abs=0.15)  # copies do not raise it
    monkeypatch.undo()
    assert duplicates(indexed({f"{number}.png": scene(number) for number in range(20)})).threshold == LIMITS[0]
    assert duplicates(indexed({"0.png": scene(0)})).groups == []


def test_a_threshold_that_is_given_holds(indexed: Indexed) -> None:
    index = indexed({"a.png": scene(0), "b.png": ImageEnhance.Contrast(EDITS["smaller"](scene(0))).enhance(0.9)})
    (score,) = duplicates(index, 0.1).likeness[0][1:]
    assert duplicates(index, score - 1e-4).groups
    assert not duplicates(index, score + 1e-4).groups


def test_images_that_are_gone_are_left_out(indexed: Indexed) -> None:
    index = indexed({f"{name}.png": scene(0) for name in "abcd"})
    for place in (1, 3):  # nothing is like nothing, and no group
        Path(index.paths[place]).unlink()
    found = duplicates(index)
    assert (found.groups, found.unread) == ([[0, 2]], [1, 3])
    for place in (0, 2):
        Path(index.paths[place]).unlink()
    with pytest.raises(UsageError, match=r"none of the 4 images of the index can be read any more, such as .*a\.png"):
        duplicates(index)
