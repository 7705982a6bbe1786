import numpy as np
import pytest
import torch

from ssl_toolkit.colours import lab_to_rgb, rgb_to_lab

# CIE Lab (D65) of sRGB colours, as colour science tables have them.
KNOWN = {
    (1.0, 1.0, 1.0): (100.0, 0.0, 0.0),
    (0.0, 0.0, 0.0): (0.0, 0.0, 0.0),
    (1.0, 0.0, 0.0): (53.24, 80.09, 67.20),
    (0.0, 1.0, 0.0): (87.73, -86.18, 83.18),
    (0.0, 0.0, 1.0): (32.30, 79.19, -107.86),
    (0.5, 0.5, 0.5): (53.39, 0.0, 0.0),
}


@pytest.mark.parametrize(("rgb", "lab"), KNOWN.items())
def test_known_colours(rgb: tuple[float, ...], lab: tuple[float, ...]) -> None:
    found = rgb_to_lab(torch.tensor(rgb).view(1, 3, 1, 1)).flatten()
    np.testing.assert_allclose(found, lab, atol=0.05)


def test_there_and_back() -> None:
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(lab_to_rgb(rgb_to_lab(image)), image, atol=1e-4, rtol=0)


def test_greys_have_no_colour_at_all() -> None:
    grey = torch.linspace(0, 1, 256).view(1, 1, 16, 16).expand(-1, 3, -1, -1)
    assert not rgb_to_lab(grey)[:, 1:].any()
    level = torch.tensor([[100.0, 100.0, 101.0], [100.0, 101.0, 100.0], [101.0, 100.0, 100.0]]).T / 255
    assert (rgb_to_lab(level.view(1, 3, 1, 3))[:, 1:].abs().amax(dim=1) > 0.1).all()


def test_mixed_precision_loses_nothing() -> None:
    image = torch.rand(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = rgb_to_lab(image)
    assert found.dtype == torch.float32
    assert torch.equal(found, rgb_to_lab(image))
    assert torch.equal(rgb_to_lab(image.double()).float().round(), rgb_to_lab(image).round())


def test_gradient_is_finite_at_black_and_white() -> None:
    image = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).repeat(1, 3, 1, 1).requires_grad_()
    rgb_to_lab(image)[:, 0].sum().backward()
    assert torch.isfinite(image.grad).all()  # type: ignore[arg-type]
