import torch

from ssl_toolkit.pretext.patches import patchify, unpatchify


def test_patches_are_cut_row_by_row_and_put_together_again() -> None:
    image = torch.rand(2, 3, 8, 12)
    patches = patchify(image, 4)
    assert patches.shape == (2, 6, 48)
    assert torch.equal(patches[1, 4], image[1, :, 4:8, 4:8].permute(1, 2, 0).flatten())
    assert torch.equal(unpatchify(patches, 4, 8, 12), image)
