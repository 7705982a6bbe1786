from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from ssl_toolkit.data import shapes
from ssl_toolkit.data.items import open_item
from ssl_toolkit.data.shapes import CLASSES, label, render
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.errors import UsageError


def stack(split: str, count: int, size: int = 32) -> np.ndarray:
    return np.stack([render(split, i, size) for i in range(count)])


def test_same_key_same_pixels_also_in_another_process():
    code = (
        "from ssl_toolkit.data.shapes import render; import hashlib; "
        "print(hashlib.sha256(b''.join(render('train', i, 32).tobytes() for i in range(20))).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == hashlib.sha256(stack("train", 20).tobytes()).hexdigest()


def test_every_part_of_the_key_matters():
    image = render("train", 5, 32)
    for other in (render("test", 5, 32), render("train", 15, 32), render("train", 5, 32, seed=1)):
        assert np.abs(image.astype(int) - other).mean() > 5


def test_train_and_test_share_no_image():
    seen = {image.tobytes() for image in stack("train", 300)}
    assert len(seen) == 300
    assert not seen & {image.tobytes() for image in stack("test", 300)}


@pytest.mark.parametrize("size", [16, 17, 32, 64, 65, 224])
def test_any_size(size):
    image = render("train", 3, size)
    assert image.shape == (3, size, size)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable


def test_too_small_a_size_is_refused():
    with pytest.raises(UsageError, match="16 pixels or more, not 15"):
        render("train", 0, 15)


def test_the_size_changes_the_resolution_and_nothing_else():
    for i in range(10):
        small = render("train", i, 32).astype(float)
        large = render("train", i, 128).astype(float).reshape(3, 32, 4, 32, 4).mean((2, 4))
        assert np.abs(small - large).mean() < 6


def test_classes_take_turns():
    assert [label(i) for i in (0, 1, 9, 10, 25)] == [0, 1, 9, 0, 5]
    assert len(CLASSES) == len(shapes.DRAW) == len(set(CLASSES)) == 10
    for name, draw in zip(CLASSES, shapes.DRAW, strict=True):
        assert draw.__name__ == f"_{name}"


def silhouette(index: int, size: int = 64) -> np.ndarray:
    """Where the thing is: the pixels that differ when its parts are drawn with nothing else changed."""
    return np.abs(render("train", index, size).astype(int) - background(index, size)).max(0) > 20


def background(index: int, size: int) -> np.ndarray:
    drawn = shapes.DRAW
    try:
        shapes.DRAW = (lambda pen, rng: None,) * 10
        return render("train", index, size).astype(int)
    finally:
        shapes.DRAW = drawn


def test_the_thing_is_large_and_inside():
    shares = np.array([silhouette(i).mean() for i in range(100)])
    assert shares.min() > 0.03
    assert shares.max() < 0.6
    assert 0.1 < shares.mean() < 0.35
    for i in range(100):
        mask = silhouette(i)
        border = mask[0].mean() + mask[-1].mean() + mask[:, 0].mean() + mask[:, -1].mean()
        assert border / 4 < 0.35, i


def test_place_and_scale_vary():
    places = np.array([np.argwhere(silhouette(i)).mean(0) / 64 for i in range(100)])
    assert places.std(0).min() > 0.05
    assert np.abs(places.mean(0) - 0.5).max() < 0.05
    widths = np.array([silhouette(i).any(0).mean() for i in range(0, 400, 10)])  # one class
    assert widths.max() > 1.3 * widths.min()


def test_things_face_both_ways():
    handles = []
    for i in range(5, 400, 10):
        columns = np.flatnonzero(silhouette(i).any(0))
        handles.append(np.argwhere(silhouette(i))[:, 1].mean() > (columns[0] + columns[-1]) / 2)
    assert CLASSES[5] == "mug"
    assert 0.25 < np.mean(handles) < 0.75


def test_lighter_and_darker_than_behind_are_equally_common():
    signs = []
    for i in range(200):
        mask = silhouette(i, 32)
        signs.append((render("train", i, 32).astype(int) - background(i, 32)).mean(0)[mask].mean() > 0)
    assert 0.35 < np.mean(signs) < 0.65


def nearest_neighbours(bank: np.ndarray, queries: np.ndarray, k: int = 20) -> float:
    """Cosine kNN, majority vote, for images whose labels are their index modulo 10."""
    bank, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries))
    hits = np.argsort(-queries @ bank.T, axis=1)[:, :k] % 10
    votes = np.stack([(hits == c).sum(1) for c in range(10)], axis=1)
    return float((votes.argmax(1) == np.arange(len(queries)) % 10).mean())


def test_raw_pixels_say_little_about_the_class():
    bank, queries = (stack(split, n).reshape(n, -1) / 255.0 for split, n in (("train", 1500), ("test", 500)))
    mean, std = bank.mean(0), bank.std(0)
    scores = [
        nearest_neighbours(bank, queries),
        nearest_neighbours((bank - mean) / std, (queries - mean) / std),
    ]
    assert max(scores) < 0.35  # 45 % is the limit for a bank of 5,000
    assert min(scores) > 0.10  # and yet not noise


def test_silhouettes_tell_the_classes_apart():
    """The cue that is left is a good one: centred, scaled masks are classified well even by their raw pixels."""
    masks = []
    for i in range(600):
        mask = silhouette(i)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        y = np.linspace(rows[0], rows[-1], 24).round().astype(int)
        x = np.linspace(columns[0], columns[-1], 24).round().astype(int)
        masks.append(mask[y][:, x].ravel() - 0.5)
    masks = np.array(masks)
    assert nearest_neighbours(masks[:400], masks[400:], k=5) > 0.75


def test_things_stand_upright():
    """Upside down they are told from upright ones, or rotation could not be learned from them."""
    profiles = []
    for i in range(400):
        mask = silhouette(i)
        rows = np.flatnonzero(mask.any(1))
        profiles.append(mask[np.linspace(rows[0], rows[-1], 16).round().astype(int)].mean(1))
    profiles = np.array(profiles)
    up, down = profiles[:300], profiles[:300, ::-1]
    bank = np.concatenate([up, down]) - profiles.mean()
    queries = profiles[300:] - profiles.mean()
    bank, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries))
    nearest = np.argsort(-queries @ bank.T, axis=1)[:, :5] < 300
    assert (nearest.mean(1) > 0.5).mean() > 0.85


def test_shapes():
    images = open_images("shapes:test:25")
    assert (len(images), images.channels, images.word) == (25, 3, "shapes:test:25")
    assert images.classes is not None
    assert images.classes[images.labels[12]] == "car"
    assert images.load(7, 32).shape == (3, 32, 32)
    assert images.load(7, None).shape == (3, 64, 64)
    np.testing.assert_array_equal(open_item(images.path(7)), images.load(7, None))
    assert open_images("shapes:test:25", channels=1).load(7, 32).shape == (1, 32, 32)
    with pytest.raises(IndexError):
        images.load(25, 32)


def test_shapes_without_a_count():
    assert len(open_images("shapes:train")) == 10_000
    assert len(open_images("shapes:test")) == 2_000


def test_labels_none_drops_them():
    images = open_images("shapes:test:5", labels="none")
    assert images.classes is None
    assert images.labels.tolist() == [-1] * 5
