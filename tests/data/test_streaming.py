from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ssl_toolkit.data import streaming
from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.image_set import Subset, Wanted
from ssl_toolkit.data.images import Content, decode_image
from ssl_toolkit.data.items import open_item
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.data.streaming import Stream, StreamOrder
from ssl_toolkit.errors import ToolkitError, UsageError
from tests.data import packed
from tests.data.small_files import refusal

JPEGS = packed.jpegs(12)


class Numbers(Stream):
    """Shards of so many images each, all alike but for their names; what is read is counted."""

    def __init__(self, sizes: list[int], count: int | None = None) -> None:
        self.sizes, self.reads = sizes, 0
        super().__init__("numbers", [f"s{n}" for n in range(len(sizes))], count or sum(sizes), ["a"], Wanted(""))

    def read(self, shard: int, start: int) -> Iterator[tuple[Content, int]]:
        for place in range(start, self.sizes[shard]):
            self.reads += 1
            yield Content(f"s{shard}#{place}", JPEGS[0]), 0


@pytest.fixture
def blocks(monkeypatch) -> None:
    monkeypatch.setattr(streaming, "BLOCK", 8)


def names(stream: Stream, order: StreamOrder) -> list[list[str]]:
    return [[held.source.name for held in batch] for _, batch in order]


def ordered(stream: Stream, epoch: int = 0, start: int = 0, seed: int = 3, **more: int) -> list[list[str]]:
    order = StreamOrder(stream, 4, True, seed, more.get("rank", 0), more.get("world", 1))
    order.epoch, order.start = epoch, start
    return names(stream, order)


def test_each_epoch_has_every_image_once_in_an_order_of_its_own(blocks):
    stream = Numbers([7, 9, 4, 12])
    first, again, second = (ordered(stream, epoch) for epoch in (0, 0, 1))
    assert first == again
    assert first != second
    every = {f"s{shard}#{place}" for shard, size in enumerate(stream.sizes) for place in range(size)}
    for epoch in (first, second):
        assert set(itertools.chain(*epoch)) == every
        assert len(list(itertools.chain(*epoch))) == 32
    assert ordered(stream, seed=4) != first


def test_shards_and_blocks_are_each_shuffled_anew(blocks):
    for sizes in ([8], [4] * 8):  # a block of one shard; blocks of two shards, of which it is looked which they are
        every = [ordered(Numbers(sizes), epoch, seed=seed) for epoch, seed in ((0, 3), (1, 3), (2, 3), (0, 4), (0, 5))]
        if len(sizes) > 1:
            every = [[sorted({name[:2] for name in itertools.chain(*epoch[:2])})] for epoch in every]
        assert all(every.count(epoch) < 3 for epoch in every)
        assert every[0] not in (every[1], every[3])


def test_processes_share_the_shards_out(blocks):
    stream = Numbers([8, 8, 8, 8])
    parts = [set(itertools.chain(*ordered(stream, rank=rank, world=2))) for rank in (0, 1)]
    assert not parts[0] & parts[1]
    assert len(parts[0] | parts[1]) == 32
    with pytest.raises(UsageError, match="has 4 shards, too few for 5 processes"):
        ordered(stream, world=5)


def test_an_epoch_is_a_number_of_images(blocks):
    short = ordered(Numbers([8, 8, 8], count=16))
    assert len(short) == 4
    assert len(set(itertools.chain(*short))) == 16
    long = list(itertools.chain(*ordered(Numbers([4, 4], count=20))))
    assert len(long) == 20
    assert set(long[:8]) == set(long[8:16])  # all of them, then all of them again
    emptied = Numbers([4, 4])
    emptied.sizes = [0, 0]
    with pytest.raises(ToolkitError, match="hold no images"):
        ordered(emptied)


@pytest.mark.parametrize("batch", range(9))
def test_what_was_kept_goes_on_with_the_same_images_and_reads_no_block_twice(blocks, batch):
    stream = Numbers([7, 9, 4, 12])
    order = StreamOrder(stream, 4, True, 3, 0, 1)
    whole = names(stream, order)
    place = json.loads(json.dumps(order.place(0, batch)))
    stream.reads = 0
    resumed = StreamOrder(stream, 4, True, 3, 0, 1)
    resumed.start = batch
    resumed.go_to(0, batch, place)
    assert names(stream, resumed) == whole[batch:]
    assert stream.reads <= 32 - 8 * (batch // 2) + 1
    for unknown in (None, place and {**place, "rank": 1}):  # of another process: it reads from the beginning
        other = StreamOrder(stream, 4, True, 3, 0, 1)
        other.start = batch
        other.go_to(0, batch, unknown)
        assert batch < 2 or other.place(0, batch) is None
        assert names(stream, other) == whole[batch:]


def shards(tmp_path: Path, images: list[bytes] = JPEGS, count: int = 12) -> str:
    return f"stream:{count}:{packed.shards(tmp_path, images)}"


def tables(tmp_path: Path, images: list[bytes] = JPEGS, count: int = 12) -> str:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=packed.CLASSES)})
    for shard, rows in enumerate(np.array_split(np.arange(len(images)), 3)):
        cells = {
            "image": [{"bytes": images[row], "path": None} for row in rows],
            "label": [packed.labels(len(images))[row] for row in rows],
        }
        found = datasets.Dataset.from_dict(cells, features=features)
        found.to_parquet(tmp_path / "files" / f"train-{shard:05d}-of-00003.parquet")
    return f"stream:{count}:hf:{tmp_path}/files:train"


def test_evaluation_starts_at_the_batch_that_its_position_names(tmp_path):
    loader = ImageLoader(open_images(shards(tmp_path)), 16, batch_size=5)
    loader.position = 1
    assert np.concatenate([batch.index for batch in loader]).tolist() == list(range(5, 12))


def test_an_image_without_a_label_does_not_keep_that_of_an_earlier_epoch():
    stream = Numbers([4])
    for label in (0, -1):
        stream.held(2, 0, 2, JPEGS[0], label)
        assert stream.labels[2] == label


def test_resuming_with_more_shards_is_refused(blocks):
    state = ImageLoader(Numbers([6, 6], 12), 16, batch_size=4, shuffle=True).state_dict()
    ImageLoader(Numbers([6, 6], 12), 16, batch_size=4, shuffle=True).load_state_dict(state)
    with pytest.raises(ToolkitError, match="'numbers' has 3 shards, the run to resume was trained on 2: bring"):
        ImageLoader(Numbers([6, 6, 6], 12), 16, batch_size=4, shuffle=True).load_state_dict(state)


@pytest.mark.parametrize("kind", [shards, tables])
def test_evaluation_reads_all_in_order_with_labels_and_names(tmp_path, kind):
    stream = open_images(kind(tmp_path))
    loaders = [ImageLoader(stream, 16, batch_size=5, workers=workers) for workers in (0, 2)]
    for batches in map(list, loaders):
        assert np.concatenate([batch.label for batch in batches]).tolist() == packed.labels(12)
        assert np.concatenate([batch.index for batch in batches]).tolist() == list(range(12))
        pixels = np.concatenate([batch.image for batch in batches])
        np.testing.assert_array_equal(pixels, [decode_image(data, size=16) for data in JPEGS])
    assert stream.path(5).endswith("#1")
    if kind is shards:
        np.testing.assert_array_equal(open_item(stream.path(5)), decode_image(JPEGS[5]))
    assert (open_images(kind(tmp_path), labels="none").few().labels < 0).all()


@pytest.mark.parametrize("kind", [shards, tables])
def test_training_is_the_same_with_any_number_of_workers_and_after_a_resume(tmp_path, blocks, kind):
    word = kind(tmp_path)

    def batches(workers: int, begin: int = 0, state: dict | None = None):
        loader = ImageLoader(open_images(word), 16, batch_size=4, shuffle=True, seed=5, workers=workers)
        if state is not None:
            loader.load_state_dict(json.loads(json.dumps(state)))
        found = []
        while loader.position < 6:
            for batch in loader:
                found.append((batch.image.numpy(), batch.label.numpy(), loader.state_dict()))
        return found

    whole = batches(0)
    assert len(whole) == 6
    for workers, at in ((2, None), (0, 1), (2, 3), (0, 4)):
        resumed = batches(workers, state=None if at is None else whole[at][2])
        expected = whole[0 if at is None else at + 1 :]
        assert len(resumed) == len(expected)
        for (image, label, _), (image2, label2, _) in zip(resumed, expected, strict=True):
            np.testing.assert_array_equal(image, image2)
            np.testing.assert_array_equal(label, label2)
    assert not np.array_equal(whole[0][0], whole[3][0])


def test_images_that_cannot_be_read_are_listed_and_replaced(tmp_path, blocks):
    word = shards(tmp_path, [*JPEGS[:6], JPEGS[6][:80], *JPEGS[7:]])
    stream = open_images(word)
    bad = BadImages(stream, tmp_path / "bad.csv", max_rate=0.2)
    loader = ImageLoader(stream, 16, batch_size=4, shuffle=True, bad=bad)
    assert [len(batch.image) for batch in [*loader, *loader]] == [4] * 6
    assert list(bad.reasons) == [f"wds:{tmp_path}/s-001.tar#2"]
    assert "s-001.tar#2" in (tmp_path / "bad.csv").read_text()
    with pytest.raises(ToolkitError, match="1 of the 12 images"):
        list(ImageLoader(stream, 16, batch_size=4, bad=BadImages(stream, max_rate=0.0)))


def test_a_shard_that_ends_too_early_is_told_when_it_is_reached(tmp_path):
    word = shards(tmp_path)
    stream = open_images(word)
    file = tmp_path / "s-002.tar"
    file.write_bytes(file.read_bytes()[: file.read_bytes().index(b"0009.cls") + 1024])
    with pytest.raises(ToolkitError, match=r"s-002\.tar: it cannot be read beyond its first 1 images \("):
        list(ImageLoader(stream, 16, batch_size=4))


def test_compressed_shards_and_names_of_classes(tmp_path):
    import gzip

    file = packed.tar(tmp_path / "a.tar", [("1.jpg", JPEGS[0]), ("1.cls", b"bee"), ("2.jpg", JPEGS[1])])
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(file.read_bytes()))
    word = f"stream:2:wds:{tmp_path}/a.tar.gz"
    assert "the label 'bee' is text" in refusal(word)
    (tmp_path / "classes.json").write_text(json.dumps(packed.CLASSES))
    (batch,) = ImageLoader(open_images(word), 16)
    assert batch.label.tolist() == [1, -1]
    (tmp_path / "classes.json").write_text('["bee"]')
    packed.tar(tmp_path / "a.tar", [("1.jpg", JPEGS[0]), ("1.cls", b"1")])
    with pytest.raises(ToolkitError, match=r"a\.tar#0: its label is 1, and there are 1 classes"):
        list(ImageLoader(open_images(f"stream:1:wds:{tmp_path}/a.tar"), 16))


def test_what_looks_at_some_sees_the_first_and_parts_are_refused(tmp_path):
    stream = open_images(shards(tmp_path))
    assert len(stream.few()) == 12
    assert stream.few().labels.tolist() == packed.labels(12)
    assert "<table>" in stream._repr_html_()
    with pytest.raises(UsageError, match="is a stream, and here its images are needed in another order"):
        Subset(stream, np.array([1]))


def test_no_more_than_so_many_bytes_of_the_first_images_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "FIRST_BYTES", 2 * len(JPEGS[0]))
    stream = open_images(shards(tmp_path))
    assert 2 <= len(stream.few()) <= 3
    assert len(stream) == 12


def test_refusals(tmp_path):
    assert "only hf:... and wds:... can be streamed" in refusal("stream:shapes:train")
    word = packed.shards(tmp_path, JPEGS)
    assert f"say how many images an epoch has, as in stream:1000000:{word}" in refusal(f"stream:{word}")
    assert "there are no images in it" in refusal(f"stream:5:wds:{packed.tar(tmp_path / 'x.tar', [('a.txt', b'')])}")
    pytest.importorskip("datasets")
    assert "Bad split: val" in refusal(tables(tmp_path).replace(":train", ":val"))
    assert "give hf:NAME:SPLIT or hf:NAME:CONFIGURATION:SPLIT" in refusal("hf:a:b:c:train")


def test_labels_that_are_text_are_in_nobodys_way_where_none_are_wanted(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    cells = {"image": [{"bytes": JPEGS[0], "path": None}], "label": ["ant"]}
    datasets.Dataset.from_dict(cells, features=features).save_to_disk(tmp_path / "one")
    assert "the column 'label' is text" in refusal(f"stream:hf:{tmp_path}/one")
    (batch,) = ImageLoader(open_images(f"stream:hf:{tmp_path}/one", labels="none"), 16)
    assert batch.label.tolist() == [-1]


def test_the_next_block_is_read_meanwhile():
    made = []

    def numbers() -> Iterator[int]:
        for number in range(3):
            made.append(number)
            yield number

    ahead = streaming._ahead(numbers())
    assert next(ahead) == 0
    for _ in range(100):
        if made == [0, 1]:
            break
        time.sleep(0.01)
    assert made == [0, 1]
    assert list(ahead) == [1, 2]
