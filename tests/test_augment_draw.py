import pytest
import torch

from ssl_toolkit.augment import draw_views, multicrop_views, simclr_views


def test_a_row_an_image_and_a_column_a_view(tmp_path):
    views = multicrop_views(24, 12, local_count=1)
    images = [torch.rand(3, 30, 20), torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)]
    figure = draw_views(images, views, titles=["a", "b", "c"])
    assert len(figure.axes) == 2 * 4
    assert [axis.get_title() for axis in figure.axes[:4]] == ["original", "a", "b", "c"]
    figure.savefig(tmp_path / "views.png")
    assert (tmp_path / "views.png").stat().st_size > 1000


@pytest.mark.parametrize("channels", [1, 5])
def test_other_channel_counts_show_their_first(channels):
    image = torch.rand(2, channels, 16, 16)
    figure = draw_views(image, simclr_views(16, channels=channels), again=2)
    assert len(figure.axes) == 2 * 5
    shown = figure.axes[0].images[0].get_array()
    assert torch.allclose(torch.as_tensor(shown.data), image[0, 0])


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        draw_views(torch.empty(0, 3, 8, 8), simclr_views(8))
