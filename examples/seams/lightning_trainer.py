"""A method under a Lightning Trainer of your own, with any loader of images."""

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from ssl_toolkit import Encoder
from ssl_toolkit.contrastive.vicreg import VICReg
from ssl_toolkit.encoders import EncoderConfig
from ssl_toolkit.optim import OptimizerConfig

images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)  # yours

method = VICReg(
    Encoder(EncoderConfig("convnet", image_size=32)),
    VICReg.default_views(32),
    OptimizerConfig(lr=1e-3),
    projection_dim=64,
)
trainer = pl.Trainer(
    max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
)
trainer.fit(method, DataLoader(TensorDataset(images), batch_size=16))
print(method(images).shape)
