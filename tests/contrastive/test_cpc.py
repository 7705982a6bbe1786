from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.cpc import CPC, ConvContext, GRUContext, patches
from ssl_toolkit.contrastive.simclr import SimCLR
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder, EncoderConfig, load_encoder
from ssl_toolkit.errors import UsageError

CONTEXTS = {"gru": GRUContext, "conv": ConvContext}


def encoder(name: str = "convnet", norm: Any = "layer", channels: int = 3) -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig(name, channels, image_size=32, load_size=32, norm=norm))


def make(channels: int = 3, **options: Any) -> CPC:
    built = encoder(channels=channels)
    options = {"context_dim": 6, "projection_dim": 5, **options}
    return CPC(built, CPC.default_views(32, channels=channels), **options)


def picture(*shape: int) -> Tensor:
    return torch.rand(shape or (3, 3, 32, 32), generator=torch.Generator().manual_seed(1))


def numbered(*shape: int) -> Tensor:
    """Every pixel another value."""
    return torch.arange(math.prod(shape), dtype=torch.float32).view(shape)


def step(method: CPC, view: Tensor) -> Tensor:
    n = len(view)
    return method.step([view], Batch(view, torch.zeros(n), torch.arange(n)))["loss"]


def test_patches_are_cut_row_by_row() -> None:
    image = numbered(2, 3, 9, 7)
    grid = patches(image, size=4, stride=2)
    assert grid.shape == (2, 3, 2, 3, 4, 4)
    for row in range(3):
        for column in range(2):
            top, left = 2 * row, 2 * column
            assert torch.equal(grid[:, row, column], image[:, :, top : top + 4, left : left + 4])


@pytest.mark.parametrize(("side", "size"), [(32, 8), (64, 16), (224, 56)])
def test_the_papers_seven_by_seven_patches_overlap_by_half(side: int, size: int) -> None:
    image = numbered(1, 3, side, side)
    grid = make()._patches(image)
    assert grid.shape == (1, 7, 7, 3, size, size)
    top, left = size, 3 * size // 2
    assert torch.equal(grid[:, 2, 3], image[:, :, top : top + size, left : left + size])


def test_the_grid_of_v2() -> None:
    """Appendix A: 80 px patches with a stride of 36 px make 6 x 6 of 260 px; those three rows apart share no pixel."""
    grid = make(patch_size=80, patch_stride=36)._patches(numbered(1, 3, 260, 260))
    assert grid.shape == (1, 6, 6, 3, 80, 80)
    rows = [set(grid[0, row, 0, 0, :, 0].tolist()) for row in range(4)]
    assert [bool(rows[0] & rows[k]) for k in (1, 2, 3)] == [True, True, False]


@pytest.mark.parametrize("size", [8, 9, 11])
def test_patches_two_rows_apart_share_no_pixel(size: int) -> None:
    grid = make(patch_size=size)._patches(numbered(1, 3, 45, 45))
    seen = [set(grid[:, row].flatten().tolist()) for row in range(grid.shape[1])]
    for row in range(len(seen) - 2):
        assert seen[row] & seen[row + 1]
        assert not seen[row] & seen[row + 2]


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS.keys())
def test_a_context_hears_nothing_of_the_rows_below_nor_of_other_images(context: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = context(4, 6)
    z = torch.randn(2, 5, 3, 4, requires_grad=True)
    for row in range(5):
        (grad,) = torch.autograd.grad(network(z)[0, row].square().sum(), z)
        assert (grad[0, row + 1 :] == 0).all()
        assert (grad[0, : row + 1].abs().sum((1, 2)) > 0).all()
        assert (grad[1] == 0).all()


def test_the_gru_reads_each_column_by_itself_and_the_convolutions_read_sideways() -> None:
    torch.manual_seed(0)
    z = torch.randn(2, 5, 3, 4, requires_grad=True)
    heard = {}
    for name, context in CONTEXTS.items():
        (grad,) = torch.autograd.grad(context(4, 6)(z)[:, 3, 0].square().sum(), z)
        heard[name] = (grad.abs().sum((0, 1, 3)) > 0).tolist()
    assert heard == {"gru": [True, False, False], "conv": [True, True, True]}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("direction", range(4))
def test_no_pixel_below_reaches_a_prediction(context: str, direction: int) -> None:
    method, view = make(context=context, directions=4), picture()
    known: list[Tensor] = []  # what W_2 of the direction is given, of two runs
    method.predict[direction][0].register_forward_hook(lambda _, args, out: known.append(args[0].detach()))
    below = torch.rot90(view, direction, (2, 3)).clone()
    below[0, :, 16:] = 1 - below[0, :, 16:]
    for each in (view, torch.rot90(below, -direction, (2, 3))):
        step(method, each)
    before, after = known
    assert before.shape == (3, 5, 7, 6)
    assert torch.equal(before[0, :3], after[0, :3])  # patches of rows 0 to 2 end at pixel 16
    assert not torch.isclose(before[0, 3:], after[0, 3:]).all(2).any()
    assert torch.equal(before[1:], after[1:])  # the other images


def single(k: int, **options: Any) -> CPC:
    """Predicts step k alone, with the identity as its W."""
    method = make(steps=k, skip=k - 1, context_dim=32, projection_dim=32, **options)
    with torch.no_grad():
        method.predict[0][0].weight.copy_(torch.eye(32))
    return method


@pytest.mark.parametrize("k", [1, 2, 3])
def test_each_context_is_compared_with_what_is_k_rows_below(k: int) -> None:
    method, z = single(k), torch.randn(2, 6, 4, 32)

    def loss(foretold: Tensor) -> float:
        c = torch.zeros(2, 6, 4, 32)
        c[:, : 6 - k] = 10 * foretold
        return method._loss(c, z, method.predict[0]).item()

    assert loss(z[:, k:]) < 1e-4
    assert loss(z[:, k - 1 : -1]) > 10  # the row above
    assert loss(z[:, k:].roll(1, 2)) > 10  # the next column
    assert loss(z[:, k:].roll(1, 0)) > 10  # another image


def test_each_step_has_a_matrix_of_its_own() -> None:
    method, z = make(steps=3, skip=0, context_dim=96, projection_dim=32), torch.randn(2, 6, 4, 32)
    c = torch.zeros(2, 6, 4, 3, 32)
    for k in (1, 2, 3):
        c[:, : 6 - k, :, k - 1] = 10 * z[:, k:]
        with torch.no_grad():
            method.predict[0][k - 1].weight.copy_(torch.eye(96)[32 * (k - 1) : 32 * k])
    assert method._loss(c.flatten(3), z, method.predict[0]) < 1e-4
    swapped = nn.ModuleList([method.predict[0][place] for place in (1, 0, 2)])
    assert method._loss(c.flatten(3), z, swapped) > 10


def test_no_parameter_is_shared_between_steps_or_directions() -> None:
    method = make(steps=4, skip=1, directions=4)
    assert [len(each) for each in method.predict] == [3] * 4
    own = [w.weight for each in method.predict for w in each] + [next(c.parameters()) for c in method.contexts]
    assert len({id(parameter) for parameter in own}) == len(own) == 16
    step(method, picture()).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in own)


@pytest.mark.parametrize("directions", [1, 4])
def test_step_is_the_papers_loss_over_all_other_encodings(directions: int) -> None:
    method, view = make(directions=directions, steps=3, skip=1), picture(2, 3, 24, 24)
    encoded = method.encoder(patches(view, 8, 4).flatten(0, 2)).view(2, 5, 5, -1)
    terms: list[Tensor] = []
    for direction in range(directions):
        turned = torch.rot90(encoded, direction, (1, 2))
        c, z = method.contexts[direction](turned), method.target(turned)
        for k in (2, 3):
            scores = method.predict[direction][k - 2](c) @ z.flatten(0, 2).T  # (N, rows, columns, all encodings)
            future = torch.arange(z[..., 0].numel()).view(2, 5, 5)
            found = scores.log_softmax(-1)[:, : 5 - k].gather(-1, future[:, k:, :, None])
            terms.append(-found.mean())
    loss, expected = step(method, view), torch.stack(terms).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    # The encoder learns from predictions and futures alike.
    weight = method.encoder.backbone.features[0].weight
    found, expected = (torch.autograd.grad(each, weight)[0] for each in (loss, expected))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-3)


class Heard:
    """What `losses.cpc` is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Tensor, ...]] = []
        real = losses.cpc
        monkeypatch.setattr(losses, "cpc", lambda *args: self.calls.append(args) or real(*args))


@pytest.mark.parametrize("negatives", [20, 1024])
def test_negatives_are_of_all_images_and_positions_and_never_the_future_itself(
    monkeypatch: pytest.MonkeyPatch, negatives: int
) -> None:
    method, heard = make(negatives=negatives), Heard(monkeypatch)
    z, c = torch.randn(3, 7, 7, 5), torch.randn(3, 7, 7, 6)
    method._loss(c, z, method.predict[0])
    everything = {tuple(row) for row in z.flatten(0, 2).tolist()}
    for _, futures, pool, own in heard.calls:
        assert len(pool) == len({tuple(row) for row in pool.tolist()} & everything) == min(negatives, 147)
        same = (futures[:, None] == pool).all(2)  # (M, K)
        assert torch.equal(same.any(1), own >= 0)
        assert torch.equal(same.int().argmax(1)[own >= 0], own[own >= 0])
    assert len(heard.calls) == 2


def test_negatives_are_drawn_anew_from_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    method, heard = make(negatives=20, steps=2), Heard(monkeypatch)
    z, c = numbered(3, 7, 7, 1).expand(-1, -1, -1, 5), torch.randn(3, 7, 7, 6)
    for _ in range(20):
        method._loss(c, z, method.predict[0])
    drawn = torch.stack([pool[:, 0] for _, _, pool, _ in heard.calls])
    assert len({tuple(row) for row in drawn.tolist()}) == 20
    counts = torch.bincount(drawn.flatten().long() // 49)
    assert counts.min() > 80  # of 400, from each of three images


@pytest.mark.parametrize(("negatives", "candidates"), [(1024, [147]), (20, [20, 21])])
def test_first_loss_is_that_of_chance(negatives: int, candidates: list[int]) -> None:
    method = make(negatives=negatives)
    for w in method.predict[0]:
        nn.init.zeros_(w.weight)
    loss = step(method, picture()).item()
    assert math.log(candidates[0]) - 1e-4 < loss < math.log(candidates[-1]) + 1e-4


def test_one_negative_that_is_the_future_itself_is_no_candidate() -> None:
    method = make(negatives=1)
    step(method, picture()).backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["convnet", "test_efficientnet"])
def test_batch_norm_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"batch norm in {name} .* give --encoder.norm layer"):
        CPC(encoder(name, norm="batch"), CPC.default_views(32))


@pytest.mark.parametrize("options", [{"steps": 7}, {"patch_size": 24}, {"patch_size": 40}], ids=str)
def test_too_few_rows_for_the_steps_are_named(options: dict[str, int]) -> None:
    with pytest.raises(
        UsageError, match=rf"--method.steps is {options.get('steps', 3)}, .* only [17] rows .*patch-size"
    ):
        step(make(**options), picture())


@pytest.mark.parametrize("side", [29, 33, 36])
def test_views_that_patches_do_not_fill(side: int) -> None:
    assert torch.isfinite(step(make(context="conv", directions=4), picture(2, 3, side, side)))


def test_views_that_are_not_square() -> None:
    view = picture(2, 3, 32, 16)
    assert torch.isfinite(step(make(), view))
    with pytest.raises(UsageError, match="only 3 rows"):
        step(make(directions=4), view)
    for lying_or_standing in (view.mT, view):
        with pytest.raises(UsageError, match="only 1 rows"):
            step(make(patch_size=20), lying_or_standing)


def test_the_frames_of_a_clip_are_rows() -> None:
    clip = picture(2, 5, 3, 16, 16)
    method, known = make(), []
    assert torch.equal(method._patches(clip)[:, :, 0], clip)
    assert torch.equal(method._patches(clip.flatten(1, 2)), method._patches(clip))
    method.predict[0][0].register_forward_hook(lambda _, args, out: known.append(args[0].detach()))
    later = clip.clone()
    later[:, 2:] = 1 - later[:, 2:]
    for each in (clip, later):
        assert torch.isfinite(step(method, each))
    assert known[0].shape == (2, 3, 1, 6)
    assert torch.equal(known[0][:, :2], known[1][:, :2])
    assert not torch.isclose(known[0][:, 2], known[1][:, 2]).all()


def test_clips_have_no_sides_to_predict_from() -> None:
    with pytest.raises(UsageError, match=r"--method.directions is 4"):
        step(make(directions=4), picture(2, 5, 3, 16, 16))


@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_patches_change_one_by_one_and_stay_images(channels: int) -> None:
    torch.manual_seed(0)
    tile = picture(1, channels, 4, 4)
    view = tile.repeat(2, 1, 8, 8)  # all its patches are alike
    plain, augmented = make(channels), make(channels, augment_patches=True)
    before = plain._patches(view)
    assert (before == before[:1, :1, :1]).all()
    after = augmented._patches(view)
    assert after.shape == before.shape
    assert after.dtype == before.dtype
    assert after.min() >= 0
    assert after.max() <= 1
    rows = after.flatten(0, 2).flatten(1)
    assert len({tuple(row) for row in rows.tolist()}) > 90  # of 98; boxes have whole pixels
    assert torch.equal(view, tile.repeat(2, 1, 8, 8))
    assert torch.isfinite(step(augmented, view))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 2, "skip": 2}, "--method.skip is 2: it must be from 0 to --method.steps - 1, 1"),
        ({"skip": -1}, "--method.skip is -1"),
        ({"patch_size": 0}, "--method.patch-size is 0"),
        ({"patch_stride": 0}, "--method.patch-stride is 0"),
        ({"negatives": 0}, "--method.negatives is 0"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(**options)


COMMAND = ["pretrain", "--method", "cpc", "--data", "shapes:train:16", "--encoder", "convnet", "--epochs", "1"]
COMMAND += ["--batch-size", "8", "--workers", "0", "--out", "run", "--accelerator", "cpu"]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``command("--seed", "1")``: the exit code of a small pretraining in a folder of its own."""
    from ssl_toolkit import cli

    monkeypatch.chdir(tmp_path)

    def run(*options: str) -> int:
        monkeypatch.setattr(sys, "argv", ["ssl-toolkit", *COMMAND, *options])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0)

    return run


def test_the_command_takes_layer_norm_by_itself(command: Callable[..., int]) -> None:
    assert command("--image-size", "32") == 0
    assert load_encoder("run").config.norm == "layer"
    assert SimCLR.encoder_norm == "batch"


def test_the_command_refuses_batch_norm_before_there_is_a_run(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--image-size", "32", "--encoder.norm", "batch") == 2
    assert "--encoder.norm layer" in capsys.readouterr().err
    assert not Path("run").exists()


def test_the_command_says_that_views_are_too_small(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--image-size", "16") == 2
    error = capsys.readouterr().err
    assert "--method.steps is 3, but there are only 3 rows" in error
    assert "Traceback" not in error
