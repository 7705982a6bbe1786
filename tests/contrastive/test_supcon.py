from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_toolkit.contrastive.losses import nt_xent, supcon
from ssl_toolkit.contrastive.supcon import SupCon
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.tasks.pretraining import pretrain


def test_step_is_the_papers_loss_with_the_labels_of_the_batch(small_encoder: Encoder) -> None:
    method = SupCon(small_encoder, SupCon.default_views(16), temperature=0.3).eval()
    views, label = list(torch.rand(2, 6, 3, 16, 16)), torch.tensor([0, 1, 0, 1, -1, 2])
    z1, z2 = (method.projector(method.encoder(view)) for view in views)
    loss = method.step(views, Batch(views[0], label, torch.arange(6)))["loss"]
    assert loss.item() == pytest.approx(supcon(z1, z2, label, 0.3).item(), abs=1e-5)
    assert loss.item() != pytest.approx(nt_xent(z1, z2, 0.3).item(), abs=1e-3)


def test_images_without_any_label_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((16, 3, 16, 16), np.uint8))
    with pytest.raises(UsageError, match=r"supcon learns from labels, and '.*images.npy' has none: .*--method simclr"):
        pretrain(
            "supcon", data=tmp_path / "images.npy", out=tmp_path / "run", encoder="convnet", batch_size=8, epochs=1,
            progress=False,
        )  # fmt: skip
    assert not list((tmp_path / "run").glob("*"))
