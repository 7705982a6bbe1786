import pytest
import torch

from ssl_toolkit.pretext.decoder import Decoder, psnr


@pytest.mark.parametrize(("stride", "size"), [(8, (32, 32)), (14, (56, 56)), (8, (36, 30))])
def test_a_decoder_gives_the_size_that_is_asked_for(stride: int, size: tuple[int, int]) -> None:
    features = torch.rand(2, 16, -(-size[0] // stride), -(-size[1] // stride))
    assert Decoder(16, 3, stride)(features, size).shape == (2, 3, *size)


def test_psnr_of_known_errors() -> None:
    image = torch.rand(2, 3, 4, 4)
    assert psnr(image + 0.1, image).item() == pytest.approx(20, abs=1e-3)
    assert psnr(image + 0.01, image).item() == pytest.approx(40, abs=1e-2)
