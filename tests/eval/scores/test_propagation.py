from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssl_toolkit.colours import lab_to_rgb, rgb_to_lab
from ssl_toolkit.encoders import Colours, Encoder, EncoderConfig
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.scores.propagation import (
    Rules,
    carry,
    carry_colours,
    carry_masks,
    frame_features,
    grey,
    iou,
    propagate,
    recolour,
    shrunk,
    whole_positions,
)

CPU = torch.device("cpu")
SURE = Rules(topk=1, temperature=0.01)


def unit(*shape: int) -> torch.Tensor:
    """Features that are unlike each other at every place."""
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(0)), dim=-1)


def labels(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


# --- the maths -------------------------------------------------------------------------------------------------------


def test_identical_frames_keep_their_labels() -> None:
    features, first = unit(5, 6, 32), labels(5, 6, 3)
    for carried in propagate([features] * 4, first, SURE):
        torch.testing.assert_close(carried, first)


def test_a_frame_that_moves_by_a_cell_takes_its_labels_along() -> None:
    features, first = unit(6, 10, 32), labels(6, 10, 3)
    frames = [features.roll(step, 1) for step in range(4)]
    # What enters at the edge comes from the other end of the frame, farther away than any lender.
    for step, carried in enumerate(propagate(frames, first, Rules(context=0, radius=3, topk=1, temperature=0.01))):
        torch.testing.assert_close(carried[:, step:], first.roll(step, 1)[:, step:])


def test_only_places_within_the_window_lend() -> None:
    context, lent = unit(1, 7, 7, 32), torch.arange(49.0).view(1, 7, 7, 1)
    target = context[0, 3, 3].expand(7, 7, 32)  # all places look for the middle
    found = carry(target, context, lent, Rules(radius=2, topk=1, temperature=0.01))[..., 0]
    near = torch.zeros(7, 7, dtype=torch.bool)
    near[1:6, 1:6] = True
    assert torch.equal(found == 24, near)
    assert carry(target, context, lent, Rules(radius=0, topk=3))[..., 0].tolist() == lent[0, ..., 0].tolist()
    assert (carry(target, context, lent, Rules(radius=9, topk=1))[..., 0] == 24).all()


def test_the_most_similar_places_lend_by_the_softmax_of_their_cosines() -> None:
    context = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]]).view(
        2, 1, 2, 2
    )  # two frames of two places
    lent = torch.tensor([1.0, 10.0, 100.0, 1000.0]).view(2, 1, 2, 1)
    target = torch.tensor([1.0, 0.0]).expand(1, 2, 2)
    found = carry(target, context, lent, Rules(topk=2, temperature=0.5))
    weight = torch.tensor([2.0, 1.6]).softmax(0)
    torch.testing.assert_close(found, (weight @ torch.tensor([1.0, 10.0])).expand(1, 2, 1))
    weight = torch.tensor([2.0, 1.6, 0.0, -2.0]).softmax(0)
    torch.testing.assert_close(
        carry(target, context, lent, Rules(topk=9, temperature=0.5)), (weight @ lent.flatten()).expand(1, 2, 1)
    )


def test_the_first_frame_and_the_last_few_lend() -> None:
    seen = []
    frames = [torch.full((1, 1, 1), float(number)) for number in range(6)]

    def watched(target: torch.Tensor, context: torch.Tensor, *_: Any) -> torch.Tensor:
        seen.append((int(target), [int(each) for each in context.flatten()]))
        return torch.zeros(1, 1, 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssl_toolkit.eval.scores.propagation.carry", watched)
        list(propagate(frames, torch.zeros(1, 1, 1), Rules(context=2)))
    assert seen == [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (4, [0, 2, 3]), (5, [0, 3, 4])]


def test_iou_is_the_mean_over_objects() -> None:
    found = np.array([[1, 1, 0, 2], [1, 0, 0, 2]])
    truth = np.array([[1, 1, 1, 0], [1, 0, 0, 2]])
    assert iou(found, truth, [1]) == pytest.approx(3 / 4)
    assert iou(found, truth, [1, 2]) == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert iou(found, truth, [1, 2, 5]) == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)  # the fifth is in neither


def test_labels_of_positions_are_means_over_their_area() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert shrunk(image, (2, 2))[..., 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]


def test_frames_are_cut_to_whole_positions() -> None:
    frame = np.arange(3 * 11 * 18).reshape(3, 11, 18)
    np.testing.assert_array_equal(whole_positions(frame, 8), frame[:, 1:9, 1:17])
    assert whole_positions(frame[0], 8).shape == (8, 16)
    with pytest.raises(UsageError, match=r"--size: frames of 11x18 px are smaller than 16 px"):
        whole_positions(frame, 16)


@pytest.mark.parametrize(("name", "value"), [("context", -1), ("radius", -1), ("topk", 0), ("temperature", 0.0)])
def test_rules_that_cannot_be(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=rf"--{name} is {value}: it must be"):
        Rules(**{name: value})  # type: ignore[arg-type]


# --- encoders and clips ----------------------------------------------------------------------------------------------


def encoder_of(colours: Colours = "rgb", channels: int = 3, name: str = "convnet", size: int = 32) -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig(name, channels, size, size, colours=colours)).eval()


def clip(count: int = 4) -> list[np.ndarray]:
    """A texture of soft colours that moves by a cell of 8 px to the right; the edge is new."""
    rng = np.random.default_rng(0)
    wide = rng.integers(60, 200, (3, 32, 48 + 8 * count)).astype(np.uint8)
    return [wide[:, :, 8 * (count - n) : 8 * (count - n) + 48].copy() for n in range(count)]


@pytest.mark.parametrize("colours", ["rgb", "lightness"])
@pytest.mark.parametrize("channels", [3, 1])
def test_features_are_unit_vectors_of_each_place(colours: Colours, channels: int) -> None:
    encoder = encoder_of("rgb" if channels == 1 else colours, channels)
    found = list(frame_features(encoder, clip(5), colour=True, at_once=2))
    assert [each.shape for each in found] == [(4, 6, 256)] * 5
    torch.testing.assert_close(found[4].norm(dim=2), torch.ones(4, 6))
    assert encoder.width_and_stride()[1] == 8


def test_the_colours_of_a_frame_never_reach_the_features_that_carry_colours() -> None:
    """Not even where the encoder sees RGB: it is shown grey frames."""
    frame = clip(1)[0]
    lab = rgb_to_lab(torch.from_numpy(frame)[None] / 255)
    lab[:, 1:] = 0.5 * lab[:, 1:].flip(3)
    other = (255 * lab_to_rgb(lab)[0]).round().byte().numpy()
    assert np.abs(frame.astype(int) - other).mean() > 5
    one, two = (next(frame_features(encoder_of(), [each], colour=False)) for each in (frame, other))
    assert (one * two).sum(dim=2).min() > 0.999  # but for the rounding to bytes
    one, two = (next(frame_features(encoder_of(), [each], colour=True)) for each in (frame, other))
    assert (one * two).sum(dim=2).min() < 0.99


def test_grey_frames_keep_their_lightness() -> None:
    image = torch.rand(2, 3, 8, 8)
    lab = rgb_to_lab(grey(image))
    torch.testing.assert_close(lab[:, 0], rgb_to_lab(image)[:, 0], atol=0.01, rtol=0)
    assert lab[:, 1:].abs().max() < 0.01


def test_true_colours_have_no_error_and_missing_ones_their_own() -> None:
    lab = torch.tensor([60.0, 12.0, 16.0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    frame = (255 * lab_to_rgb(lab)[0]).round().byte().numpy()
    right, none = (torch.tensor(ab).expand(2, 2, 2) for ab in ([12.0, 16.0], [0.0, 0.0]))
    found = recolour([frame] * 3, [none, right, right], CPU, lambda: None)
    assert found.scores["ab_error"] < 0.5
    assert found.scores["psnr"] > 45
    np.testing.assert_array_equal(found.frames[0], frame)  # the first is given
    assert np.abs(found.frames[1].astype(int) - frame).max() <= 2
    found = recolour([frame] * 2, [none, none], CPU, lambda: None)
    assert found.scores["ab_error"] == pytest.approx(20, abs=0.5)
    truth, painted = (torch.from_numpy(each) / 255 for each in (frame, found.frames[1]))
    assert found.scores["psnr"] == pytest.approx(-10 * (truth - painted).square().mean().log10().item(), abs=0.1)


def test_colours_are_carried_better_than_copied_where_things_move() -> None:
    ticks: list[int] = []
    found = carry_colours({"trained": encoder_of("lightness")}, clip(), SURE, lambda: ticks.append(1))
    error = {name: each.scores["ab_error"] for name, each in found.items()}
    assert set(error) == {"trained", "copied", "own"}
    assert error["own"] < error["trained"] < error["copied"]
    assert len(ticks) == 3 * 4
    for each in found.values():
        assert [(frame.shape, frame.dtype) for frame in each.frames] == [((3, 32, 48), np.uint8)] * 4


def test_a_still_clip_is_carried_as_it_is_copied() -> None:
    found = carry_colours({"trained": encoder_of()}, [clip(1)[0]] * 3, SURE)
    for score in ("ab_error", "psnr"):
        assert found["trained"].scores[score] == pytest.approx(found["copied"].scores[score], rel=1e-4)
        assert found["own"].scores[score] == pytest.approx(found["copied"].scores[score], rel=1e-4)


def square(left: int) -> np.ndarray:
    mask = np.zeros((32, 48), dtype=np.int64)
    mask[8:24, left : left + 16] = 1
    return mask


def test_masks_move_with_what_they_are_on() -> None:
    truth = {0: square(8), 1: square(16), 2: square(24)}
    found = carry_masks({"trained": encoder_of()}, clip(3), truth, SURE)
    assert found["copied"].scores["iou"] == pytest.approx((1 / 3 + 0) / 2)
    assert found["trained"].scores["iou"] > 0.5  # its corners are rounded off
    np.testing.assert_array_equal(found["trained"].frames[0], truth[0])


def test_objects_may_have_any_numbers_and_only_those_of_the_first_mask_are_scored() -> None:
    truth = {0: 5 * square(8), 1: 5 * square(16), 2: 5 * square(24)}
    truth[2][:4] = 7  # comes later
    found = carry_masks({"trained": encoder_of()}, clip(3), truth, SURE)
    same = carry_masks({"trained": encoder_of()}, clip(3), {n: square(8 + 8 * n) for n in range(3)}, SURE)
    assert {name: each.scores for name, each in found.items()} == {name: each.scores for name, each in same.items()}
    assert set(np.unique(found["trained"].frames[2])) == {0, 5}


def test_without_other_masks_the_first_one_goes_there_and_back() -> None:
    found = carry_masks({"trained": encoder_of()}, [clip(1)[0]] * 3, {0: square(8)}, SURE)
    assert set(found) == {"trained"}
    assert found["trained"].scores["back_and_forth"] > 0.9  # its corners are rounded off
    moved = carry_masks({"trained": encoder_of()}, clip(2), {0: square(8)}, SURE)
    assert moved["trained"].scores["back_and_forth"] > 0.7  # 0.49 if it is not taken back
    lost = carry_masks({"trained": encoder_of()}, [clip(1)[0], 255 - clip(1)[0]], {0: square(8)}, Rules(radius=9))
    assert lost["trained"].scores["back_and_forth"] < 0.7


def test_frames_that_an_encoder_cannot_take() -> None:
    with pytest.raises(UsageError, match=r"test_vit.*cannot encode frames of 20x20 px|cuts images into patches"):
        list(frame_features(encoder_of(name="test_vit"), [np.zeros((3, 20, 20), np.uint8)], colour=True))
