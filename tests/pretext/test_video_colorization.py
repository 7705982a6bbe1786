from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ssl_toolkit.augment import Views
from ssl_toolkit.colours import lab_to_rgb, rgb_to_lab
from ssl_toolkit.encoders import Encoder, EncoderConfig, load_encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.health.doctor import CollapseDoctor
from ssl_toolkit.eval.report.page import make_report
from ssl_toolkit.logs import read_metrics
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.pretext.clusters import k_means, nearest_cluster
from ssl_toolkit.pretext.video_colorization import (
    VideoColorization,
    colours_at,
    copy_labels,
    grid_of_colours,
    log_share,
    point,
)
from ssl_toolkit.tasks import pretraining as command
from ssl_toolkit.tasks.diagnosis import doctor
from tests.conftest import Arrays


def made(size: int = 32, **options: Any) -> VideoColorization:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig("convnet", image_size=size, load_size=size, colours="lightness"))
    return VideoColorization(encoder, VideoColorization.default_views(size, channels=12), **options)


def step(method: VideoColorization, clip: torch.Tensor) -> dict[str, torch.Tensor]:
    return method.step([clip], None)  # type: ignore[arg-type]


# --- the maths -------------------------------------------------------------------------------------------------------


def test_pointers_are_the_softmax_of_inner_products() -> None:
    reference = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]])
    target = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    pointers = point(reference, target, temperature=0.5)
    scores = torch.tensor([[[2.0, 0.0, 6.0], [0.0, 4.0, 0.0]]])
    torch.testing.assert_close(pointers.exp(), scores.exp() / scores.exp().sum(dim=2, keepdim=True))


def test_pointers_are_of_single_precision_under_mixed_precision() -> None:
    f = 8 * torch.randn(2, 5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        pointers = point(f, f.bfloat16(), 1.0)
        assert torch.equal(copy_labels(pointers, torch.eye(5).expand(2, 5, 5)), pointers.exp())
    torch.testing.assert_close(pointers, point(f, f.bfloat16().float(), 1.0))


def test_labels_are_copied_from_where_the_pointers_point() -> None:
    pointers = torch.tensor([[[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]])
    labels = torch.eye(3)[None] * torch.tensor([1.0, 2.0, 4.0])
    assert copy_labels(pointers.log(), labels).tolist() == [[[0, 2, 0], [0.5, 0, 2]]]


def test_the_share_of_the_right_colour_is_exact_and_teaches_however_small_it_is() -> None:
    lent, answer = torch.tensor([[0, 1, 1]]), torch.tensor([[0, 1, 2]])
    scores = torch.tensor([[[0.0, 40.0, 0.0], [0.0, 1.0, 2.0], [1.0, 2.0, 3.0]]], requires_grad=True)
    found = log_share(scores.log_softmax(dim=2), lent, answer)
    shares = copy_labels(scores.detach().double().log_softmax(dim=2), F.one_hot(lent, 3).double())
    expected = shares.gather(2, answer[..., None])[0, :2, 0].log()
    torch.testing.assert_close(found[0, :2], expected, check_dtype=False)
    assert found[0, 2].item() == pytest.approx(np.log(1e-6))  # no reference has the colour
    found.sum().backward()
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad[0, 0], torch.tensor([1.0, -1.0, 0.0]))
    assert not scores.grad[0, 2].any()


def test_identical_frames_lend_each_place_its_own_colour() -> None:
    f = 30 * torch.nn.functional.normalize(torch.randn(2, 9, 64), dim=2)
    colour = torch.nn.functional.one_hot(torch.randint(16, (2, 9)), 16).float()
    torch.testing.assert_close(copy_labels(point(f, f, 1.0), colour), colour, atol=1e-4, rtol=0)


def test_a_place_has_the_mean_colour_of_its_area() -> None:
    ab = torch.zeros(1, 2, 4, 8)
    ab[:, 0, :, 4:] = torch.tensor([10.0, 20.0, 10.0, 20.0])
    image = lab_to_rgb(torch.cat([torch.full((1, 1, 4, 8), 60.0), ab], dim=1))
    torch.testing.assert_close(
        colours_at(image, (1, 2)), torch.tensor([0.0, 0.0, 15.0, 0.0]).view(1, 1, 2, 2), atol=0.05, rtol=0
    )


def test_a_colour_belongs_to_its_nearest_centroid() -> None:
    centroid = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, -10.0]])
    ab = torch.tensor([[[4.9, 0.0], [5.1, 0.0]], [[-3.0, -6.0], [90.0, 1.0]]])
    assert nearest_cluster(ab, centroid).tolist() == [[0, 1], [2, 1]]
    assert len(grid_of_colours(16).unique(dim=0)) == 16


def test_clusters_are_found_and_are_the_same_each_time() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[-40, 0], [0, 0], [30, 30], [0, -50]])
    ab = (centres[rng.integers(4, size=500)] + rng.normal(0, 1, (500, 2))).astype(np.float32)
    found = k_means(ab, 4)
    np.testing.assert_allclose(found[np.lexsort(found.T)], centres[np.lexsort(centres.T)], atol=0.5)
    assert np.array_equal(found, k_means(ab, 4))


# --- the method ------------------------------------------------------------------------------------------------------


def painted(lightness: torch.Tensor, ab: torch.Tensor) -> torch.Tensor:
    """RGB from L (N, H, W) and ab (N, 2), one colour an image."""
    return lab_to_rgb(torch.cat([lightness[:, None], ab[..., None, None].expand(-1, -1, *lightness.shape[1:])], dim=1))


def test_the_colours_of_the_target_reach_nothing_but_the_answer() -> None:
    method = made(temperature=10.0).eval()
    torch.manual_seed(1)
    lightness = 40 + 20 * torch.rand(4, 2, 32, 32)
    ab = torch.tensor([[5.0, 5.0], [-6.0, 8.0]])
    frames = [painted(lightness[0] - 30, -3 * ab), *(painted(each, ab) for each in lightness[1:])]
    other = painted(lightness[-1], -ab)
    with torch.no_grad():
        clips = ([*frames[:-1], last] for last in (frames[-1], other, painted(lightness[-1] - 30, ab)))
        (first, answer), (second, another), (third, shown) = (method._pointers(torch.stack(c, dim=1)) for c in clips)
        one, two = method._carried(first, answer), method._carried(second, another)
        elsewhere = method._carried(third, shown)
    torch.testing.assert_close(one, two, atol=2e-4, rtol=0)
    assert (one - elsewhere).abs().max() > 1e-3  # its lightness does
    assert torch.equal(answer[:, :-1], another[:, :-1])
    assert not torch.equal(answer[:, -1], another[:, -1])


def test_loss_is_the_cross_entropy_of_the_lent_colours() -> None:
    method = made(clusters=2).eval()
    method.centroid.copy_(torch.tensor([[-10.0, 0.0], [10.0, 0.0]]))
    green, red = painted(torch.full((2, 32, 32), 50.0), torch.tensor([[-10.0, 0.0], [10.0, 0.0]]))
    # All frames have one lightness and no structure, so that pointers are even but for the padding: a third of the
    # references is red.
    torch.nn.init.zeros_(method.embed.weight)
    clip = torch.cat([green, red, green, red])[None]
    found = step(method, clip)
    assert found["loss"].item() == pytest.approx(np.log(3), rel=1e-5)
    assert (found["accuracy"], found["copy_accuracy"]) == (0, 0)
    found = step(method, torch.cat([red, green, green, green])[None])
    assert found["loss"].item() == pytest.approx(np.log(3 / 2), rel=1e-5)
    assert (found["accuracy"], found["copy_accuracy"]) == (1, 1)
    assert step(method, torch.cat([green, green, green, red])[None])["loss"].isfinite()


def test_colours_are_measured_and_kept() -> None:
    method = made(clusters=2)
    ab = torch.tensor([[-20.0, 10.0], [15.0, 20.0]])
    frames = painted(torch.full((2, 32, 32), 55.0), ab)
    method.prepare(iter([[torch.cat([frames[0], frames[1]])[None]]] * 3))
    torch.testing.assert_close(method.centroid[method.centroid[:, 0].argsort()], ab, atol=0.05, rtol=0)
    assert "centroid" in method.state_dict()


def test_what_cannot_be_is_refused() -> None:
    method = made()
    with pytest.raises(UsageError, match=r"not single images: give --data clips:PATH:4"):
        step(method, torch.rand(2, 3, 32, 32))
    grey = torch.rand(2, 4, 1, 32, 32).expand(-1, -1, 3, -1, -1).flatten(1, 2)
    for clip in (grey, torch.ones_like(grey) * torch.tensor([0.5, 0.4, 0.2]).repeat(4).view(12, 1, 1)):  # sepia too
        with pytest.raises(UsageError, match="these clips have none: give colour video"):
            method.prepare(iter([[clip]]))
    with pytest.raises(UsageError, match=r"--method.clusters is 200, but only 128 places were measured"):
        made(clusters=200).prepare(iter([[torch.rand(2, 12, 32, 32).round()]]))
    with pytest.raises(UsageError, match=r"--method.clusters is 1"):
        made(clusters=1)
    with pytest.raises(UsageError, match=r"--method.temperature is 0"):
        made(temperature=0.0)
    with pytest.raises(UsageError, match="kind 'lightness', this one sees 'rgb'"):
        VideoColorization(Encoder(EncoderConfig("convnet", image_size=32, load_size=32)), Views([]))


def test_the_picture_has_the_targets_lightness_and_only_carried_colours() -> None:
    method = made().eval()
    torch.manual_seed(1)
    clip = 0.3 + 0.4 * torch.rand(2, 4, 3, 32, 32)
    with torch.no_grad():
        picture = method.task_picture([clip.flatten(1, 2)])
        other = method.task_picture([torch.cat([clip[:, :3], clip[:, 3:].flip(2)], dim=1).flatten(1, 2)])
    assert list(picture.rows) == ["before", "target", "carried", "truth"]
    assert torch.equal(picture.rows["truth"], clip[:, 3])
    assert torch.equal(picture.rows["before"], clip[:, 2])
    truth, target = rgb_to_lab(clip[:, 3]), rgb_to_lab(picture.rows["target"])
    torch.testing.assert_close(target[:, 0], truth[:, 0], atol=0.05, rtol=0)
    assert target[:, 1:].abs().max() < 0.05
    assert not torch.equal(picture.rows["target"], other.rows["target"])
    assert [len(words) for words in picture.captions.values()] == [2, 2]


# --- learning --------------------------------------------------------------------------------------------------------

SIDE, FRAMES = 48, 3


def moving_squares(count: int, seed: int, shift: int = 8) -> Arrays:
    """Clips of three squares, each of a brightness and colour of its own, that move over a dark textured background."""
    rng = np.random.default_rng(seed)
    ab = torch.tensor([[45.0, 30.0], [-45.0, 35.0], [20.0, -50.0]])
    lab = torch.zeros(count, FRAMES, 3, SIDE, SIDE)
    lab[:, :, 0] = torch.from_numpy(rng.uniform(5, 25, (count, 1, SIDE, SIDE))).float()
    for clip in range(count):
        for number, colour in enumerate(ab.tolist()):
            y, x = rng.integers(8, SIDE - 24, 2)
            dy, dx = rng.choice([-1, 0, 1], 2)
            for frame in range(FRAMES):
                top, left = (int(np.clip(at + shift * frame * d, 0, SIDE - 16)) for at, d in ((y, dy), (x, dx)))
                place = (slice(top, top + 16), slice(left, left + 16))
                lab[clip, frame, 0][place] = 45.0 + 15 * number
                for channel in (0, 1):
                    lab[clip, frame, 1 + channel][place] = colour[channel]
    return Arrays((255 * lab_to_rgb(lab.flatten(0, 1))).round().byte().view(count, -1, SIDE, SIDE).numpy())


def test_learns_to_follow_what_moves(train_quickly: Callable) -> None:
    doctor = CollapseDoctor(every=2)
    method = train_quickly(
        VideoColorization, moving_squares(200, 0), size=SIDE, batch_size=20, epochs=8, seed=1,
        optimizer=OptimizerConfig(lr=3e-3), views={"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)},
        method={"clusters": 4}, callbacks=[doctor],
    )  # fmt: skip
    assert doctor.findings == []
    clip = torch.from_numpy(moving_squares(60, 1).pixels).float() / 255
    untrained = made(SIDE, clusters=4).eval()
    untrained.centroid.copy_(method.centroid)
    with torch.no_grad():
        after, before = step(method.eval(), clip), step(untrained, clip)
    assert after["accuracy"] > after["copy_accuracy"] + 0.1
    assert after["accuracy"] > before["accuracy"] + 0.1


# --- from the command line -------------------------------------------------------------------------------------------


def frames_in(folder: Path, count: int, grey: bool = False) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (16, 4 * count + 16, 1 if grey else 3), np.uint8).repeat(3 if grey else 1, 2)
    for i in range(count):
        Image.fromarray(texture[:, 4 * i : 4 * i + 16]).save(folder / f"{i:03d}.png")
    return folder


def run(data: str, out: Path, **options: Any) -> Path:
    settings = {"image_size": 16, "batch_size": 4, "workers": 0, "accelerator": "cpu", "progress": False, "epochs": 2}
    return command.pretrain("video_colorization", data, str(out), **{"encoder": "convnet", **settings, **options})


def test_a_run_on_clips_and_its_report(tmp_path: Path) -> None:
    data = f"clips:{frames_in(tmp_path / 'a', 40)}:4:1:2"
    found = run(data, tmp_path / "run")
    assert load_encoder(found).config.colours == "lightness"
    assert load_encoder(found)(torch.rand(2, 3, 16, 16)).shape == (2, 256)
    assert {"loss", "accuracy", "copy_accuracy"} <= set(read_metrics(found / "metrics.csv")[0])
    page = make_report(found, images=8).read_text(encoding="utf-8")
    assert "The last frame of a clip is shown grey" in page
    assert "No picture" not in page
    measures = doctor(str(found), workers=0, device="cpu")["measures"]
    assert set(measures) == {"embedding", "features", "step"}
    assert set(measures["step"]) == {"loss", "accuracy", "copy_accuracy"}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("clips:{}:1", "takes clips of at least 2 frames, not single images: give --data clips:PATH:4"),
        ("{}", "takes clips of at least 2 frames, not single images: give --data clips:PATH:4"),
        ("clips:{}:4:9", r"no clips in .*: it has 12 frames, a clip of 4 with stride 9 takes 28"),
    ],
)
def test_too_few_frames(tmp_path: Path, word: str, message: str) -> None:
    folder = frames_in(tmp_path / "a", 12)
    with pytest.raises(UsageError, match=message):
        run(word.format(folder), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_grey_video(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give colour video"):
        run(f"clips:{frames_in(tmp_path / 'a', 20, grey=True)}:4:1:1", tmp_path / "run")
