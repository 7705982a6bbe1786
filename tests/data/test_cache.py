from collections.abc import Callable

import numpy as np
import pytest
import torch

from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.cache import InMemory, OnDevice, cached
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.errors import ToolkitError
from tests.conftest import Arrays


def test_in_memory_gives_the_same_and_remembers_the_bad(noise_images: Callable) -> None:
    images = noise_images(12, broken=(5,))
    kept = InMemory(images, 16, BadImages(images, max_rate=0.5))
    streams = [
        [b.image for b in ImageLoader(s, 16, batch_size=4, shuffle=True, bad=BadImages(s, max_rate=0.5))]
        for s in (images, kept)
    ]
    assert torch.equal(torch.cat(streams[0]), torch.cat(streams[1]))
    assert kept.path(3) == "arrays#3"
    with pytest.raises(ToolkitError, match="broken on purpose"):
        kept.load(5, 16)


def test_cache_can_be_refused(noise_images: Callable) -> None:
    images = noise_images(4)
    assert cached(images, 16, BadImages(images), "none") is images
    assert isinstance(cached(images, 16, BadImages(images), "auto"), InMemory)


def unequal_images(broken: tuple[int, ...] = ()) -> Arrays:
    """Images of many sizes, one of them a panorama."""
    rng = np.random.default_rng(1)
    sizes = [(16, 16), (16, 20), (24, 16), (16, 90), (16, 17)] * 5
    images = Arrays(np.zeros((25, 3, 1, 1), np.uint8), np.arange(25) % 3, broken)
    images.pixels = [rng.integers(0, 256, (3, *size), dtype=np.uint8) for size in sizes]  # type: ignore[assignment]
    return images


def deeper(images: Arrays, kind: type) -> Arrays:
    """The images with values of another type, which bytes have not."""
    images.pixels = [np.asarray(each * 201.3 if kind is np.uint16 else each / 300, kind) for each in images.pixels]  # type: ignore[assignment]
    images.dtype = np.dtype(kind)
    return images


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize("broken", [(), (3, 4, 24)])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_set_on_the_device_gives_the_same_batches(
    noise_images: Callable, kind: type, unequal: bool, broken: tuple[int, ...], rank: int
) -> None:
    """To the last bit: order, replacements of bad images, padding, boxes; also from the middle of an epoch on."""
    images = unequal_images(broken) if unequal else noise_images(25, broken)
    images = images if kind is np.uint8 else deeper(images, kind)
    bad = BadImages(images, max_rate=0.5)
    kept = OnDevice(images, 16, bad, torch.device("cpu"))
    plain, fast = (
        ImageLoader(each, 16, batch_size=4, shuffle=True, seed=7, bad=bad, rank=rank, world_size=2)
        for each in (images, kept)
    )
    assert fast._on_device
    assert not plain._on_device
    assert next(iter(ImageLoader(images, 16, batch_size=4))).image.numpy().dtype == kind
    for _ in range(3):
        for ours, theirs in zip(fast, plain, strict=True):
            for one, two in zip(ours, theirs, strict=True):
                assert (one is None) == (two is None)
                assert torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two
    assert fast.state_dict() == plain.state_dict()
    fast.load_state_dict({"position": 4, "images": 25})
    plain.load_state_dict({"position": 4, "images": 25})
    assert torch.equal(next(iter(fast)).image, next(iter(plain)).image)


def test_a_set_on_the_device_is_taken_where_it_is_asked_for(noise_images: Callable) -> None:
    images, cpu = noise_images(8), torch.device("cpu")
    assert isinstance(cached(images, 16, BadImages(images), "device", device=cpu), OnDevice)
    assert not isinstance(cached(images, 16, BadImages(images), "auto", device=cpu), OnDevice)
    assert not isinstance(cached(images, 16, BadImages(images), "memory", device=cpu), OnDevice)
    evaluation = ImageLoader(OnDevice(images, 16, BadImages(images), cpu), 16, batch_size=4)
    assert torch.equal(next(iter(evaluation)).image, torch.from_numpy(images.pixels[:4]))
