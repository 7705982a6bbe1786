from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_toolkit.encoders import TextConfig, TextTower, load_text, save_text, text_beside
from ssl_toolkit.errors import ToolkitError, UsageError

TEXTS = ["a red house above a car", "", "ein Bär 🐻", "a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random BERT of Hugging Face's with a tokenizer of a dozen words."""
    transformers = pytest.importorskip("transformers", reason="the extra [text] is not installed")
    path = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "house", "above", "car", "blue"]
    (path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab={word: n for n, word in enumerate(words)}).save_pretrained(path)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=24,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(path)
    return str(path)


@pytest.fixture(params=["bytes", "huggingface"])
def tower(request: pytest.FixtureRequest) -> TextTower:
    torch.manual_seed(0)
    name = "bytes" if request.param == "bytes" else request.getfixturevalue("folder")
    return TextTower(TextConfig(name, 12, width=16, layers=2, heads=2, context=20)).eval()


def test_a_text_is_read_by_itself(tower: TextTower) -> None:
    """Neither by what else is in the batch, nor by how far it is padded."""
    together = tower(TEXTS)
    assert together.shape == (4, 12)
    assert together.isfinite().all()
    for text, row in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(tower([text])[0], row, atol=1e-5, rtol=1e-4)


def test_the_order_of_words_matters(tower: TextTower) -> None:
    one, other = tower(["a red house above a car", "a car above a red house"])
    assert (one - other).abs().max() > 1e-3


def test_what_is_longer_than_the_context_is_cut(tower: TextTower) -> None:
    long = tower(["a red house above a car " * 20, "a red house above a car " * 21])
    torch.testing.assert_close(long[0], long[1])


def test_vectors_of_evaluation_have_unit_length_and_no_gradient(tower: TextTower) -> None:
    found = tower.train().encode(TEXTS * 100)
    assert found.shape == (400, 12)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(400))
    assert not found.requires_grad
    torch.testing.assert_close(found[4:8], found[:4])


def test_every_trained_weight_has_a_gradient(tower: TextTower) -> None:
    """BERT's pooling is not used: processes that train together would wait for its gradients."""
    tower(TEXTS).sum().backward()
    for name, weight in tower.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad, name
    frozen = {name.split(".")[2] for name, weight in tower.named_parameters() if not weight.requires_grad}
    assert frozen <= {"pooler"}


def test_a_file_gives_the_same_tower_and_needs_no_other(tower: TextTower, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    save_text(tower, tmp_path / "text.safetensors", "CLIP")
    given = load_text(text_beside(tmp_path / "encoder.safetensors"))
    assert not given.training
    torch.testing.assert_close(given(TEXTS), tower(TEXTS))
    assert text_beside(tmp_path) == tmp_path / "text.safetensors"
    assert text_beside(tmp_path / "elsewhere" / "encoder.safetensors") is None


def test_a_damaged_file_is_refused(tower: TextTower, tmp_path: Path) -> None:
    file = tmp_path / "text.safetensors"
    save_text(tower, file)
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(ToolkitError, match="its sha256 does not match its contents"):
        load_text(file)


def test_bytes_of_any_text_are_read_whole() -> None:
    tower = TextTower(TextConfig("bytes", 4, width=8, layers=1, heads=2, context=9))
    ids, mask = tower.network.tokenize(["", "Bär", "0123456789"])
    assert ids[1].tolist() == [256, 66, 195, 164, 114, 0, 0, 0, 0, 0]
    assert mask.sum(1).tolist() == [1, 5, 10]
    assert bytes(ids[2, 1:].tolist()) == b"012345678"


def test_a_null_byte_is_no_padding() -> None:
    tower = TextTower(TextConfig("bytes", 4, width=8, layers=1, heads=2)).eval()
    one, other = tower(["a\0", "a"])
    assert (one - other).abs().max() > 1e-4


def test_a_tokenizers_words_are_its_own(folder: str) -> None:
    tower = TextTower(TextConfig(folder, 12))
    ids, mask = tower.network.tokenize(["a red house", "car"])
    assert ids.tolist() == [[2, 5, 6, 7, 3], [2, 9, 3, 0, 0]]
    assert mask.long().tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert json.dumps(tower.config.files)  # as metadata has it


def test_there_is_no_such_model(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the extra [text] is not installed")
    with pytest.raises(UsageError, match=r"--method.text .*: no text model of Hugging Face's"):
        TextTower(TextConfig(str(tmp_path), 12))


def test_a_missing_package_is_one_line_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"the text tower bert needs transformers: .*\[text\]"):
        TextTower(TextConfig("bert", 12))


def test_layers_start_apart() -> None:
    """`nn.TransformerEncoder` copies one layer."""
    layers: list[Tensor] = [layer.linear1.weight for layer in TextTower(TextConfig("bytes", 4)).network.layers]
    assert not torch.equal(layers[0], layers[1])
