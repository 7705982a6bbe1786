from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest

from ssl_toolkit.data.image_set import Subset
from ssl_toolkit.data.images import BadImageError, decode_image
from ssl_toolkit.data.items import open_item
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.data.sources import open_images
from tests.data import packed
from tests.data.small_files import refusal

JPEGS = packed.jpegs(10)


def written(place: str, images: list[bytes | None] = JPEGS, **more: list[object]) -> str:
    lance, pa = pytest.importorskip("lance"), pytest.importorskip("pyarrow")
    names = [packed.CLASSES[label] for label in packed.labels(len(images))]
    columns = {"image": pa.array(images, pa.binary()), "label": pa.array(names), **more}
    lance.write_dataset(pa.table(columns), place, max_rows_per_file=4)
    return place


def test_a_table_by_its_path_word_and_url(tmp_path):
    place = written(f"{tmp_path}/a.lance")
    for word in (
        place,
        f"lance:{place}",
        f"lance:file://{place}",
        f"lance:{place},image=image,label=label",
        f"{place},image=image",
    ):
        images = open_images(word)
        assert (images.classes, images.labels.tolist()) == (packed.CLASSES, packed.labels(10))
        for i, data in enumerate(JPEGS):
            np.testing.assert_array_equal(images.load(i, 12), decode_image(data, size=12))
        np.testing.assert_array_equal(open_item(images.path(7)), decode_image(JPEGS[7]))
    with pytest.raises(IndexError):
        images.load(10, None)


def test_workers_and_the_object_itself(tmp_path):
    place = written(f"{tmp_path}/a.lance")
    import lance

    images = open_images(lance.dataset(place))
    lance.dataset(place).delete("label = 'ant'")  # another version: what is being read stays as it is
    one, other = (
        [batch.image.numpy() for batch in ImageLoader(each, 16, workers=workers)]
        for each, workers in ((images, 1), (pickle.loads(pickle.dumps(images)), 0))
    )
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(one[0], [decode_image(data, size=16) for data in JPEGS])
    assert len(open_images(place)) == 10 - packed.labels(10).count(0)


@pytest.mark.parametrize(("most", "asked"), [(9, [[7, 1, 4]]), (1, [[7], [1], [1], [4]])])
def test_a_batch_is_one_question_or_if_that_fails_one_for_each_image(tmp_path, most, asked):
    images = open_images(written(f"{tmp_path}/a.lance"))
    table, answered = images._table(), []

    class Table:
        def take(self, rows, columns):
            if len(rows) > most:
                raise OSError("too much at once")
            answered.append(rows)
            return table.take(rows, columns=columns)

    images._opened = Table()
    (batch,) = ImageLoader(Subset(images, np.array([7, 1, 1, 4])), 16)
    assert answered == asked
    np.testing.assert_array_equal(batch.image, [decode_image(JPEGS[row], size=16) for row in (7, 1, 1, 4)])


def test_its_readers_are_no_forks_which_die_now_and_then(tmp_path):
    images = open_images(written(f"{tmp_path}/a.lance"))
    for each in (images, Subset(images, np.arange(4))):
        assert not each.forks
        assert ImageLoader(each, 16, workers=1)._loader.multiprocessing_context.get_start_method() == "spawn"
    assert ImageLoader(Subset(images, np.arange(4)), 16)._loader.multiprocessing_context is None


def test_bad_images_and_other_columns(tmp_path):
    place = written(f"{tmp_path}/a.lance", [JPEGS[0], JPEGS[1][:99], None, b""], size=[1.5] * 4, fine=[7, 0, -1, None])
    images = open_images(f"lance:{place},label=fine")
    assert images.labels.tolist() == [7, 0, -1, -1]
    images.check(0)
    for row in (1, 2, 3):
        with pytest.raises(BadImageError, match=rf"a\.lance#{row}: "):
            images.load(row, None)
    assert "holds no images, but double" in refusal(f"lance:{place},image=size")
    assert "holds neither class numbers nor text, but double" in refusal(f"lance:{place},label=size")
    assert "did you mean size" in refusal(f"lance:{place},image=siez")


def test_refusals(tmp_path, monkeypatch):
    pytest.importorskip("lance")
    assert "cannot be opened as a Lance table" in refusal(f"lance:{tmp_path}/none.lance")
    (tmp_path / "empty.lance").mkdir()
    assert "cannot be opened as a Lance table" in refusal(f"{tmp_path}/empty.lance")
    monkeypatch.setitem(sys.modules, "lance", None)
    assert "pip install '.[lance]'" in refusal(f"lance:{tmp_path}/a.lance")
