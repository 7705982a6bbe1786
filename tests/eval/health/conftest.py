"""What tests of health look at: images that tell a collapse from a training within an epoch."""

from __future__ import annotations

import pytest

from ssl_toolkit.data.loader import BadImages, InMemory
from ssl_toolkit.data.sources import ImageSet, open_images


@pytest.fixture(scope="session")
def shapes() -> ImageSet:
    images = open_images("shapes:train:1000")
    return InMemory(images, 16, BadImages(images))
