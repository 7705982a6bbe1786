"""What only a GPU can show of training: no step waits for it."""

import pytest
import pytorch_lightning as pl
import torch

from ssl_toolkit.contrastive.dino import DINO
from ssl_toolkit.contrastive.moco import MoCo
from ssl_toolkit.contrastive.simclr import SimCLR
from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.cache import InMemory, OnDevice
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.pretext.inpainting import Inpainting
from ssl_toolkit.runs import start_run
from ssl_toolkit.training import fit
from tests.conftest import small_config, tiny_heads

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class NoWaiting(pl.Callback):
    """An operation that waits for the device is an error, but in steps that are logged and in the first ones."""

    def __init__(self):
        self.watched = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        logged = (trainer.global_step + 1) % trainer.log_every_n_steps == 0
        watch = trainer.global_step >= 5 and not logged
        self.watched += watch
        torch.cuda.set_sync_debug_mode("error" if watch else "default")

    def teardown(self, trainer, pl_module, stage):
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("found", [SimCLR, MoCo, DINO, Inpainting])
@pytest.mark.parametrize("kept", [True, False])
def test_no_step_waits_for_the_device(found, kept, noise_images, tmp_path):
    images = noise_images(64)
    bad, device = BadImages(images), torch.device("cuda", 0)
    held = OnDevice(images, 16, bad, device) if kept else InMemory(images, 16, bad)
    method = found(Encoder(small_config(found, 16)), found.default_views(16), OptimizerConfig(), **tiny_heads(found))
    loader = ImageLoader(held, 16, batch_size=16, shuffle=True, device=device)
    watch = NoWaiting()
    fit(method, loader, start_run(tmp_path / "run", {}), epochs=150, accelerator="gpu", progress=False,
        precision="bf16-mixed", callbacks=[watch])  # fmt: skip
    assert watch.watched > 200


def test_copies_ahead_are_the_same_batches(noise_images):
    images = noise_images(64)
    plain, ahead = (
        ImageLoader(images, 16, batch_size=8, shuffle=True, device=device) for device in (None, torch.device("cuda", 0))
    )
    for _ in range(2):
        for ours, theirs in zip(ahead, plain, strict=True):
            assert ours.image.is_cuda
            assert torch.equal(ours.image.cpu(), theirs.image)
            assert ahead.position == plain.position
