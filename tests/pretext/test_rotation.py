import math

import pytest
import torch

from ssl_toolkit.augment import pretext_views
from ssl_toolkit.augment.resample import DENSE_SIDE
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


def test_two_turns_are_upright_and_upside_down() -> None:
    image = torch.rand(3, 3, 8, 8)
    turned, turn = rotate(image, 2)
    assert torch.equal(turned, torch.cat([image, image.flip(2, 3)]))
    assert turn.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("sides", [(40, 24), (37, 24), (24, 40), (512, 224)])  # large ones are resized in another way
@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
def test_a_resize_leaves_no_trace_of_the_turn(kind: torch.dtype, sides: tuple[int, int]) -> None:
    """Resized and turned is turned and resized; else, what the resize leaves would give the turn away.

    Large images of bytes are resized one axis after the other, each rounded to bytes: there, a level may differ.
    """
    size_in, size = sides
    whole = pretext_views(size, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_p=0.0)
    levels = torch.randint(0, 256, (2, 3, size_in, size_in), generator=torch.Generator().manual_seed(0))
    image = levels.byte() if kind == torch.uint8 else levels / 255
    straight = whole(image)[0].clone()
    assert straight.shape == (2, 3, size, size)
    atol = 1.01 / 255 if kind == torch.uint8 and size_in > DENSE_SIDE else 2e-5
    for turned in (lambda x: x.rot90(1, (2, 3)), lambda x: x.rot90(2, (2, 3)), lambda x: x.flip(3)):
        torch.testing.assert_close(whole(turned(image))[0], turned(straight), atol=atol, rtol=0.0)


def test_images_that_are_not_square_are_refused() -> None:
    with pytest.raises(UsageError, match="needs square images, got 8x6"):
        rotate(torch.rand(2, 3, 8, 6))


def always_turned(turns: int) -> Rotation:
    """A method whose head says half a turn, whatever it sees."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig("convnet", image_size=16, load_size=16))
    method = Rotation(encoder, Rotation.default_views(16), turns=turns).eval()
    with torch.no_grad():
        method.head.weight.zero_()
        method.head.bias.copy_(torch.tensor([9.0 * (k == turns // 2) for k in range(turns)]))
    return method


def test_task_picture_shows_every_turn_with_what_the_head_says() -> None:
    with torch.no_grad():
        view = torch.rand(2, 3, 16, 16)
        picture = always_turned(4).task_picture([view])
    assert list(picture.rows) == list(picture.captions) == ["0°", "90°", "180°", "270°"]
    assert torch.equal(picture.rows["180°"], view.flip(2, 3))
    assert all(words == ["180°, 100 %"] * 2 for words in picture.captions.values())
    assert "25 % of these are right, by turn: 0° 0 %, 90° 0 %, 180° 100 %, 270° 0 %." in picture.about


@pytest.mark.parametrize("turns", [2, 4])
def test_accuracy_by_turn(turns: int) -> None:
    with torch.no_grad():
        found = always_turned(turns).step([torch.rand(3, 3, 16, 16)], None)  # type: ignore[arg-type]
    assert found.pop("loss") > 4
    expected = {f"accuracy_{360 // turns * k}": float(k == turns // 2) for k in range(turns)}
    assert {name: value.item() for name, value in found.items()} == {"accuracy": 1 / turns, **expected}


def test_chance_is_that_of_the_turns() -> None:
    assert always_turned(2).chance_loss(8) == math.log(2)
    assert always_turned(4).chance_loss(8) == math.log(4)


def test_turns_that_need_interpolation_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--method.turns is 8: it must be 2 or 4"):
        always_turned(8)
