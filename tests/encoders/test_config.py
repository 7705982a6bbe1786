"""What an encoder is said to be: choices made, nonsense refused."""

import pytest

from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.errors import UsageError


def build(name: str, size: int = 32, **options: object) -> Encoder:
    return Encoder(EncoderConfig(name, image_size=size, load_size=size, **options)).eval()  # type: ignore[arg-type]


def test_normalisation_is_one_value_a_channel_from_0_to_1() -> None:
    for wrong in (
        {"mean": (0.5,)},
        {"mean": (123.0, 116.0, 103.0)},
        {"std": (0.2, 0.2, 0.0)},
        {"std": (0.2, 0.2, -0.2)},
    ):
        with pytest.raises(
            UsageError, match="must have one value for each of 3 channels: from 0 to 1, and those of std"
        ):
            build("convnet", **wrong)


def test_lightness_is_of_rgb_images() -> None:
    with pytest.raises(UsageError, match="an encoder of lightness takes RGB images, these have 1 channels"):
        Encoder(EncoderConfig("convnet", channels=1, image_size=16, load_size=16, colours="lightness"))
