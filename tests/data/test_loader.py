from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.cache import InMemory
from ssl_toolkit.data.image_set import ImageSet, Subset
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.data.reading import MAX_ASPECT
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.errors import ToolkitError, UsageError
from tests.data.small_files import paint


def flat(batches: list[list[int]]) -> list[int]:
    return [pixel for batch in batches for pixel in batch]


def first_pixels(loader: ImageLoader) -> list[list[int]]:
    return [batch.image[:, 0, 0, 0].tolist() for batch in loader]


def test_batches_are_bytes_with_labels_and_positions(noise_images: Callable) -> None:
    images = noise_images(10)
    batches = list(ImageLoader(images, 16, batch_size=4))
    assert [len(batch.image) for batch in batches] == [4, 4, 2]
    for batch in batches:
        assert batch.image.dtype == torch.uint8
        assert batch.label.dtype == batch.index.dtype == torch.int64
        assert torch.equal(batch.image[:, 0, 0, 0].long(), batch.index)
        assert torch.equal(batch.label, batch.index % 4)


def test_training_order_is_a_function_of_seed_and_epoch(noise_images: Callable) -> None:
    images = noise_images(12)
    one, two = (ImageLoader(images, 16, batch_size=4, shuffle=True, seed=s) for s in (0, 0))
    other = ImageLoader(images, 16, batch_size=4, shuffle=True, seed=1)
    first, second = first_pixels(one), first_pixels(one)
    assert [first, second] == [first_pixels(two), first_pixels(two)]
    assert first != second
    assert first != first_pixels(other)
    assert sorted(flat(first)) == sorted(flat(second)) == list(range(12))


def test_incomplete_batches_are_left_out_of_training(noise_images: Callable) -> None:
    loader = ImageLoader(noise_images(10), 16, batch_size=4, shuffle=True)
    assert len(loader) == 2
    assert [len(batch.image) for batch in loader] == [4, 4]


@pytest.mark.parametrize("batches", [1, 2, 3, 4, 5])
def test_position_is_resumed_within_and_between_epochs(noise_images: Callable, batches: int) -> None:
    def make() -> ImageLoader:
        return ImageLoader(noise_images(13), 16, batch_size=4, shuffle=True)

    whole = make()
    expected = first_pixels(whole) + first_pixels(whole)
    stopped, seen = make(), []
    while len(seen) < batches:
        for batch in stopped:
            seen.append(batch.image[:, 0, 0, 0].tolist())
            if len(seen) == batches:
                break
    resumed = make()
    resumed.load_state_dict(stopped.state_dict())
    while len(seen) < len(expected):
        seen += first_pixels(resumed)
    assert seen == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(noise_images: Callable, workers: int) -> None:
    def transform(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return image ^ generator.integers(0, 256, image.shape, dtype=np.uint8)

    def batches(count: int) -> list[torch.Tensor]:
        bad = BadImages(images, max_rate=0.5)
        loader = ImageLoader(images, 16, batch_size=4, shuffle=True, workers=count, bad=bad, transform=transform)
        found = [batch.image for _ in range(2) for batch in loader]
        assert sorted(bad.reasons) == ["arrays#3", "arrays#4"]
        return found

    images = noise_images(12, broken=(3, 4))
    for ours, theirs in zip(batches(0), batches(workers), strict=True):
        assert torch.equal(ours, theirs)


def test_transform_draws_anew_each_epoch(noise_images: Callable) -> None:
    def transform(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return np.full_like(image, generator.integers(256))

    loader = ImageLoader(noise_images(12), 16, batch_size=12, shuffle=True, transform=transform)
    (one,), (two,) = list(loader), list(loader)
    drawn = [dict(zip(b.index.tolist(), b.image[:, 0, 0, 0].tolist(), strict=True)) for b in (one, two)]
    assert drawn[0] != drawn[1]


def test_ranks_share_each_global_batch(noise_images: Callable) -> None:
    images = noise_images(17)
    whole = ImageLoader(images, 16, batch_size=8, shuffle=True)
    parts = [ImageLoader(images, 16, batch_size=4, shuffle=True, rank=r, world_size=2) for r in range(2)]
    for batch, *halves in zip(whole, *parts, strict=True):
        assert torch.equal(batch.image, torch.cat([half.image for half in halves]))


def test_bad_image_is_replaced_in_training_and_left_out_of_evaluation(noise_images: Callable, tmp_path: Path) -> None:
    images = noise_images(20, broken=(7, 19))
    bad = BadImages(images, tmp_path / "bad_images.csv", max_rate=0.1)
    seen = flat(first_pixels(ImageLoader(images, 16, batch_size=5, shuffle=True, bad=bad)))
    assert sorted(seen) == sorted([*range(7), *range(8, 19), 8, 0])
    seen = flat(first_pixels(ImageLoader(images, 16, batch_size=5, bad=bad)))
    assert seen == [*range(7), *range(8, 19)]
    lines = (tmp_path / "bad_images.csv").read_text().splitlines()
    assert lines[0] == "path,reason"
    assert sorted(lines[1:]) == ["arrays#19,broken on purpose", "arrays#7,broken on purpose"]


def test_resuming_on_more_or_fewer_images_is_refused(noise_images: Callable) -> None:
    state = ImageLoader(noise_images(12), 16, batch_size=4, shuffle=True).state_dict()
    with pytest.raises(ToolkitError, match="has 13 images, the run to resume was trained on 12"):
        ImageLoader(noise_images(13), 16, batch_size=4, shuffle=True).load_state_dict(state)


def test_other_images_or_another_order_are_refused(noise_images: Callable, tmp_path: Path) -> None:
    def loader(*names: str) -> ImageLoader:
        folder = tmp_path / "-".join(names)
        for name in names:
            paint(folder / f"{name}.png")
        return ImageLoader(open_images(str(folder)), 16, batch_size=2, shuffle=True)

    state = loader("a", "b", "c").state_dict()
    again = loader("a", "b", "c")
    again.load_state_dict({**state, "position": 1})
    assert again.position == 1
    with pytest.raises(ToolkitError, match=r"has the image d\.png where the run to resume had c\.png"):
        loader("a", "b", "d").load_state_dict(state)


def test_a_whole_batch_of_bad_images_is_skipped(noise_images: Callable) -> None:
    images = noise_images(8, broken=(0, 1))
    bad = BadImages(images, max_rate=0.5)
    assert first_pixels(ImageLoader(images, 16, batch_size=2, bad=bad)) == [[2, 3], [4, 5], [6, 7]]


def test_too_few_images_for_a_batch(noise_images: Callable) -> None:
    with pytest.raises(UsageError, match=r"has 5 images.*--batch-size 5 or less"):
        ImageLoader(noise_images(5), 16, batch_size=8, shuffle=True)


class Unequal(ImageSet):
    """Images of noise, all of whose short sides are 16 px, of the shapes given."""

    word, classes, channels = "unequal", None, 3

    def __init__(self, *shapes: tuple[int, int]) -> None:
        generator = np.random.default_rng(0)
        self.pixels = [generator.integers(1, 256, (3, *shape), dtype=np.uint8) for shape in shapes]
        self.labels = np.full(len(shapes), -1)

    def load(self, index: int, size: int | None) -> np.ndarray:
        assert size == 16
        return self.pixels[index]

    def path(self, index: int) -> str:
        return f"unequal#{index}"


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_training_gets_whole_images_and_their_boxes(in_memory: bool, workers: int) -> None:
    images = Unequal((16, 24), (16, 16), (20, 16), (16, 40))
    kept = InMemory(images, 16, BadImages(images), workers=workers) if in_memory else images
    (batch,) = ImageLoader(kept, 16, batch_size=4, shuffle=True, workers=workers)
    assert batch.image.shape == (4, 3, 20, 40)
    assert batch.box is not None
    for image, index, (height, width) in zip(batch.image, batch.index.tolist(), batch.box.tolist(), strict=True):
        assert np.array_equal(image[:, :height, :width], images.pixels[index])
        assert image.sum() == images.pixels[index].sum()  # zeros around it
    moved = batch.to("meta")
    assert (moved.image.device.type, moved.box.device.type) == ("meta", "meta")


def test_evaluation_gets_the_central_squares() -> None:
    images = Unequal((16, 24), (20, 16))
    (batch,) = ImageLoader(images, 16)
    assert batch.box is None
    assert np.array_equal(batch.image[0], images.pixels[0][:, :, 4:20])
    assert np.array_equal(batch.image[1], images.pixels[1][:, 2:18])


def test_a_panorama_does_not_blow_up_the_batch() -> None:
    images = Unequal((16, 16), (16, 500))
    (batch,) = ImageLoader(images, 16, batch_size=2, shuffle=True)
    assert batch.image.shape[3] == MAX_ASPECT * 16
    row = batch.index.tolist().index(1)
    assert np.array_equal(batch.image[row], images.pixels[1][:, :, 250 - 32 : 250 + 32])


def test_images_of_one_size_need_no_boxes() -> None:
    (batch,) = ImageLoader(Unequal((16, 24), (16, 24)), 16, batch_size=2, shuffle=True)
    assert batch.image.shape == (2, 3, 16, 24)
    assert batch.box is None


def test_evaluation_starts_at_the_batch_that_its_position_names() -> None:
    loader = ImageLoader(open_images("shapes:test:10"), 16, batch_size=4)
    loader.position = 1
    for _ in range(2):  # and it stays there
        assert [batch.index.tolist() for batch in loader] == [[4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("memory", [False, True])
def test_captions_and_sounds_stay_with_their_images(noise_images: Callable, workers: int, memory: bool) -> None:
    images = noise_images(12, broken=(3,))
    kept = Subset(images, np.arange(12)[::-1])
    read = InMemory(kept, 16, BadImages(kept, max_rate=1.0)) if memory else kept
    loader = ImageLoader(read, 16, batch_size=4, shuffle=True, workers=workers, bad=BadImages(read, max_rate=1.0))
    for batch in loader:
        assert batch.caption == [f"picture {11 - row}" for row in batch.index.tolist()]
        assert batch.sound.dtype == torch.float16
        for row, sound in zip(batch.index.tolist(), batch.sound, strict=True):
            assert np.array_equal(sound, images.sound(11 - row))
        assert batch.image[:, 0, 0, 0].tolist() == [11 - row for row in batch.index.tolist()]


def test_images_alone_have_neither_captions_nor_sounds() -> None:
    (batch,) = ImageLoader(open_images("shapes:test:4"), 16)
    assert (batch.caption, batch.sound) == (None, None)
    captioned = batch._replace(caption=["a"] * 4, sound=torch.zeros(4, 2, 3))
    moved = captioned.to("meta")
    assert (moved.caption, moved.sound.device.type, moved.box) == (["a"] * 4, "meta", None)
