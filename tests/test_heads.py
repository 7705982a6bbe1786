import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from ssl_toolkit.heads import CosinePrototypes, dino_head, mlp
from tests import every_method


def test_layers() -> None:
    head = mlp(8, 16, 4)
    assert [type(layer) for layer in head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert head[0].bias is None
    assert head[3].bias is not None
    assert head(torch.rand(3, 8)).shape == (3, 4)


def test_one_layer_is_linear() -> None:
    assert [type(layer) for layer in mlp(8, 4)] == [nn.Linear]


def test_without_norm_every_layer_has_a_bias() -> None:
    head = mlp(8, 16, 16, 4, norm=False, activation=nn.GELU)
    assert [type(layer) for layer in head] == [nn.Linear, nn.GELU, nn.Linear, nn.GELU, nn.Linear]
    assert all(layer.bias is not None for layer in head[::2])


def test_a_norm_at_the_end_has_no_scale_and_no_shift() -> None:
    head = mlp(8, 16, 4, last_norm=True)
    assert [type(layer) for layer in head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d]
    assert head[3].bias is None
    assert not list(head[4].parameters())
    assert list(head[1].parameters())


def test_heads_of_authors_who_say_so_start_small() -> None:
    heads = {"dino": dino_head(64, 64, 64, 5)[0], "msn": every_method.make("msn").head}
    for head in heads.values():
        for layer in (each for each in head if isinstance(each, nn.Linear)):
            assert abs(layer.weight.std() / 0.02 - 1) < 5 / (2 * layer.weight.numel()) ** 0.5
            assert layer.bias is None or not layer.bias.any()


def test_prototypes_are_cosines() -> None:
    prototypes, x = CosinePrototypes(3, 5), torch.randn(4, 3)
    expected = nn.functional.cosine_similarity(x[:, None], prototypes.weight[None], dim=2)
    torch.testing.assert_close(prototypes(x), expected)


def test_prototypes_count_by_their_direction_alone() -> None:
    prototypes, x = CosinePrototypes(3, 5), torch.randn(4, 3)
    before = prototypes(x)
    before.square().sum().backward()
    weight, grad = prototypes.weight.detach(), prototypes.weight.grad
    torch.testing.assert_close((weight * grad).sum(1), torch.zeros(5), atol=1e-4, rtol=0)
    with torch.no_grad():
        prototypes.weight *= torch.tensor([[0.1], [1.0], [3.0], [10.0], [50.0]])
    torch.testing.assert_close(prototypes(7 * x), before)


def test_prototypes_that_learn_their_length_are_torchs_weight_norm() -> None:
    """DINO's last layer without ``norm_last_layer``: a weight-normalised linear layer whose magnitude is trained."""
    torch.manual_seed(0)
    ours, theirs = CosinePrototypes(4, 6, unit=False).double(), nn.Linear(4, 6, bias=False).double()
    theirs.weight.data.copy_(ours.weight.data)
    weight_norm(theirs)  # by rows
    theirs.parametrizations.weight.original0.data.fill_(1)
    x = F.normalize(torch.randn(5, 4, dtype=torch.float64), dim=1)
    assert ours.length is not None
    for _ in range(2):
        torch.testing.assert_close(ours(x), theirs(x))
        for head in (ours, theirs):
            head.zero_grad()
            head(x).square().sum().backward()
        lengths, directions = theirs.parametrizations.weight.original0, theirs.parametrizations.weight.original1
        torch.testing.assert_close(ours.length.grad, lengths.grad)
        torch.testing.assert_close(ours.weight.grad, directions.grad)
        for p in (ours.length, ours.weight, lengths, directions):
            p.data -= 0.1 * p.grad
    assert not torch.allclose(ours.length, torch.ones_like(ours.length))


def test_prototypes_have_no_length_to_learn_by_themselves() -> None:
    assert [name for name, _ in CosinePrototypes(4, 6).named_parameters()] == ["weight"]
