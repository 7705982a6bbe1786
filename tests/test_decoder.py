import pytest
import torch

from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.pretext.decoder import Decoder, psnr, width_and_stride


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("convnet", 32, (256, 8)),
        ("resnet18", 64, (512, 32)),
        ("resnet18", 32, (512, 8)),
        ("vit_tiny_patch16_224", 64, (192, 16)),
    ],
)
def test_width_and_stride_are_those_of_the_feature_map(name: str, size: int, expected: tuple[int, int]) -> None:
    encoder = Encoder(EncoderConfig(name, image_size=size, load_size=size)).train()
    statistics = {k: v.clone() for k, v in encoder.state_dict().items()}
    assert width_and_stride(encoder) == expected
    assert encoder.training
    assert all(torch.equal(v, statistics[k]) for k, v in encoder.state_dict().items())


@pytest.mark.parametrize(("stride", "size"), [(8, (32, 32)), (14, (56, 56)), (8, (36, 30))])
def test_a_decoder_gives_the_size_that_is_asked_for(stride: int, size: tuple[int, int]) -> None:
    features = torch.rand(2, 16, -(-size[0] // stride), -(-size[1] // stride))
    assert Decoder(16, 3, stride)(features, size).shape == (2, 3, *size)


def test_psnr_of_known_errors() -> None:
    image = torch.rand(2, 3, 4, 4)
    assert psnr(image + 0.1, image).item() == pytest.approx(20, abs=1e-3)
    assert psnr(image + 0.01, image).item() == pytest.approx(40, abs=1e-2)
