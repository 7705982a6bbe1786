from __future__ import annotations

import pytest

from ssl_toolkit.data.items import open_item
from ssl_toolkit.errors import UsageError
from tests.data.small_files import paint


def test_open_item_beyond_the_end_or_missing(tmp_path):
    with pytest.raises(UsageError, match="the set has 5 images, the last is #4"):
        open_item("shapes:test:5#5")
    with pytest.raises(UsageError, match="no such image"):
        open_item(str(tmp_path / "none.png"))
    assert open_item(str(paint(tmp_path / "file#3/x#1.png"))).shape == (3, 4, 6)
