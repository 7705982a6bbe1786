import numpy as np
import pytest
import torch

from ssl_toolkit.colours import lab_to_rgb, rgb_to_lab
from ssl_toolkit.pretext.ab_bins import (
    annealed_mean,
    candidate_table,
    constant_guess,
    gamut_bins,
    rebalancing_weights,
    smoothed,
    soft_encoding,
)

BINS = torch.tensor(gamut_bins(), dtype=torch.float32)


def test_bins_are_the_cells_of_colours_of_images() -> None:
    assert gamut_bins().shape == (261, 2)
    rgb = torch.rand(1, 3, 400, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ab = rgb_to_lab(rgb)[0, 1:].flatten(1).numpy()
    cells = {tuple(cell) for cell in (10 * np.round(ab / 10)).T}
    bins = {tuple(cell) for cell in gamut_bins()}
    assert cells <= bins
    assert len(cells) > 200
    for corner in ([1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 1]):
        lab = rgb_to_lab(torch.tensor(corner, dtype=torch.float64).view(1, 3, 1, 1)).flatten()
        assert tuple((10 * (lab[1:] / 10).round()).tolist()) in bins
    assert (60.0, -50.0) in bins
    assert (-60.0, -50.0) not in bins


def test_bins_are_in_order_and_cannot_be_changed() -> None:
    listed = gamut_bins().tolist()
    assert listed == sorted(listed)
    with pytest.raises(ValueError, match="read-only"):
        gamut_bins()[0] = 0


def soft_encoding_in_words(ab: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """(N, 2, h, w) to a distribution (N, Q, h, w), one position after another."""
    out = np.zeros((len(ab), len(bins), *ab.shape[2:]))
    for n, y, x in np.ndindex(len(ab), *ab.shape[2:]):
        distance = np.sqrt(((bins - ab[n, :, y, x]) ** 2).sum(axis=1))
        for q in np.argsort(distance)[:5]:
            out[n, q, y, x] = np.exp(-(distance[q] ** 2) / (2 * 5**2))
        out[n, :, y, x] /= out[n, :, y, x].sum()
    return out


def test_soft_encoding_is_its_definition() -> None:
    rgb = torch.rand(3, 3, 30, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rgb[0, :, 0] = torch.rand(3, 30, generator=torch.Generator().manual_seed(1)).round()  # corners of the gamut
    ab, bins = rgb_to_lab(rgb)[:, 1:], BINS.double()
    index, weight = soft_encoding(ab, bins, candidate_table(bins))
    assert index.shape == weight.shape == (3, 5, 30, 30)
    torch.testing.assert_close(weight.sum(dim=1), torch.ones(3, 30, 30, dtype=torch.float64))
    dense = torch.zeros(3, len(bins), 30, 30, dtype=torch.float64).scatter(1, index, weight)
    np.testing.assert_allclose(dense.numpy(), soft_encoding_in_words(ab.numpy(), bins.numpy()), atol=1e-12)
    nearest = (ab[:, None] - bins.view(1, -1, 2, 1, 1)).square().sum(dim=2).argmin(dim=1)
    assert torch.equal(index[:, 0], nearest)


def test_a_colour_at_the_centre_of_a_bin_is_mostly_in_it() -> None:
    index, weight = soft_encoding(torch.tensor([10.0, -20.0]).view(1, 2, 1, 1), BINS, candidate_table(BINS))
    assert BINS[index[0, 0, 0, 0]].tolist() == [10, -20]
    side = np.exp(-(10**2) / (2 * 5**2))
    np.testing.assert_allclose(weight.flatten(), np.array([1, side, side, side, side]) / (1 + 4 * side), rtol=1e-5)


def test_what_is_smoothed_stays_in_the_gamut() -> None:
    prior = torch.zeros(len(BINS))
    prior[0] = 1.0
    found = smoothed(prior, BINS)
    distance = (BINS - BINS[0]).square().sum(dim=1)
    kernel = (-distance / 50).exp()
    torch.testing.assert_close(found, kernel / kernel.sum())


def test_rebalancing_in_closed_form() -> None:
    prior = torch.tensor([0.7, 0.3, 0.0])
    weight = rebalancing_weights(prior, 0.5)
    raw = np.array([1 / (0.35 + 1 / 6), 1 / (0.15 + 1 / 6), 6.0])
    np.testing.assert_allclose(weight, raw / (0.7 * raw[0] + 0.3 * raw[1]), rtol=1e-6)
    assert (prior * weight).sum().item() == pytest.approx(1)
    torch.testing.assert_close(rebalancing_weights(5 * prior, 0.5), weight)  # shares, whatever their sum
    assert torch.equal(rebalancing_weights(prior, 1.0), torch.ones(3))


@pytest.mark.parametrize("lambda_", [0.01, 0.5, 1.0])
def test_an_unmeasured_prior_weighs_all_colours_alike(lambda_: float) -> None:
    torch.testing.assert_close(rebalancing_weights(torch.zeros(7), lambda_), torch.ones(7))


def test_the_best_constant_answer() -> None:
    prior, weight = torch.tensor([0.6, 0.4, 0.0]), torch.tensor([0.5, 1.75, 3.0])
    expected = 0.99 * np.array([0.3, 0.7, 0.0]) + 0.01 / 3
    np.testing.assert_allclose(constant_guess(prior, weight), expected, rtol=1e-6)
    torch.testing.assert_close(constant_guess(torch.zeros(4), torch.ones(4)), torch.full((4,), 0.25))


def test_annealed_mean_lies_between_mode_and_mean() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, len(BINS), 3, 4) * 3
    mode = BINS[logits.argmax(dim=1)].permute(0, 3, 1, 2)
    mean = torch.einsum("nqhw,qc->nchw", logits.softmax(dim=1), BINS)
    torch.testing.assert_close(annealed_mean(logits, BINS, 1e-4), mode, atol=1e-3, rtol=0)
    torch.testing.assert_close(annealed_mean(logits, BINS, 1.0), mean, atol=1e-4, rtol=0)
    p = logits.softmax(dim=1)
    sharpened = (p.log() / 0.38).exp() / (p.log() / 0.38).exp().sum(dim=1, keepdim=True)  # eq. 5
    torch.testing.assert_close(
        annealed_mean(logits, BINS, 0.38), torch.einsum("nqhw,qc->nchw", sharpened, BINS), atol=1e-3, rtol=1e-4
    )


def test_mixed_precision_does_not_round_colours() -> None:
    logits = torch.randn(1, len(BINS), 2, 2, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = annealed_mean(logits, BINS, 0.38)
    assert torch.equal(found, annealed_mean(logits.float(), BINS, 0.38))


def test_true_colours_come_back_from_their_soft_targets() -> None:
    """Targets, painted, are the image again, but for the grid: ab is in the right unit and order."""
    rgb = 0.3 + 0.4 * torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    lab = rgb_to_lab(rgb)
    index, weight = soft_encoding(lab[:, 1:], BINS, candidate_table(BINS))
    dense = torch.zeros(1, len(BINS), 8, 8).scatter(1, index, weight)
    ab = annealed_mean(dense.clamp(min=1e-30).log(), BINS, 1.0)
    assert (lab_to_rgb(torch.cat([lab[:, :1], ab], dim=1)) - rgb).abs().mean() < 0.02
