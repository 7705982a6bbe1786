"""A model of open_clip's, with random weights, as an encoder with a text tower."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssl_toolkit import evaluate, index, search
from ssl_toolkit.encoders import load_encoder, load_text
from ssl_toolkit.errors import UsageError
from ssl_toolkit.tasks.importing import from_open_clip

TEXTS = ["a photo of a cat", "a dog", "ein Haus"]
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny architecture, by the name of its file, and a file of weights of it."""
    open_clip = pytest.importorskip("open_clip", reason="the extra [open_clip] is not installed")
    folder = tmp_path_factory.mktemp("open_clip")
    sides = {
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    (folder / "tiny-clip.json").write_text(json.dumps({"embed_dim": 16, **sides}))
    open_clip.add_model_config(folder / "tiny-clip.json")
    torch.manual_seed(0)
    weights = folder / "weights.pt"
    torch.save(open_clip.create_model("tiny-clip").state_dict(), weights)
    return weights, from_open_clip("tiny-clip", str(weights), folder / "run")


def test_images_and_texts_are_encoded_as_the_model_does(made: tuple[Path, Path]) -> None:
    import open_clip

    weights, run = made
    model = open_clip.create_model("tiny-clip", pretrained=str(weights)).eval()
    image = torch.from_numpy(IMAGES).float() / 255
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (model.visual.image_mean, model.visual.image_std))
    with torch.no_grad():
        seen = model.encode_image((image - mean) / std)
        read = model.encode_text(open_clip.get_tokenizer("tiny-clip")(TEXTS))
        torch.testing.assert_close(load_encoder(run)(image), seen, atol=1e-5, rtol=1e-4)
    ours = load_text(run / "text.safetensors").encode(TEXTS)
    torch.testing.assert_close(ours, F.normalize(read), atol=1e-5, rtol=1e-4)


def test_the_folder_stands_for_a_run(made: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = made
    data = torch.utils.data.TensorDataset(torch.from_numpy(IMAGES), torch.arange(6) % 2)
    found = evaluate(run, test=data, protocol="zero_shot", workers=0, progress=False)
    assert set(found["results"]["trained"]) == {"zero_shot"}
    built = index(run, IMAGES, tmp_path / "index", workers=0, progress=False)
    (one,) = search(built, "text:a dog", k=6)
    x = (
        F.normalize(load_encoder(run)(torch.from_numpy(IMAGES)).detach())
        @ load_text(run / "text.safetensors").encode(["a dog"]).T
    )
    assert [int(hit["path"].rpartition("#")[2]) for hit in one["hits"]] == x[:, 0].argsort(descending=True).tolist()


def test_what_is_not_there_is_refused(made: tuple[Path, Path], tmp_path: Path) -> None:
    weights, run = made
    with pytest.raises(UsageError, match=r"architecture of open_clip 'tiny-clap'.*tiny-clip"):
        from_open_clip("tiny-clap", str(weights), tmp_path / "x")
    with pytest.raises(UsageError, match="holds an encoder already"):
        from_open_clip("tiny-clip", str(weights), run)
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    with pytest.raises(UsageError, match=r"the weights .*broken.pt cannot be loaded into tiny-clip"):
        from_open_clip("tiny-clip", str(tmp_path / "broken.pt"), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_missing_package_is_one_line_that_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UsageError, match=r"open_clip:ViT-B-32 needs open_clip_torch: .*\[open_clip\]"):
        from_open_clip("ViT-B-32", "x.pt", tmp_path / "x")
