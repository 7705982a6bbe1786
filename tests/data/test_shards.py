from __future__ import annotations

import json
import pickle

import fsspec
import numpy as np
import pytest

from ssl_toolkit.data.images import BadImageError, decode_image
from ssl_toolkit.data.items import open_item
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.data.shards import Places, expand, write_list
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.errors import ToolkitError
from tests.data import packed
from tests.data.small_files import refusal

JPEGS = packed.jpegs(10)


def test_images_and_labels_come_in_the_order_of_the_shards(tmp_path):
    images = open_images(packed.shards(tmp_path, JPEGS))
    assert len(images) == 10
    assert images.labels.tolist() == packed.labels(10)
    assert images.classes == ["0", "1", "2"]
    for i, data in enumerate(JPEGS):
        np.testing.assert_array_equal(images.load(i, 12), decode_image(data, size=12))
    assert images.path(4) == f"wds:{tmp_path}/s-001.tar#0"
    np.testing.assert_array_equal(open_item(images.path(5)), decode_image(JPEGS[5]))
    with pytest.raises(IndexError):
        images.load(10, None)


@pytest.mark.parametrize(
    "word", ["wds:{0}/s-{{000..002}}.tar", "wds:{0}/*.tar", "wds:{0}", "wds:file://{0}/s-00{{0,1,2}}.tar"]
)
def test_words_for_the_same_shards(tmp_path, word):
    packed.shards(tmp_path, JPEGS)
    images = open_images(word.format(tmp_path))
    assert len(images) == 10
    np.testing.assert_array_equal(images.load(9, None), decode_image(JPEGS[9]))


def test_a_tar_file_by_its_path(tmp_path):
    packed.shards(tmp_path, JPEGS)
    assert len(open_images(tmp_path / "s-000.tar")) == 4


def test_shards_in_an_object_store(tmp_path):
    packed.shards(tmp_path, JPEGS)
    store = fsspec.filesystem("memory")
    store.put(f"{tmp_path}/", "/bucket/", recursive=True)
    for word in ("wds:memory://bucket/s-{000..002}.tar", "wds:memory://bucket/*.tar", "wds:memory://bucket"):
        images = open_images(word)
        assert images.labels.tolist() == packed.labels(10)
        np.testing.assert_array_equal(images.load(7, None), decode_image(JPEGS[7]))
    # Forked readers do not share what the file system holds open.
    assert sum(len(batch.label) for batch in ImageLoader(images, 16, batch_size=4, workers=2)) == 10
    np.testing.assert_array_equal(open_item(images.path(9)), decode_image(JPEGS[9]))


def test_labels_of_json_and_text_and_the_first_image_of_a_sample(tmp_path):
    members = [
        *(("a/0001.left.jpg", JPEGS[0]), ("a/0001.right.jpg", JPEGS[1]), ("a/0001.json", b'{"label": "bee", "f": 2}')),
        *(("a/0002.left.jpg", JPEGS[2]), ("a/0002.json", b'{"label": "ant", "f": 1}')),
        *(("b/0002.left.jpg", JPEGS[3]), ("b/0002.json", b"{broken"), ("b/0002.pyd", b"cos\nsystem\n")),
        ("b/0003.txt", b"no image here"),
    ]  # fmt: skip
    file = packed.tar(tmp_path / "a.tar", members)
    images = open_images(file)
    assert (images.labels.tolist(), images.classes) == ([1, 0, -1], ["ant", "bee"])
    np.testing.assert_array_equal(images.load(0, None), decode_image(JPEGS[0]))
    fields = open_images(f"wds:{file},label=f,image=right.jpg")
    assert fields.labels.tolist() == [2]
    np.testing.assert_array_equal(fields.load(0, None), decode_image(JPEGS[1]))
    np.testing.assert_array_equal(open_item(fields.path(0)), decode_image(JPEGS[1]))


def test_shards_of_text_of_numbers_and_of_no_labels_together(tmp_path):
    packed.tar(tmp_path / "a.tar", [("1.jpg", JPEGS[0]), ("1.cls", b"bee")])
    packed.tar(tmp_path / "b.tar", [("1.jpg", JPEGS[1])])
    packed.tar(tmp_path / "c.tar", [("1.jpg", JPEGS[2]), ("1.cls", b"7")])
    images = open_images(f"wds:{tmp_path}")
    assert (images.labels.tolist(), images.classes) == ([1, -1, 0], ["7", "bee"])


def test_names_of_classes_from_the_folder(tmp_path):
    word = packed.shards(tmp_path, JPEGS)
    (tmp_path / "classes.json").write_text(json.dumps(packed.CLASSES))
    assert open_images(word).classes == packed.CLASSES
    (tmp_path / "classes.json").write_text('["one"]')
    assert "does not name the class '1'" in refusal(word)
    (tmp_path / "classes.json").write_text('{"one": 1}')
    assert "is no list of names of classes" in refusal(word)
    assert open_images(word, labels="none").classes is None


def test_labels_that_are_text_have_the_numbers_that_the_folder_states(tmp_path):
    members = [("1.jpg", JPEGS[0]), ("1.cls", b"cat"), ("2.jpg", JPEGS[1]), ("3.jpg", JPEGS[2]), ("3.cls", b"ant")]
    file = packed.tar(tmp_path / "a.tar", members)
    (tmp_path / "classes.json").write_text('["dog", "cat", "bee", "ant"]')
    images = open_images(file)
    assert (images.labels.tolist(), images.classes) == ([1, -1, 3], ["dog", "cat", "bee", "ant"])
    (batch,) = ImageLoader(open_images(f"stream:3:wds:{file}"), 16)
    assert batch.label.tolist() == [1, -1, 3]
    (tmp_path / "classes.json").write_text('["dog", "cat"]')
    assert "does not name the class 'ant'" in refusal(str(file))


def test_folders_that_state_other_classes_are_not_read_as_one(tmp_path):
    for name in ("birds", "cats"):
        packed.shards(tmp_path / name, JPEGS[:3], 1)
        (tmp_path / name / "classes.json").write_text(json.dumps([f"{name} {n}" for n in range(3)]))
    word = f"wds:{tmp_path}/{{birds,cats}}/*.tar"
    for each in (word, f"stream:6:{word}"):
        assert f"{tmp_path}/birds and {tmp_path}/cats state other classes" in refusal(each)
        assert len(open_images(each, labels="none")) == 6


def test_what_is_being_written_is_no_shard(tmp_path):
    packed.shards(tmp_path, JPEGS)
    (tmp_path / ".s-003.tar").write_bytes(b"half")
    assert len(open_images(f"wds:{tmp_path}")) == len(open_images(f"wds:{tmp_path}/*.tar")) == 10


def test_a_label_that_no_image_has_is_refused_and_names_of_files_have_no_case(tmp_path):
    file = packed.tar(tmp_path / "a.tar", [("1.Left.JPG", JPEGS[0]), ("1.Kind", b"4")])
    assert "no image has a file or a field 'knd' with its label" in refusal(f"wds:{file},label=knd")
    assert open_images(f"wds:{file},image=Left.JPG,label=Kind").labels.tolist() == [4]
    assert open_images(f"{file},label=kind").labels.tolist() == [4]
    assert "'kind=' is none of" in refusal(f"{file},kind=4")
    assert "no such file or folder" in refusal("nowhere.tar,label=kind")


def test_a_number_that_is_too_large_for_a_class_is_a_name(tmp_path):
    members = [("1.jpg", JPEGS[0]), ("1.json", b'{"label": 123456789012345678901234567890}')]
    images = open_images(packed.tar(tmp_path / "a.tar", members))
    assert (images.labels.tolist(), images.classes) == ([0], ["123456789012345678901234567890"])


def test_the_list_beside_a_shard_is_taken_if_it_is_of_that_shard(tmp_path):
    word = packed.shards(tmp_path, JPEGS[:2], 1)
    # A list that leaves the first image out: whoever reads it sees one.
    write_list(f"{tmp_path}/s-000.tar", Places(np.array([0]), np.array([8]), np.array([5])))
    assert open_images(word).labels.tolist() == [5]
    with (tmp_path / "s-000.tar").open("ab") as file:
        file.write(bytes(512))
    assert open_images(word).labels.tolist() == [0, 1]


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    packed.tar(tmp_path / "a.tar", [("0.jpg", JPEGS[0]), ("1.jpg", JPEGS[1][:99]), ("2.jpg", b"")])
    images = open_images(tmp_path / "a.tar")
    for row in (1, 2):
        with pytest.raises(BadImageError, match=rf"wds:{tmp_path}/a\.tar#{row}: "):
            images.load(row, None)
        with pytest.raises(BadImageError):
            images.check(row)
    images.check(0)
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:600])
    with pytest.raises(BadImageError, match=r"#0: the shard ends \d+ bytes too early"):
        images.load(0, None)


def test_an_image_file_beyond_all_measure_is_not_read_into_memory(tmp_path, monkeypatch):
    file = packed.tar(tmp_path / "a.tar", [("0.jpg", JPEGS[0]), ("1.jpg", JPEGS[1])])
    images = open_images(file)
    for module in ("tar", "shards"):
        monkeypatch.setattr(f"ssl_toolkit.data.{module}.MAX_IMAGE", 100)
    with pytest.raises(BadImageError, match="larger than 100 bytes"):
        images.load(0, None)
    with pytest.raises(ToolkitError, match="cannot be read"):
        list(ImageLoader(open_images(f"stream:2:wds:{file}"), 16))


def test_sets_of_shards_pickle_small(tmp_path):
    images = pickle.loads(pickle.dumps(open_images(packed.shards(tmp_path, JPEGS))))
    np.testing.assert_array_equal(images.load(3, None), decode_image(JPEGS[3]))


def test_deep_images_in_shards_keep_their_depth(tmp_path):
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(file, "PNG")
    images = open_images(packed.tar(tmp_path / "a.tar", [("0.png", file.getvalue())]), range="0,4095")
    assert images.dtype == np.uint16
    assert images.load(0, None).max() == round(4000 / 4095 * 65535)


def test_refusals_in_one_line_each(tmp_path):
    word = packed.shards(tmp_path / "s", JPEGS)
    (tmp_path / "s" / "s-001.tar").rename(tmp_path / "gone")
    assert f"1 of 3 shards are missing: {tmp_path}/s/s-001.tar" in refusal(word)
    short = (tmp_path / "gone").read_bytes()
    (tmp_path / "s" / "s-001.tar").write_bytes(short[: len(short) // 2])
    assert "s-001.tar: cut short, damaged or no tar file" in refusal(word)
    (tmp_path / "s" / "s-001.tar").write_text("text" * 500)
    assert "s-001.tar: cut short, damaged or no tar file" in refusal(word)
    assert "no images in 1 shards" in refusal(f"wds:{packed.tar(tmp_path / 'b.tar', [('a.txt', b'x')])}")
    assert f"no shards (.tar) there: {tmp_path}/*.tarx" in refusal(f"wds:{tmp_path}/*.tarx")
    assert f"no shards (.tar) there: {tmp_path}/t/*.tar" in refusal(f"wds:{tmp_path}/{{s,t}}/*.tar")
    assert "no shards (.tar) there" in refusal(f"wds:{tmp_path}/{{2..1}}.tar")
    assert "pipe" in refusal("wds:pipe://cat x.tar")
    assert "shards are missing: " in refusal("wds:pipe:cat x.tar")
    assert "'lable=' is none of image=COLUMN" in refusal(word + ",lable=x")


def test_a_shard_that_is_cut_anywhere_is_refused(tmp_path):
    whole = packed.tar(tmp_path / "a.tar", [("a.jpg", JPEGS[0][:700]), ("b.cls", b"1"), ("c.jpg", b"abc")]).read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for cut in range(1, end, 100):
        (tmp_path / "b.tar").write_bytes(whole[:cut])
        assert "b.tar: cut short, damaged or no tar file" in refusal(str(tmp_path / "b.tar"))
    (tmp_path / "b.tar").write_bytes(whole[:end] + bytes(512))
    assert len(open_images(tmp_path / "b.tar")) == 2


def test_expand():
    assert list(expand("a-{08..11}")) == ["a-08", "a-09", "a-10", "a-11"]
    assert list(expand("{x,y}{0..1}")) == ["x0", "x1", "y0", "y1"]
    assert list(expand("plain{}")) == ["plain{}"]


def test_shards_that_webdataset_wrote(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(f"{tmp_path}/w-%06d.tar", maxcount=4, verbose=0) as writer:
        for i, data in enumerate(JPEGS):
            writer.write({"__key__": f"{i:05d}", "jpg": data, "cls": i % 3})
    images = open_images(f"wds:{tmp_path}/w-{{000000..000002}}.tar")
    assert images.labels.tolist() == [i % 3 for i in range(10)]
    np.testing.assert_array_equal(images.load(9, None), decode_image(JPEGS[9]))


def test_a_server_that_fails_in_its_own_words_is_told_in_a_line(tmp_path, monkeypatch):
    from ssl_toolkit.data import shards

    def failing(*args: object, **options: object) -> None:
        raise RuntimeError("402 payment\nrequired")

    word = packed.shards(tmp_path, JPEGS)
    monkeypatch.setattr(shards, "samples", failing)
    assert "s-000.tar: cut short, damaged or no tar file (402 payment)" in refusal(word)
