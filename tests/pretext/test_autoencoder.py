from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.pretext.autoencoder import Autoencoder, corrupt, gaussian_kl
from ssl_toolkit.pretext.decoder import psnr
from tests.conftest import small_shapes

FILL = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)


def made(encoder: Encoder, **options: Any) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(encoder, Autoencoder.default_views(16), **options)


def step(method: Autoencoder, image: torch.Tensor) -> dict[str, torch.Tensor]:
    return method.step([image], None)  # type: ignore[arg-type]


def test_a_share_of_the_pixels_is_blotted_out_and_the_rest_left_alone() -> None:
    torch.manual_seed(0)
    image = torch.rand(20, 3, 32, 32)
    seen = corrupt(image, 0.0, 0.25, FILL)
    hidden = (seen == FILL).all(dim=1)
    assert hidden.float().mean().item() == pytest.approx(0.25, abs=0.01)
    kept = ~hidden[:, None].expand_as(image)
    assert torch.equal(seen[kept], image[kept])


def test_nothing_of_a_hidden_pixel_is_left() -> None:
    image, other = torch.rand(2, 4, 3, 8, 8)
    torch.manual_seed(0)
    seen = corrupt(image, 0.2, 0.5, FILL)
    hidden = (seen == FILL).all(dim=1, keepdim=True)
    torch.manual_seed(0)
    assert torch.equal(corrupt(torch.where(hidden, other, image), 0.2, 0.5, FILL), seen)


def test_noise_has_the_deviation_that_is_asked_for() -> None:
    torch.manual_seed(0)
    image = torch.rand(20, 3, 32, 32)
    assert (corrupt(image, 0.2, 0.0, FILL) - image).std().item() == pytest.approx(0.2, rel=0.02)
    assert corrupt(image, 0.0, 0.0, FILL) is image


def test_divergence_is_the_closed_form_in_nats() -> None:
    mean, log_variance = torch.randn(2, 5, 3, 2, 2)
    theirs = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(dim=(1, 2, 3))
    torch.testing.assert_close(gaussian_kl(mean, log_variance), theirs)
    assert gaussian_kl(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0


def test_the_target_is_the_image_as_it_was(small_encoder: Encoder) -> None:
    """With everything hidden the code is the same for all images, and so the loss is their distance to one picture."""
    method = made(small_encoder, masked=1.0, noise=0.0).eval()
    image = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        one = method.paint(method.code(method.encoder.feature_map(method.encoder.mean.expand_as(image))), image.shape)
        assert step(method, image)["loss"].item() == pytest.approx((one - image).square().mean().item(), rel=1e-5)


def test_the_variational_loss_is_the_evidence_lower_bound(small_encoder: Encoder) -> None:
    method = made(small_encoder, variant="variational", beta=2.0, sigma=0.5).eval()
    image = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        torch.manual_seed(1)
        found = step(method, image)
        torch.manual_seed(1)
        mean, log_variance = method.code(method.encoder.feature_map(image)).chunk(2, dim=1)
        z = Normal(mean, (0.5 * log_variance).exp())
        painted = method.paint(mean + z.stddev * torch.randn_like(mean), image.shape)
        constant = Normal(0.0, 0.5).log_prob(torch.zeros(())) * image.numel() / 4
        fit = Normal(painted, 0.5).log_prob(image).sum() / 4 - constant
        kl = kl_divergence(z, Normal(0.0, 1.0)).sum() / 4
    assert found["kl"].item() == pytest.approx(kl.item(), rel=1e-4)
    assert found["loss"].item() * 3 * 16 * 16 == pytest.approx((2 * kl - fit).item(), rel=1e-4)


def test_code_is_narrower_than_the_image(small_encoder: Encoder) -> None:
    code = made(small_encoder, code_dim=5).code(small_encoder.feature_map(torch.rand(2, 3, 16, 16)))
    assert code.shape == (2, 5, 2, 2)


@pytest.mark.parametrize("variant", ["plain", "denoising", "variational"])
def test_new_images_are_painted_better_than_in_their_own_mean_colour(train_quickly: Callable, variant: str) -> None:
    train, test = small_shapes(16, 600, 200)
    recipe = {"epochs": 3, "batch_size": 25, "optimizer": OptimizerConfig(lr=3e-3)}
    method = train_quickly(Autoencoder, train, method={"variant": variant}, **recipe).eval()
    batch = next(iter(ImageLoader(test, 16, batch_size=200)))
    with torch.no_grad():
        image = method.views(batch.image)[0]
        assert step(method, image)["psnr"] > psnr(image.mean(dim=(2, 3), keepdim=True), image) + 1.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masked": 1.5}, r"--method.masked is 1.5: it must be from 0 to 1"),
        ({"sigma": 0.0}, r"--method.sigma is 0.0: it must be above 0"),
        ({"beta": -1.0}, r"--method.beta is -1.0: it must be at least 0"),
        ({"code_dim": 0}, r"--method.code-dim is 0"),
    ],
)
def test_what_cannot_be_is_refused(small_encoder: Encoder, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(small_encoder, **options)
