import torch

from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.pretext.autoencoder import Autoencoder


def test_the_map_s_measures_and_what_stands_behind_it_frozen() -> None:
    encoder = Encoder(EncoderConfig("test_convnext", image_size=64, load_size=64))
    method = Autoencoder(encoder, Autoencoder.default_views(64))
    image = torch.rand(1, 3, 64, 64)
    assert (method.width, method.stride) == (encoder.feature_map(image).shape[1], 32)
    frozen = [name for name, weight in encoder.named_parameters() if not weight.requires_grad]
    assert frozen
    assert all(name.startswith("backbone.head.norm") for name in frozen)
