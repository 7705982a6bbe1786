from __future__ import annotations

import pickle
from random import Random

import numpy as np
import pytest

from ssl_toolkit.data.scenes import HUES, RELATIONS, Scene, render, scene
from ssl_toolkit.data.shapes import CLASSES
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.errors import UsageError


def test_captions_say_what_is_there() -> None:
    assert Scene(("house", "car"), ("red", "blue"), "above").caption == "a red house above a blue car"
    assert Scene(("umbrella",), (None,), None).caption == "an umbrella"
    assert Scene(("umbrella",), ("green",), None).caption == "a green umbrella"


def test_scenes_are_drawn_as_documented() -> None:
    drawn = [scene(Random(n)) for n in range(2000)]
    kinds = [(len(each.kinds), each.hues[0] is None) for each in drawn]
    for kind, share in (((1, True), 0.25), ((1, False), 0.25), ((2, False), 0.5)):
        assert kinds.count(kind) / 2000 == pytest.approx(share, abs=0.04)
    assert {each.relation for each in drawn} == {None, *RELATIONS}
    assert {kind for each in drawn for kind in each.kinds} == {*CLASSES}
    assert all(len(set(each.kinds)) == len(each.kinds) for each in drawn)


@pytest.mark.parametrize("relation", RELATIONS)
def test_things_stand_where_the_caption_says_and_in_its_colours(relation: str) -> None:
    """Red alone is bright in red and dark in the others; likewise blue."""
    for index in range(3000):
        shown = scene_of("train", index)
        if shown.relation == relation and set(shown.hues) == {"red", "blue"}:
            break
    pixels = render("train", index, 64)[0].astype(int)
    red = (pixels[0] > 120) & (pixels[1:].max(0) < pixels[0] / 2)
    blue = (pixels[2] > 120) & (pixels[0] < pixels[2] / 2) & (pixels[1] < 0.7 * pixels[2])
    places = {"red": np.argwhere(red).mean(0), "blue": np.argwhere(blue).mean(0)}
    first, second = (places[hue] for hue in shown.hues)
    axis, sign = {"above": (0, -1), "below": (0, 1), "left of": (1, -1), "right of": (1, 1)}[relation]
    assert sign * (first - second)[axis] > 10  # px


def scene_of(split: str, index: int) -> Scene:
    from ssl_toolkit.data.scenes import _rng

    return scene(_rng(split, index))


def test_the_set_knows_its_captions_without_rendering() -> None:
    images = pickle.loads(pickle.dumps(open_images("scenes:test:5")))
    assert [images.caption(n) for n in range(5)] == [render("test", n, 32)[1] for n in range(5)]
    assert np.array_equal(images.load(3, 32), render("test", 3, 32)[0])
    assert (len(images), images.classes, images.path(2)) == (5, None, "scenes:test:5#2")
    assert open_images("scenes:test:5").caption(0) != open_images("scenes:train:5").caption(0)
    assert len(HUES) == 5


@pytest.mark.parametrize("word", ["scenes", "scenes:val", "scenes:train:0"])
def test_words_that_mean_nothing_are_refused(word: str) -> None:
    with pytest.raises(UsageError, match="scenes"):
        open_images(word)
