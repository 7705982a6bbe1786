from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_toolkit.augment import cpc_views
from ssl_toolkit.contrastive.cpc import CPC
from ssl_toolkit.data import video
from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.cache import cached
from ssl_toolkit.data.image_set import Subset
from ssl_toolkit.data.images import BadImageError, resize
from ssl_toolkit.data.items import open_item
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.encoders import Encoder, EncoderConfig, load_encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.report.page import make_report
from ssl_toolkit.logs import read_metrics
from ssl_toolkit.runs import RunFolder
from ssl_toolkit.tasks import pretraining as command


def paint(folder: Path, count: int, first: int = 0, size: tuple[int, int] = (6, 4)) -> Path:
    """Frames 0.png, 1.png, ...; frame i is filled with the value first + i."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", size, (first + i, 0, 255 - first - i)).save(folder / f"{i}.png")
    return folder


def values(clip: np.ndarray) -> list[int]:
    """What `paint` wrote into the frames of a clip."""
    return clip[::3, 0, 0].tolist()


def refusal(word: str, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        open_images(word, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# --- folders of frames -----------------------------------------------------------------------------------------------


def test_clips_of_a_folder_of_frames(tmp_path):
    clips = open_images(f"clips:{paint(tmp_path / 'a', 33)}")
    assert (clips.frames, clips.channels, clips.classes, clips.labels.tolist()) == (8, 24, None, [-1, -1])
    assert values(clips.load(0, None)) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert values(clips.load(1, None)) == [16, 18, 20, 22, 24, 26, 28, 30]
    assert clips.load(0, None).shape == (24, 4, 6)
    assert clips.load(0, None).dtype == np.uint8
    with pytest.raises(IndexError):
        clips.load(2, None)


@pytest.mark.parametrize(
    ("numbers", "count", "second"),
    [(":3:1", 3, [3, 4, 5]), (":3:4", 1, None), (":3:1:2", 4, [2, 3, 4]), (":3:2:1", 6, [1, 3, 5]), (":10:1", 1, None)],
)
def test_numbers_of_a_word(tmp_path, numbers, count, second):
    clips = open_images(f"clips:{paint(tmp_path / 'a', 10)}{numbers}")
    assert len(clips) == count
    if second is not None:
        assert values(clips.load(1, None)) == second


def test_one_frame_makes_images(tmp_path):
    images = open_images(f"clips:{paint(tmp_path / 'a', 5)}:1")
    assert (images.frames, images.channels, len(images)) == (1, 3, 3)
    assert [values(images.load(i, None)) for i in range(3)] == [[0], [2], [4]]


def test_clips_stay_within_their_folder_and_folders_come_in_order(tmp_path):
    for first, name in ((100, "b"), (0, "a/deep"), (50, "a")):
        paint(tmp_path / name, 5, first)
    clips = open_images(f"clips:{tmp_path}:2:1")
    assert [values(clips.load(i, None)) for i in range(6)] == [
        [50, 51], [52, 53], [0, 1], [2, 3], [100, 101], [102, 103],
    ]  # fmt: skip


def test_numbers_in_names_count_as_numbers(tmp_path):
    clips = open_images(f"clips:{paint(tmp_path / 'a', 12)}:12:1")
    assert values(clips.load(0, None)) == list(range(12))


def test_frames_are_resized_as_images_are(tmp_path):
    paint(tmp_path / "a", 2, size=(16, 8))
    noise = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a" / "1.png")
    clip = open_images(f"clips:{tmp_path}:2:1").load(0, 4)
    assert clip.shape == (6, 4, 8)
    np.testing.assert_array_equal(clip[3:], resize(noise.transpose(2, 0, 1), 4))
    assert open_images(f"clips:{tmp_path}:2:1", channels=1).load(0, 4).shape == (2, 4, 8)
    assert "1 or 3 channels, not 6" in refusal(f"clips:{tmp_path}:2:1", channels=6)


def test_a_place_names_a_clip(tmp_path):
    clips = open_images(f"clips:{paint(tmp_path / 'a', 9)}:2:2:1")
    assert clips.path(3) == f"clips:{tmp_path / 'a'}:2:2:1#3"
    np.testing.assert_array_equal(open_item(clips.path(3)), clips.load(3, None))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(clips)).load(3, None), clips.load(3, None))


def test_a_path_may_hold_colons_and_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    paint(tmp_path / "a:3", 15)
    assert open_images(f"clips:{tmp_path}/a:3").frames == 8
    assert open_images("clips:~/a:3:5:1").frames == 5


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("clips", "no such video or folder: ''. Give clips:PATH"),
        ("clips:", "no such video or folder: ''"),
        ("clips:none.mp4:8:2", "no such video or folder: 'none.mp4'"),
        ("clips:a:8:x", "no such video or folder: 'a:8:x'"),
        ("clips:a:0", "up to three numbers, from 1"),
        ("clips:a:8:2:1:1", "up to three numbers, from 1"),
        ("clips:empty", "no clips in "),
        ("clips:empty", "neither videos nor images"),
        ("clips:a:8:2", "a': it has 10 frames, a clip of 8 with stride 2 takes 15"),
        ("clip:a", "did you mean clips?"),
    ],
)
def test_words_that_mean_nothing(tmp_path, monkeypatch, word, message):
    monkeypatch.chdir(tmp_path)
    paint(tmp_path / "a", 10)
    (tmp_path / "empty").mkdir()
    assert message in refusal(word)


def test_what_gives_no_clip_is_a_bad_image(tmp_path):
    paint(tmp_path / "a", 4)
    paint(tmp_path / "b", 3)
    paint(tmp_path / "c", 4)
    (tmp_path / "c" / "1.png").write_bytes(b"no image")
    paint(tmp_path / "d", 4)
    paint(tmp_path / "d", 1, size=(6, 5))
    clips = open_images(f"clips:{tmp_path}:4:1")
    bad = BadImages(clips, tmp_path / "bad.csv", max_rate=0.8)
    assert [batch.index.tolist() for batch in ImageLoader(clips, 4, bad=bad)] == [[0]]
    lines = (tmp_path / "bad.csv").read_text().splitlines()[1:]
    for line, place, reason in zip(lines, ("b", "c/1.png", "d"), ("3 frames", "not an image", "differ"), strict=True):
        assert f"{tmp_path / place}: " in line
        assert reason in line


def test_wrappers_keep_the_frames(tmp_path):
    clips = open_images(f"clips:{paint(tmp_path / 'a', 16)}:4:2")
    assert Subset(clips, np.array([1])).frames == 4
    assert cached(clips, 4, BadImages(clips)).frames == 4
    assert cached(clips, 4, BadImages(clips)).load(1, 4).shape == (12, 4, 6)
    assert open_images("shapes:test:5").frames == 1


# --- methods ---------------------------------------------------------------------------------------------------------


def test_every_frame_gets_the_same_view():
    image = torch.randint(0, 256, (5, 3, 20, 30), dtype=torch.uint8)
    view = cpc_views(16, channels=12)(image.repeat(1, 4, 1, 1))[0].reshape(5, 4, 3, 16, 16)
    assert torch.allclose(view, view[:, :1].expand_as(view), atol=1e-5)
    assert not torch.allclose(view[0], view[1], atol=0.1)


def small_cpc(**options: Any) -> CPC:
    encoder = Encoder(EncoderConfig("convnet", image_size=16, load_size=16, norm="layer"))
    return CPC(encoder, cpc_views(16), **options)


def test_cpc_reads_a_clip_as_one_column_of_frames():
    clip = torch.rand(2, 5, 3, 16, 16)  # (N, T, C, H, W)
    patch = small_cpc()._patches(clip.flatten(1, 2))
    assert torch.equal(patch, clip[:, :, None])
    with pytest.raises(UsageError, match=r"steps is 3, but there are only 3 rows"):
        small_cpc()._patches(clip[:, :3].flatten(1, 2))
    with pytest.raises(UsageError, match="directions is 4, but the frames of a clip have no columns"):
        small_cpc(directions=4)._patches(clip.flatten(1, 2))


def moving(folder: Path, count: int) -> Path:
    """Frames of a texture that moves to the right over a random background that stays."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (16, 6 * count, 3), np.uint8)
    for i in range(count):
        Image.fromarray(texture[:, 4 * i : 4 * i + 16]).save(folder / f"{i:03d}.png")
    return folder


def run_cpc(tmp_path: Path, out: str = "run", **options: Any) -> Path:
    folder = tmp_path / "frames"
    data = f"clips:{folder if folder.exists() else moving(folder, 64)}:4:1"
    settings = {"image_size": 16, "batch_size": 4, "workers": 0, "accelerator": "cpu", "progress": False, "epochs": 2}
    method = {"name": "cpc", "steps": 2}
    return command.pretrain(method, data, str(tmp_path / out), **{"encoder": "convnet", **settings, **options})


def test_cpc_pretrains_on_clips_resumes_and_leaves_an_encoder_for_images(tmp_path):
    whole = load_encoder(run_cpc(tmp_path, epochs=3))
    assert whole.config.channels == 3
    assert whole(torch.rand(2, 3, 16, 16)).shape == (2, 256)
    part = run_cpc(tmp_path, "part", epochs=3, checkpoint_every=4)
    for file in sorted((part / "checkpoints").iterdir())[1:]:  # as if killed after the first
        file.unlink()
    (part / "encoder.safetensors").unlink()
    resumed = load_encoder(run_cpc(tmp_path, "part", epochs=3, checkpoint_every=4, resume=True))
    assert resumed.sha256 == whole.sha256
    assert load_encoder(run_cpc(tmp_path, "on", encoder=str(tmp_path / "run"))).config.channels == 3


def test_the_report_of_clips_shows_their_first_frames(tmp_path):
    run = run_cpc(tmp_path)
    page = make_report(run, images=8).read_text(encoding="utf-8")
    assert "No pictures:" not in page
    assert "No map:" not in page
    clips = open_images(RunFolder(run).config()["data"])
    first = clips.first_frames()
    assert page.count(first.word) >= 2  # under the neighbours and the map
    np.testing.assert_array_equal(first.load(1, None), clips.load(1, None)[:3])


def test_the_loss_on_clips_falls(tmp_path):
    from ssl_toolkit.optim import OptimizerConfig

    run = run_cpc(tmp_path, epochs=20, optimizer=OptimizerConfig(lr=5e-4))
    loss = np.array([float(row["loss"]) for row in read_metrics(run / "metrics.csv")])
    assert loss[-8:].mean() < 0.9 * loss[:4].mean()


@pytest.mark.parametrize("method", ["simclr", "rotation"])
def test_other_methods_refuse_clips(tmp_path, method):
    data = f"clips:{paint(tmp_path / 'a', 20)}:4:1"
    options = {"image_size": 16, "batch_size": 2, "workers": 0, "accelerator": "cpu", "progress": False}
    with pytest.raises(
        UsageError, match=rf"--method {method} takes single images.*4 frames: give --method cpc or video_.*, or .*:1"
    ):
        command.pretrain(method, data, str(tmp_path / "run"), "convnet", **options)
    assert not (tmp_path / "run").exists()
    command.pretrain(method, f"{data[:-4]}:1", str(tmp_path / "run"), "convnet", epochs=1, **options)


# --- videos ----------------------------------------------------------------------------------------------------------

SIZE = (32, 48)  # height, width
KINDS = [
    ("a.mp4", "mpeg4", 2),
    ("a.avi", "mpeg4", 0),
    ("a.mkv", "ffv1", 0),
    ("a.ts", "mpeg2video", 2),
    ("a.mpg", "mpeg2video", 2),
]


def film(path: Path, codec: str = "mpeg4", b_frames: int = 0, count: int = 40) -> Path:
    """A video of a texture that moves and brightens, with a keyframe every 12 frames at least."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    texture = np.random.default_rng(0).integers(0, 60, (*SIZE, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = *SIZE, "yuv420p", 4_000_000
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 12, b_frames
        for i in range(count):
            pixels = (np.roll(texture, i, 1) + 4 * i).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def watched(path: Path) -> list[np.ndarray]:
    """All frames (3, H, W), decoded from first to last."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").transpose(2, 0, 1) for frame in container.decode(video=0)]


@pytest.mark.parametrize(("name", "codec", "b_frames"), KINDS)
@pytest.mark.parametrize("order", ["forward", "backward", "random"])
def test_clips_of_a_video_are_the_frames_that_one_sees(tmp_path, name, codec, b_frames, order):
    path = film(tmp_path / name, codec, b_frames)
    frames, clips = watched(path), open_images(f"clips:{path}:3:2:1")
    assert (len(frames), len(clips), clips.channels) == (40, 36, 9)
    assert all((a != b).mean() > 0.5 for a, b in itertools.pairwise(frames))
    places = {"forward": range(36), "backward": range(35, -1, -1), "random": np.random.default_rng(0).permutation(36)}
    for i in places[order]:
        np.testing.assert_array_equal(clips.load(int(i), None), np.concatenate(frames[i : i + 5 : 2]))


def test_clips_in_order_decode_a_video_once(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4")
    decoded = []
    take = video._Decoder._decode

    def count(self: Any, packets: Any) -> None:
        take(self, packets)
        self._frames = (decoded.append(frame.pts) or frame for frame in self._frames)

    monkeypatch.setattr(video._Decoder, "_decode", count)
    clips = open_images(f"clips:{path}:4:2")
    for i in range(len(clips)):
        clips.load(i, 16)
    assert len(decoded) == len(set(decoded)) <= 40
    for before in (4, 0):  # back and forth
        clips.load(before, 16)
        decoded.clear()
        clips.load(4 - before, 16)
        assert len(decoded) < 7 + 12  # from the keyframe before


def test_a_folder_of_videos_at_any_depth(tmp_path):
    film(tmp_path / "b" / "x.mp4", count=10)
    film(tmp_path / "a.mkv", count=11)
    paint(tmp_path / "thumbnails", 20)
    clips = open_images(f"clips:{tmp_path}:5:2")
    assert len(clips) == 2
    np.testing.assert_array_equal(clips.load(1, None), np.concatenate(watched(tmp_path / "b" / "x.mp4")[:9:2]))
    assert clips.load(0, 16).shape == (15, 16, 24)


def test_workers_that_are_forks_of_a_process_that_has_read(tmp_path):
    clips = open_images(f"clips:{film(tmp_path / 'a.mp4')}:4:2:1")
    wanted = np.stack([clips.load(i, 32) for i in range(len(clips))])[..., 8:40]
    for workers in (0, 2):
        loader = ImageLoader(clips, 32, batch_size=8, workers=workers)
        np.testing.assert_array_equal(torch.cat([batch.image for batch in loader]).numpy(), wanted)
    np.testing.assert_array_equal(clips.load(3, 32)[..., 8:40], wanted[3])  # nobody moved our place in the file


def test_clips_travel_to_a_spawned_process(tmp_path):
    clips = open_images(f"clips:{film(tmp_path / 'a.mp4')}:4:2")
    wanted = clips.load(2, 16)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(clips.load, (2, 16)), wanted)


def test_a_video_that_was_held_sideways_is_turned(tmp_path):
    path = film(tmp_path / "a.mp4")
    upright = open_images(f"clips:{path}:2:1").load(0, None)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)  # clockwise
    (tmp_path / "b.mp4").write_bytes(data)
    turned = open_images(f"clips:{tmp_path / 'b.mp4'}:2:1").load(0, None)
    np.testing.assert_array_equal(turned, np.rot90(upright, -1, (1, 2)))


def test_videos_that_cannot_be_opened(tmp_path):
    film(tmp_path / "good.mp4", count=20)
    data = (tmp_path / "good.mp4").read_bytes()
    for name, content in (("cut.mp4", data[: len(data) // 2]), ("empty.mp4", b""), ("text.mp4", b"no video" * 99)):
        (tmp_path / name).write_bytes(content)
        assert f"no clips in '{tmp_path / name}': " in refusal(f"clips:{tmp_path / name}")
    os.mkfifo(tmp_path / "pipe.mp4")
    clips = open_images(f"clips:{tmp_path}")
    bad = {}
    for i in range(len(clips)):
        try:
            assert clips.load(i, 16).shape == (24, 16, 24)
        except BadImageError as error:
            bad[error.path] = error.reason
    assert list(bad) == [clips.path(i) for i in (0, 1, 3, 4)]
    assert f"{tmp_path / 'pipe.mp4'}: not a regular file" in bad.values()


def test_damage_inside_a_video_costs_the_clips_it_meets(tmp_path):
    path = film(tmp_path / "a.mkv")
    clips = open_images(f"clips:{path}:2:1")
    wanted = [clips.load(i, None) for i in range(20)]
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][13]
    data = bytearray(path.read_bytes())
    data[packet.pos + packet.size // 2 : packet.pos + packet.size] = bytes(packet.size - packet.size // 2)
    path.write_bytes(data)
    clips = open_images(f"clips:{path}:2:1")
    bad = []
    for i in range(20):
        try:
            np.testing.assert_array_equal(clips.load(i, None), wanted[i])
        except BadImageError:
            bad.append(i)
    assert bad
    assert set(bad) <= set(range(6, 12))  # up to the next keyframe


def test_without_pyav_one_line_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"video")
    monkeypatch.setitem(sys.modules, "av", None)
    assert "needs PyAV: in the folder of ssl-toolkit, pip install '.[video]'" in refusal(f"clips:{tmp_path / 'a.mp4'}")
    assert "needs PyAV: in the folder of ssl-toolkit, pip install '.[video]'" in refusal(f"clips:{tmp_path}")
