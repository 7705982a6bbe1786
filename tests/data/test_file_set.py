from __future__ import annotations

import pickle

import pytest

from ssl_toolkit.data.file_set import PathList


def test_a_hundred_thousand_paths_stay_compact():
    listed = [f"class{i % 100:03d}/image_{i:06d}.jpg".encode() for i in range(100_000)]
    paths = PathList("/data", listed)
    size = len(pickle.dumps(paths))
    assert size < sum(map(len, listed)) + 8 * len(listed) + 1_000  # no str objects: those take some 50 bytes more each
    assert len(paths) == 100_000
    assert paths[12_345] == "/data/class045/image_012345.jpg"
    assert pickle.loads(pickle.dumps(paths))[99_999] == "/data/class099/image_099999.jpg"
    for outside in (100_000, -1):
        with pytest.raises(IndexError):
            paths[outside]
