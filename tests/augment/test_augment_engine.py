import torch

from ssl_toolkit.augment import ColourJitter, GaussianBlur, Solarize, engine
from ssl_toolkit.augment.engine import run_steps


def test_the_size_of_the_pieces_changes_nothing(monkeypatch):
    image = torch.randint(0, 256, (13, 3, 20, 24), dtype=torch.uint8)
    steps = [
        (step, step.forward_parameters(tuple(image.shape))) for step in (ColourJitter(), GaussianBlur(), Solarize())
    ]
    outputs = []
    for size in (1, 4 * 3 * 20 * 24 * 5, 10**9):
        monkeypatch.setattr(engine, "PIECE_BYTES", size)
        outputs.append(run_steps(image, steps))
    assert torch.allclose(outputs[0], outputs[1], atol=1e-5)
    assert torch.allclose(outputs[0], outputs[2], atol=1e-5)


def test_steps_run_in_their_order():
    image = torch.rand(4, 3, 8, 8)
    dark = ColourJitter((0, 0, 0, 0), grey_p=1.0)
    flip = Solarize(0.0, p=1.0)
    pairs = [(step, step.forward_parameters(tuple(image.shape))) for step in (dark, flip)]
    assert torch.allclose(run_steps(image, pairs), 1 - dark(image), atol=1e-6)


def test_sorted_images_come_back_in_place():
    image = torch.rand(30, 3, 8, 8)
    jitter = ColourJitter(p=0.5)
    params = jitter.forward_parameters(tuple(image.shape))
    together = run_steps(image, [(jitter, params)])
    for row in range(30):
        one = {name: value[row : row + 1] for name, value in params.items() if name != "forward_input_shape"}
        assert torch.allclose(run_steps(image[row : row + 1], [(jitter, one)]), together[row : row + 1], atol=1e-5)


def test_clamp():
    image = torch.tensor([[[[-0.5, 0.5, 1.5]]]])
    assert run_steps(image, [], clamp=True).flatten().tolist() == [0.0, 0.5, 1.0]
    assert run_steps(image, []).flatten().tolist() == [-0.5, 0.5, 1.5]
