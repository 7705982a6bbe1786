"""What reads texts: a small transformer over bytes of ours, or a network of others."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssl_toolkit.errors import UsageError, missing_extra

START = 256  # the token before the bytes: an empty text has it alone


class TextNetwork(nn.Module):
    """Reads texts.

    Attributes:
        width: Of its states.
        joint: Whether these are in the space of the encoder's features already.
        files: See `TextConfig`.
    """

    width: int
    joint: bool = False
    files: dict[str, Any] | None = None

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """N texts to tokens (N, T) int64 and which of them count (N, T) bool, at least one of each text."""

    @abstractmethod
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Tokens, as `tokenize` gives them, to a state for each text (N, W)."""


def mean_state(states: Tensor, mask: Tensor) -> Tensor:
    """The mean over the tokens that count: (N, T, W) and (N, T) bool to (N, W)."""
    weights = mask[..., None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


class ByteTransformer(TextNetwork):
    """A transformer over the bytes of UTF-8: no vocabulary, any language, nothing to download.

    Args:
        width: Of its states.
        layers: Its depth.
        heads: Which divide the width.
        context: Most bytes of a text.

    Source: Radford et al. 2021 (CLIP), section 2.4, but over bytes as Xue et al. 2022 (ByT5), and not causal, as Zhai
        et al. 2023 (SigLIP).
    """

    def __init__(self, width: int, layers: int, heads: int, context: int) -> None:
        super().__init__()
        if width % heads:
            raise UsageError(f"a text tower of width {width} cannot have {heads} heads: they must divide it")
        self.width, self.context = width, context
        self.embed = nn.Embedding(START + 1, width)
        self.positions = nn.Parameter(0.02 * torch.randn(context + 1, width))
        nn.init.normal_(self.embed.weight, std=0.02)
        # Not `nn.TransformerEncoder`, whose layers all start as one.
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """As `TextNetwork.tokenize`; what is longer than the context is cut."""
        rows = [torch.tensor([START, *text.encode("utf-8", "replace")[: self.context]]) for text in texts]
        lengths = torch.tensor([len(row) for row in rows])
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return ids, torch.arange(ids.shape[1]) < lengths[:, None]

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """As `TextNetwork.forward`."""
        x = self.embed(ids) + self.positions[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=~mask)
        return mean_state(self.norm(x), mask)


class HuggingFaceNetwork(TextNetwork):
    """The encoder of a text model of Hugging Face's, the extra ``[text]``.

    Args:
        name: Name on the hub, or a folder.
        context: Most tokens of a text.
        files: Its configuration and tokenizer: then there are no weights yet, and nothing is looked for elsewhere.
            None: both are, and the weights, where `name` says.

    Raises:
        UsageError: The extra is missing, or there is no such model.
    """

    def __init__(self, name: str, context: int, files: dict[str, Any] | None = None) -> None:
        super().__init__()
        try:
            transformers = importlib.import_module("transformers")
            tokenizers = importlib.import_module("tokenizers")
        except ImportError as error:
            raise missing_extra(f"the text tower {name}", "text", "transformers") from error
        if files is None:
            try:
                model = transformers.AutoModel.from_pretrained(name)
                own = transformers.AutoTokenizer.from_pretrained(name)
                words = own.backend_tokenizer.to_str()
            except (OSError, ValueError, AttributeError, ImportError) as error:
                raise UsageError(
                    f"--method.text {name}: no text model of Hugging Face's with a fast tokenizer can be loaded by "
                    f"that name: {str(error).splitlines()[0]}"
                ) from error
            pad = own.pad_token_id if own.pad_token_id is not None else own.eos_token_id or 0
            files = {"config": model.config.to_dict(), "tokenizer": words, "pad": pad}
        else:
            config = transformers.AutoConfig.for_model(**files["config"])
            model = transformers.AutoModel.from_config(config)
        self.files = files
        self.model = model.get_encoder() if model.config.is_encoder_decoder else model
        self.width = int(model.config.hidden_size)
        self._words = tokenizers.Tokenizer.from_str(files["tokenizer"])
        self._words.enable_padding(pad_id=files["pad"])
        self._words.enable_truncation(min(context, getattr(model.config, "max_position_embeddings", context)))

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """As `TextNetwork.tokenize`."""
        found = self._words.encode_batch(list(texts))
        ids, mask = (torch.tensor([getattr(one, part) for one in found]) for part in ("ids", "attention_mask"))
        return ids, mask.bool()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """As `TextNetwork.forward`."""
        return mean_state(self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state, mask)


class OpenClipText(TextNetwork):
    """The text side of a model of the open_clip project, the extra ``[open_clip]``; its vocabulary is in the package.

    Args:
        model: As `open_clip_model` gives it, whose images it does without.
        architecture: Its name.
    """

    joint = True

    def __init__(self, model: nn.Module, architecture: str) -> None:
        super().__init__()
        self._tokenize = importlib.import_module("open_clip").get_tokenizer(architecture)
        self.model = model
        for name in ("visual", "logit_scale", "logit_bias"):
            if hasattr(model, name):
                delattr(model, name)
        with torch.no_grad():
            self.width = self(*self.tokenize(["a text"])).shape[1]

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """As `TextNetwork.tokenize`; all of them count, for the model finds the end of a text itself."""
        ids: Tensor = self._tokenize(list(texts))
        return ids, torch.ones_like(ids, dtype=torch.bool)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """As `TextNetwork.forward`."""
        state: Tensor = self.model.encode_text(ids)  # type: ignore[operator]
        return state
