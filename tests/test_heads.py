import torch
from torch import nn

from ssl_toolkit.heads import mlp


def test_layers() -> None:
    head = mlp(8, 16, 4)
    assert [type(layer) for layer in head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert head[0].bias is None
    assert head[3].bias is not None
    assert head(torch.rand(3, 8)).shape == (3, 4)


def test_one_layer_is_linear() -> None:
    assert [type(layer) for layer in mlp(8, 4)] == [nn.Linear]
