"""Losses, views and encoder in a training loop of your own: no Trainer, no run folder."""

import torch

from ssl_toolkit import Encoder
from ssl_toolkit.augment import simclr_views
from ssl_toolkit.contrastive import losses
from ssl_toolkit.encoders import EncoderConfig
from ssl_toolkit.heads import mlp

images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)  # yours

encoder = Encoder(EncoderConfig("convnet", image_size=32))
head = mlp(encoder.feature_dim, 256, 64)
views = simclr_views(32, blur_p=0.0)  # uint8 (N, 3, H, W) to two floats (N, 3, 32, 32), on the images' device
optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-3)

for step in range(3):
    one, other = views(images)
    loss = losses.nt_xent(head(encoder(one)), head(encoder(other)), temperature=0.2)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, round(loss.item(), 3))
