import pytest
import torch
from kornia import augmentation as K

from ssl_toolkit.augment import ColourJitter, Cutout, GaussianBlur, RandomErasing, ResizedCropFlip, Solarize
from ssl_toolkit.augment.base import (
    RangeGuard,
    between,
    first_that_fits,
    memory_format,
    uniform_block,
    unit_range_error,
)

# One of each kind, all at a probability between 0 and 1.
KINDS = {
    "crop": lambda **kw: ResizedCropFlip((16, 16), **kw),
    "colour": lambda **kw: ColourJitter(p=0.5, grey_p=0.5, **kw),
    "linear colour": lambda **kw: ColourJitter(p=0.5, hue="linear", **kw),
    "blur": lambda **kw: GaussianBlur(p=0.5, **kw),
    "solarize": lambda **kw: Solarize(p=0.5, **kw),
    "erasing": lambda **kw: RandomErasing(p=0.5, **kw),
    "cutout": lambda **kw: Cutout(6, p=0.5, **kw),
}
kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())


def images(count=8, channels=3, height=16, width=16):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


@kinds
def test_replay_gives_the_same_images_and_leaves_the_parameters_alone(make):
    augmentation = make()
    first = augmentation(images())
    params = {name: value.clone() for name, value in augmentation._params.items()}
    torch.manual_seed(99)
    assert torch.equal(augmentation(images(), params=params), first)
    assert set(params) == set(augmentation._params)
    assert not torch.equal(augmentation(images()), first)


@kinds
def test_replay_without_batch_prob_is_refused(make):
    augmentation = make()
    params = augmentation.forward_parameters((8, 3, 16, 16))
    del params["batch_prob"]
    with pytest.raises(ValueError, match="batch_prob"):
        augmentation(images(), params=params)
    assert "batch_prob" not in params


@kinds
def test_uint8_and_float_input_agree(make):
    augmentation = make()
    torch.manual_seed(3)
    from_bytes = augmentation(images())
    torch.manual_seed(3)
    from_floats = augmentation(images().float() / 255)
    assert from_bytes.dtype == torch.float32
    assert torch.allclose(from_bytes, from_floats, atol=3e-6)  # the hue amplifies rounding where the chroma is small


@kinds
def test_same_on_batch_draws_once(make):
    augmentation = make(same_on_batch=True)
    one = images(1).expand(6, -1, -1, -1)
    for seed in range(4):
        torch.manual_seed(seed)
        output = augmentation(one)
        assert torch.equal(output, output[:1].expand_as(output))


@kinds
def test_keepdim_keeps_the_rank(make):
    single = images()[0]
    assert make(keepdim=True)(single).shape == (3, 16, 16)
    assert make(keepdim=False)(single).shape == (1, 3, 16, 16)


@kinds
def test_channels_last_is_kept(make):
    torch.manual_seed(2)
    plain = make()(images())
    torch.manual_seed(2)
    last = make()(images().contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert plain.is_contiguous()
    assert torch.equal(plain, last)


@kinds
def test_no_gradient_is_recorded(make):
    image = (images().float() / 255).requires_grad_()
    assert not make()(image).requires_grad


@kinds
def test_the_input_is_not_changed(make):
    for image in (images(), images().float() / 255):
        before = image.clone()
        make()(image)
        assert torch.equal(image, before)


@kinds
def test_half_precision_is_computed_in_float32(make):
    augmentation = make().to(torch.bfloat16)
    torch.manual_seed(5)
    exact = augmentation(images())
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augmentation(images()), exact)
    for value in augmentation._params.values():
        assert value.dtype not in (torch.bfloat16, torch.float16)
    torch.manual_seed(5)
    assert augmentation((images().float() / 255).to(torch.bfloat16)).dtype == torch.bfloat16


def test_bfloat16_module_still_draws_float32_factors():
    colour = ColourJitter().to(torch.bfloat16)
    factors = colour.forward_parameters((50_000, 3, 8, 8))["brightness_factor"]
    assert factors.unique().numel() > 40_000  # Kornia: 153


@kinds
def test_an_own_generator_is_obeyed(make):
    augmentation = make()
    first = augmentation(images(), generator=torch.Generator().manual_seed(7))
    torch.manual_seed(1234)
    state = torch.get_rng_state()
    again = augmentation(images(), generator=torch.Generator().manual_seed(7))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)


@kinds
def test_empty_batch(make):
    assert len(make()(images()[:0])) == 0


def test_beside_kornia_in_a_container_with_all_data_keys():
    sequence = K.AugmentationSequential(
        ResizedCropFlip((16, 16)),
        ColourJitter(),
        K.RandomVerticalFlip(p=1.0),
        GaussianBlur(p=1.0),
        Solarize(),
        RandomErasing(p=1.0),
        data_keys=["input", "mask", "keypoints", "bbox_xyxy"],
    )
    image = images(4, height=24, width=32)
    mask = torch.ones(4, 1, 24, 32)
    points = torch.rand(4, 5, 2) * 20
    boxes = torch.tensor([[[2.0, 3.0, 12.0, 14.0]]]).expand(4, 1, 4)
    outputs = sequence(image, mask, points, boxes)
    again = sequence(image, mask, points, boxes, params=sequence._params)
    assert outputs[0].shape == (4, 3, 16, 16)
    assert outputs[1].shape == (4, 1, 16, 16)
    assert all(torch.equal(a, b) for a, b in zip(outputs, again, strict=True))
    assert sequence.transform_matrix.shape == (4, 3, 3)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_what_follows_in_a_container_knows_the_size_of_the_crop(autocast, as_bytes):
    """A bright patch, its keypoint and its mask go the same way through our crop and Kornia's flip."""
    torch.manual_seed(0)
    crop = ResizedCropFlip((16, 16), (0.6, 1.0))
    sequence = K.AugmentationSequential(
        crop, K.RandomVerticalFlip(p=1.0), RandomErasing((0.05, 0.1), value=1.0, p=1.0),
        data_keys=["input", "keypoints", "mask"],
    )  # fmt: skip
    image = torch.zeros(32, 1, 24, 32, dtype=torch.uint8 if as_bytes else torch.float32)
    image[:, :, 10:13, 14:17] = 255 if as_bytes else 1
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        _, moved, mask = sequence(image, torch.tensor([[15.0, 11.0]]).expand(32, 1, 2), (image > 0).float())
    assert crop.transform_matrix.is_floating_point()
    rectangle = sequence._params[2].data
    assert rectangle["bottom"].max() <= 16
    assert rectangle["right"].max() <= 16
    pixel = torch.arange(16.0)
    compared = 0
    for point, patch in zip(moved[:, 0].float(), mask[:, 0].float(), strict=True):
        if point.min() > 2 and point.max() < 13 and patch.sum() >= 3:
            weight = patch / patch.sum()
            centre = torch.stack([(weight.sum(0) * pixel).sum(), (weight.sum(1) * pixel).sum()])
            assert (centre - point).abs().max() < 1.0
            compared += 1
    assert compared > 10


@pytest.mark.parametrize("make", [KINDS["colour"], KINDS["solarize"]])
@pytest.mark.parametrize("bad", [lambda x: x * 255, lambda x: x * 4 - 2, lambda x: x * float("nan")])
def test_floats_outside_the_unit_range_are_refused(make, bad):
    with pytest.raises(ValueError, match=r"uint8 or uint16 images or floats in \[0, 1\]"):
        make()(bad(images().float() / 255))


@kinds
def test_other_types_are_refused(make):
    with pytest.raises(TypeError, match="uint8, uint16 or floating"):
        make()(images().long())
    with pytest.raises(ValueError, match=r"\(N, C, H, W\)"):
        make()(images()[None])


def test_range_guard_looks_at_accelerators_once():
    guard = RangeGuard()
    bad = torch.full((1, 1, 1, 1), 9.0)
    guard.trusted.add(bad.device)
    guard(bad, "test")
    with pytest.raises(ValueError, match="9"):
        RangeGuard()(bad, "test")


def test_unit_range_error_allows_rounding():
    assert unit_range_error(torch.tensor([-1e-6, 1 + 1e-6]), "x") is None
    assert unit_range_error(torch.tensor([0, 255], dtype=torch.uint8), "x") is None
    assert unit_range_error(torch.tensor([0.0, 1.1]), "x") is not None


def test_uniform_block():
    torch.manual_seed(0)
    block = uniform_block(3, 20_000)
    assert block.shape == (3, 20_000)
    assert block.min() >= 0
    assert block.max() < 1
    assert (block.mean(1) - 0.5).abs().max() < 0.01
    assert uniform_block(3, 4, same=True).unique(dim=1).shape == (3, 1)
    assert between(torch.tensor([0.0, 0.5]), 2.0, 4.0).tolist() == [2.0, 3.0]


def test_the_first_try_that_fits():
    tries = torch.tensor([[1.0, 4.0, 7.0], [2.0, 5.0, 8.0], [3.0, 6.0, 9.0]])
    fits = torch.tensor([[True, False, False], [True, True, False], [False, True, False]])
    assert first_that_fits(tries, fits, torch.tensor([0.0, 0.0, -1.0])).tolist() == [1.0, 5.0, -1.0]


@kinds
def test_parameters_are_a_function_of_the_uniforms(make):
    """One column of uniforms decides one image, wherever it stands in the batch."""
    augmentation = make()
    uniforms = torch.rand(augmentation.draws, 8)
    together = augmentation.from_uniforms(uniforms, (8, 3, 16, 16))
    alone = augmentation.from_uniforms(uniforms[:, 5:6], (1, 3, 16, 16))
    assert together.keys() == alone.keys()
    for name, value in together.items():
        assert torch.equal(value[5:6], alone[name])


def test_memory_format():
    assert memory_format(images()) == torch.contiguous_format
    assert memory_format(images().contiguous(memory_format=torch.channels_last)) == torch.channels_last
