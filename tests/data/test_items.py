from __future__ import annotations

import pytest

from ssl_toolkit.data.images import decode_image
from ssl_toolkit.data.items import open_item, state_of
from ssl_toolkit.errors import UsageError
from tests.data import packed
from tests.data.small_files import paint


def test_open_item_beyond_the_end_or_missing(tmp_path):
    with pytest.raises(UsageError, match="the set has 5 images, the last is #4"):
        open_item("shapes:test:5#5")
    with pytest.raises(UsageError, match="no such image"):
        open_item(str(tmp_path / "none.png"))
    assert open_item(str(paint(tmp_path / "file#3/x#1.png"))).shape == (3, 4, 6)


def test_the_file_that_an_image_lies_in(tmp_path):
    file, other = paint(tmp_path / "a,b=c#1.png"), packed.tar(tmp_path / "x.tar", [])
    for path in (f"{file}", f"{file}#7"):
        assert state_of(path).st_ino == file.stat().st_ino
    for word in ("wds:{}#3", "wds:{},image=left.png#3", "hf:{},image=a,label=b#0", "{}#12"):
        assert state_of(word.format(other)).st_ino == other.stat().st_ino
    for path in ("shapes:test#3", "nowhere.png", "", f"{tmp_path}/none.tar#1"):
        assert state_of(path) is None


def test_a_shard_that_is_written_anew_is_read_anew(tmp_path):
    for data in packed.jpegs(2):
        packed.tar(tmp_path / "s-000.tar", [("0.jpg", data)])
        assert (open_item(f"wds:{tmp_path}/s-000.tar#0") == decode_image(data)).all()
