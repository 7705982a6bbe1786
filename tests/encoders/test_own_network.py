"""A network of the user's own behind timm's names: forms of features, memory layouts, fresh weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.encoders.own_network import OwnNetwork
from ssl_toolkit.errors import UsageError

PLAIN = EncoderConfig("", image_size=16, load_size=16, mean=(0.0,) * 3, std=(1.0,) * 3)


class Tokens(nn.Module):
    """An image as tokens of one row of pixels each."""

    def forward(self, image: Tensor) -> Tensor:
        return image.view(len(image), 3 * image.shape[2], -1)  # only of a contiguous image


class Odd(nn.Module):
    def __init__(self, given: object) -> None:
        super().__init__()
        self.given = given

    def forward(self, image: Tensor) -> object:
        return self.given


def test_features_are_the_mean_over_positions_or_tokens() -> None:
    torch.manual_seed(0)
    network, image = nn.Conv2d(3, 5, 3), torch.rand(2, 3, 16, 16)
    encoder = Encoder(PLAIN, network)
    assert encoder.feature_dim == 5
    torch.testing.assert_close(encoder(image), network(image).mean(dim=(2, 3)))
    torch.testing.assert_close(encoder.feature_map(image), network(image))
    torch.testing.assert_close(Encoder(PLAIN, Tokens())(image), image.mean(dim=(1, 2)))
    assert list(encoder.layers(image)) == ["output"]


def test_the_pass_that_looks_at_it_leaves_it_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    OwnNetwork(network, 3, 16)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Conv2d(1, 4, 3), r"Conv2d> cannot take images \(2, 3, 16, 16\): "),
        (Odd((1, 2)), r"Odd> makes a tuple of 2 images: it must give a tensor"),
        (Odd(torch.zeros(2)), r"makes \(2,\) of 2 images"),
        (Odd(torch.zeros(1, 5)), r"makes \(1, 5\) of 2 images"),
    ],
)
def test_what_is_no_encoder_is_refused_in_a_line(network: nn.Module, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        OwnNetwork(network, 3, 16)
    assert "\n" not in str(error.value)


def test_vectors_give_no_map() -> None:
    encoder = Encoder(PLAIN, nn.Sequential(nn.Flatten(), nn.Linear(768, 4)))
    with pytest.raises(UsageError, match=r"gives features \(2, 4\), and feature maps \(N, D, h, w\) are needed"):
        encoder.feature_map(torch.rand(2, 3, 16, 16))


def test_fresh_weights_are_all_new_and_the_same_for_a_seed() -> None:
    encoder = Encoder(PLAIN, nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)))
    fresh, again = encoder.reinitialized(3), encoder.reinitialized(3)
    assert fresh.sha256 == again.sha256
    for layer in (0, 2):
        assert not torch.equal(fresh.backbone.module[layer].weight, encoder.backbone.module[layer].weight)
    loose = nn.Sequential(nn.Conv2d(3, 4, 3))
    loose.token = nn.Parameter(torch.zeros(3))
    with pytest.raises(UsageError, match=r"which holds 'token', has no reset_parameters"):
        Encoder(PLAIN, loose).reinitialized(0)
