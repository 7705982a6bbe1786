"""What tests of health look at: images that tell a collapse from a training within an epoch."""

from __future__ import annotations

import pytest

from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.cache import InMemory
from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.data.sources import open_images


@pytest.fixture(scope="session")
def shapes() -> ImageSet:
    images = open_images("shapes:train:1000")
    return InMemory(images, 16, BadImages(images))
