import pytest
import torch

from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.errors import UsageError
from ssl_toolkit.pretext.rotation import Rotation, rotate


def test_known_turns() -> None:
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2)
    turned, turn = rotate(image)
    assert turn.tolist() == [0, 1, 2, 3]
    assert turned[:, 0].tolist() == [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]


def test_every_image_in_all_turns_with_its_pixels_untouched() -> None:
    image = torch.rand(3, 3, 8, 8)
    turned, turn = rotate(image)
    assert turned.shape == (12, 3, 8, 8)
    assert turn.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    for place, k in enumerate(turn.tolist()):
        original = image[place % 3]
        assert torch.equal(torch.rot90(turned[place], -k, (1, 2)), original)
        # No interpolation, no border: the same values, so that only the arrangement can tell.
        assert torch.equal(turned[place].flatten().sort().values, original.flatten().sort().values)


def test_images_that_are_not_square_are_refused() -> None:
    with pytest.raises(UsageError, match="needs square images, got 8x6"):
        rotate(torch.rand(2, 3, 8, 6))


def test_task_picture_shows_every_turn_with_what_the_head_says() -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig("convnet", image_size=16, load_size=16))
    method = Rotation(encoder, Rotation.default_views(16)).eval()
    with torch.no_grad():
        method.head.weight.zero_()
        method.head.bias.copy_(torch.tensor([0.0, 0.0, 9.0, 0.0]))  # always half a turn
        view = torch.rand(2, 3, 16, 16)
        picture = method.task_picture([view])
    assert list(picture.rows) == list(picture.captions) == ["0°", "90°", "180°", "270°"]
    assert torch.equal(picture.rows["180°"], view.flip(2, 3))
    assert all(words == ["180°, 100 %"] * 2 for words in picture.captions.values())
    assert "25 % of these are right" in picture.about
