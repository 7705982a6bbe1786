import gc

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from kornia import augmentation as K

from ssl_toolkit.augment import (
    ColourJitter,
    EvalView,
    GaussianBlur,
    ResizedCropFlip,
    Solarize,
    View,
    Views,
    multicrop_views,
    simclr_views,
)
from ssl_toolkit.augment.base import uniform_block
from ssl_toolkit.errors import UsageError


def images(count=10, height=24, width=20):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def a_view(*more):
    return View(ResizedCropFlip((16, 16)), [ColourJitter(), *more])


@pytest.mark.parametrize("side", [20, 300])
def test_a_view_is_its_operations_in_a_container(side):
    steps = [ColourJitter(), GaussianBlur(), Solarize()]
    view = View(ResizedCropFlip((side, side)), steps)
    image = images(6, 60, 70)
    params = view.from_uniforms(uniform_block(view.draws, 6), tuple(image.shape))
    fused = view(image, params)
    plain = view.crop(image, params=params[0])
    for step, drawn in zip(steps, params[1:], strict=True):
        plain = step(plain.clamp(0, 1), params=drawn)
    assert (fused - plain).abs().max() < 1 / 255
    assert (fused - plain).abs().mean() < 1e-5


def test_one_more_operation_at_the_end_leaves_the_draws_of_the_others():
    uniforms, shape = torch.rand(60, 10), (10, 3, 24, 20)
    few, more = a_view(), a_view(GaussianBlur(), Solarize())
    first = few.from_uniforms(uniforms[: few.draws], shape)
    for params, again in zip(first, more.from_uniforms(uniforms[: more.draws], shape), strict=False):
        assert all(torch.equal(value, again[name]) for name, value in params.items())


def test_the_batch_draws_one_block(monkeypatch):
    calls = []
    rand = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *args, **kwargs: calls.append(args) or rand(*args, **kwargs))
    views = simclr_views(16)
    views(images())
    assert calls == [((sum(view.draws for view in views.transforms), 10),)]


def test_one_more_view_leaves_the_others():
    torch.manual_seed(0)
    two = Views([a_view(), a_view()])(images())
    torch.manual_seed(0)
    three = Views([a_view(), a_view(), a_view()])(images())
    assert torch.equal(two[0], three[0])
    assert torch.equal(two[1], three[1])
    assert not torch.equal(two[0], two[1])


def test_views_that_are_alike_are_one_batch_on_a_gpu(monkeypatch):
    """The same views as one after the other."""
    views = multicrop_views(16, local_size=8, local_count=3, blur_sigma=(0.1, 1.0))
    assert views._groups(torch.device("cuda")) == [[0], [1], [2, 3, 4]]
    assert simclr_views(16)._groups(torch.device("cuda")) == [[0, 1]]
    other = [a_view(), a_view(GaussianBlur()), a_view(GaussianBlur((0.1, 1.0))), View(ResizedCropFlip((16, 16)))]
    assert Views(other)._groups(torch.device("cuda")) == [[0], [1], [2], [3]]
    box = torch.tensor([[24, 20], [12, 9]]).repeat(5, 1)
    torch.manual_seed(0)
    apart = views(images(), box)
    torch.manual_seed(0)
    monkeypatch.setattr(Views, "_groups", lambda self, device: [[0], [1], [2, 3, 4]])
    for one, two in zip(views(images(), box), apart, strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_the_global_seed_decides():
    views = simclr_views(16)
    torch.manual_seed(1)
    first = views(images())
    torch.manual_seed(1)
    again = views(images())
    other = views(images())
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_two_operations_of_a_kind_draw_apart():
    view = View(ResizedCropFlip((16, 16)), [ColourJitter(), ColourJitter()])
    params = view.from_uniforms(torch.rand(view.draws, 10), (10, 3, 24, 20))
    assert not torch.equal(params[1]["hue_factor"], params[2]["hue_factor"])


def test_operations_of_different_kinds_draw_apart():
    view = View(ResizedCropFlip((16, 16)), [GaussianBlur(p=0.5), Solarize(p=0.5)])
    params = view.from_uniforms(torch.rand(view.draws, 64), (64, 3, 24, 20))
    assert not torch.equal(params[1]["batch_prob"], params[2]["batch_prob"])


def test_kornia_follows():
    views = Views([View(ResizedCropFlip((16, 16)), [ColourJitter()], then=[K.RandomRotation(30.0, p=1.0)])])
    assert views(images())[0].shape == (10, 3, 16, 16)


def test_any_module_is_a_view():
    views = Views([torch.nn.Identity()])
    assert torch.equal(views(torch.full((1, 1, 2, 2), 0.5))[0], torch.full((1, 1, 2, 2), 0.5))
    assert len(views) == 1


def test_a_module_that_would_see_padding_is_refused():
    views = Views([View(ResizedCropFlip((16, 16))), torch.nn.Identity()])
    with pytest.raises(UsageError, match=r"Identity cannot tell .* View\(crop, then=\[...\]\)"):
        views(images(), torch.tensor([[24, 12]] * 10))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.float64])
def test_views_are_float32_in_the_unit_range_without_gradient(dtype):
    image = images() if dtype == torch.uint8 else (images().float() / 255).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        made = simclr_views(16).to(torch.bfloat16)(image)
    for view in made:
        assert view.dtype == torch.float32
        assert not view.requires_grad
        assert view.min() >= 0
        assert view.max() <= 1


@pytest.mark.parametrize("bad", [lambda x: x * 255, lambda x: (x - 0.5) / 0.25])
def test_other_ranges_are_refused(bad):
    views = simclr_views(16)
    with pytest.raises(ValueError, match=r"Views takes uint8 or uint16 images or floats in \[0, 1\]"):
        views(bad(images().float() / 255))
    with pytest.raises(ValueError, match=r"View takes uint8 or uint16 images or floats in \[0, 1\]"):
        views.transforms[0](bad(images().float() / 255))


def test_eval_view_cannot_be_larger_than_what_is_read():
    with pytest.raises(UsageError, match="view of 32 px cannot be cut from images resized to 24 px"):
        EvalView(32, 24)


def test_channels_last_is_kept():
    made = simclr_views(16)(images().contiguous(memory_format=torch.channels_last))
    assert all(view.is_contiguous(memory_format=torch.channels_last) for view in made)


def test_padding_is_never_seen():
    box = torch.tensor([[12, 20], [24, 9], [24, 20]])
    image = torch.full((3, 3, 24, 20), 255, dtype=torch.uint8)
    for row, (height, width) in enumerate(box.tolist()):
        image[row, :, :height, :width] = 51
    views = Views([View(ResizedCropFlip((16, 16))) for _ in range(20)])
    for view in views(image, box):
        assert torch.allclose(view, torch.tensor(0.2), atol=1e-5)


def test_views_do_not_share_memory():
    """The working memory of one call must not show through in the result of another."""
    views = Views([View(ResizedCropFlip((16, 16))), View(ResizedCropFlip((16, 16)))])
    for image in (images(1), images(1)[:, :1], images(5)):
        first = views(image)
        before = [view.clone() for view in first]
        views(255 - image)
        assert all(torch.equal(a, b) for a, b in zip(first, before, strict=True))


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")  # of things of torch's that are looked at
def test_memory_does_not_grow():
    views = simclr_views(16)
    image = images(4)
    for _ in range(20):
        views(image)
    gc.collect()
    before = sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())
    resident = _resident_bytes()
    for _ in range(500):
        views(image)
    gc.collect()
    assert sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects()) <= before + 2
    assert _resident_bytes() - resident < 6 * 1024**2  # a leaked batch of views a call would be 12 MiB


def _resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.parametrize(("height", "width"), [(40, 60), (61, 40), (32, 32), (20, 24)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_eval_view_is_torchvisions_resize_and_centre_crop(height, width, mode):
    image = images(3, height, width)
    expected = F.resize(image, [36], F.InterpolationMode(mode), antialias=True)
    expected = F.center_crop(expected, [32, 32]).float() / 255
    view = EvalView(32, 36, mode)
    assert (view(image) - expected).abs().max() < 1e-6
    assert (view(image.float() / 255) - expected).abs().mean() < 1 / 255
    assert view(image).dtype == torch.float32


def test_eval_view_cuts_the_padding_off():
    box = torch.tensor([[16, 24], [24, 12]])
    image = torch.full((2, 3, 24, 24), 255, dtype=torch.uint8)
    for row, (height, width) in enumerate(box.tolist()):
        image[row, :, :height, :width] = images(1, height, width)[0]
    boxed = EvalView(16)(image, box)
    for row, (height, width) in enumerate(box.tolist()):
        alone = EvalView(16)(image[row : row + 1, :, :height, :width])
        assert (boxed[row] - alone[0]).abs().mean() < 0.01
    for part in (image, image[:1], image[:1, :1]):
        boxed = EvalView(16)(part, box[: len(part)])
        kept = boxed.clone()
        EvalView(16)(255 - part, box[: len(part)])
        assert torch.equal(boxed, kept)  # not working memory


@pytest.mark.parametrize("boxed", [False, True])
def test_sixteen_bits_are_seen_as_the_floats_that_they_are(boxed: bool) -> None:
    """Values that a byte cannot tell apart make other views."""
    deep = torch.from_numpy(np.random.default_rng(0).integers(30000, 30200, (3, 13, 40, 48)).astype(np.uint16))
    floats = deep.to(torch.float32) / 65535
    box = torch.tensor([[40, 48], [20, 30], [33, 17]]) if boxed else None
    views, square = simclr_views(16, channels=13), EvalView(16, resize=20)
    for made in (lambda image: views(image, box), lambda image: [square(image, box)]):
        torch.manual_seed(0)
        ours = made(deep)
        torch.manual_seed(0)
        for one, other in zip(ours, made(floats), strict=True):
            assert one.dtype == torch.float32
            assert torch.equal(one, other)
    assert len(square(deep, box).unique()) > 256


@pytest.mark.parametrize("augmentation", [ColourJitter(), GaussianBlur(), ResizedCropFlip((8, 8))])
def test_a_single_augmentation_takes_sixteen_bits(augmentation: torch.nn.Module) -> None:
    deep = torch.from_numpy(np.random.default_rng(0).integers(0, 65536, (3, 3, 12, 12)).astype(np.uint16))
    ours = augmentation(deep)
    again = augmentation(deep.to(torch.float32) / 65535, params=augmentation._params)
    assert torch.equal(ours, again)
