import pytest
import torch

from ssl_toolkit.encoders import ConvNet
from ssl_toolkit.errors import UsageError


def test_half_a_million_weights_and_a_map_of_an_eighth_of_the_side() -> None:
    network = ConvNet()
    assert 0.53e6 < sum(weight.numel() for weight in network.parameters()) < 0.55e6
    assert network.forward_features(torch.rand(2, 3, 32, 48)).shape == (2, 256, 4, 6)


def test_it_has_no_classifier() -> None:
    with pytest.raises(UsageError, match="num_classes must be 0"):
        ConvNet(num_classes=10)
