"""Weights from elsewhere: checkpoints of other projects, read into an encoder whose architecture the user names.

A file is flattened to names and tensors. Wherever known containers (``state_dict``, ``teacher``) and prefixes
(``module.``, ``backbone.``) end, there may be a network: a candidate. The one that fits the architecture best is taken.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import pickle
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from timm.models import adapt_input_conv
from torch import Tensor, nn

from ssl_toolkit.encoders.config import EncoderConfig
from ssl_toolkit.encoders.encoder import Encoder
from ssl_toolkit.encoders.pretrained import names_weights
from ssl_toolkit.errors import ToolkitError, UsageError, unknown_name

State = dict[str, Tensor]

ENOUGH = 0.95  # share of the keys that must match

# What may stand before a network's own names: containers and attributes of those who wrote the file.
WRAPPERS = {
    *("state_dict", "model_state_dict", "model", "network", "weights", "module", "_orig_mod", "net", "backbone"),
    *("teacher", "teacher_backbone", "model_ema", "ema", "state_dict_ema", "student", "student_backbone"),
    *("encoder", "encoder_q", "base_encoder", "online_encoder", "online_network"),
    *("encoder_k", "momentum_encoder", "target_encoder", "target_network", "momentum_backbone", "backbone_momentum"),
}
# Of several networks the one that its paper evaluates: a teacher or average before its student, a momentum encoder
# behind the encoder that it follows.
TEACHERS, FOLLOWERS = {"teacher", "ema"}, {"momentum", "target", "k"}

# What stands on a network in training and is left behind.
HEADS = (
    *("fc", "head", "classifier", "online_classifier", "linear", "proj", "pred", "proto", "mlp", "contrastive"),
    *("last_layer", "dino_head", "ibot_head", "decoder", "mask_token", "queue", "momentum_"),
)

# ``nn.Sequential(*resnet.children())``, as lightly's examples have it.
SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def encoder_from_file(config: EncoderConfig, file: str | Path, key: str | None = None) -> tuple[Encoder, str]:
    """An encoder with the weights of a file that another project wrote.

    The stem of a ResNet, if the configuration leaves it open, is the file's: small if its first layer is 3x3.

    Args:
        config: What to build.
        file: ``.safetensors``, or whatever ``torch.save`` wrote (``.pth``, ``.pt``, ``.ckpt``); no code in it is run.
        key: Which of several networks in it, as ``student`` or ``state_dict.module.encoder_k``; None chooses.

    Returns:
        The encoder in eval mode, and a sentence that says what was taken.

    Raises:
        UsageError: If there is no such file or key, or a first layer or patch is of another shape.
        ToolkitError: If it holds something else, or fewer than 95 % of the keys match.

    Examples:
        >>> config = EncoderConfig("resnet50")
        >>> encoder, told = encoder_from_file(config, "moco_v2_800ep_pretrain.pth.tar")  # doctest: +SKIP
    """
    if names_weights(config.name):
        raise UsageError(f"{config.name} names weights of timm, and {file} is given too: leave the tag or the file out")
    state = read_state(file)
    stem = "standard" if config.stem == "auto" else config.stem
    encoder = Encoder(replace(config, stem=stem))
    fit = best_fit(encoder.backbone, state, key)
    if config.stem == "auto" and fit.other_shape.get("conv1.weight", ())[-2:] == (3, 3):
        encoder = Encoder(replace(config, stem="small"))
        fit = best_fit(encoder.backbone, state, key)
    name = encoder.config.name
    if config.norm == "layer" and any(each.endswith("running_mean") for each in fit.unexpected):
        raise UsageError(f"{file}: its weights are for batch norms, not layer norms: give --encoder.norm batch")
    refuse_misfit(fit, encoder.backbone, f"{file}", name)
    encoder.backbone.load_state_dict(fit.weights, strict=False)  # what is not there was looked at above
    return encoder.eval(), f"{file}: {fit.summary(name)}"


def read_state(file: str | Path) -> State:
    """All tensors of a file, by their names with those of the containers they are in: ``teacher.backbone.cls_token``.

    Raises:
        UsageError: If there is no such file, or this package wrote it.
        ToolkitError: If it cannot be read, or holds no named tensors.
    """
    file = Path(file)
    if not file.is_file():
        raise UsageError(f"no file of weights at {file}")
    content = _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file)
    state = dict(_flattened(content))
    if not state:
        raise ToolkitError(f"{file} holds no weights by name, but {_described(content)}")
    return state


def _read_safetensors(file: Path) -> State:
    try:
        with safe_open(file, "pt") as handle:
            if (handle.metadata() or {}).get("format", "").startswith("ssl-toolkit-"):
                raise UsageError(f"{file} is of this package and knows its architecture: give it as --encoder or alone")
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise ToolkitError(f"{file} is not a readable safetensors file: {error}") from error


def _read_torch(file: Path) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # the options of DINO and MAE: plain values
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = _foreign_objects(file)
        reason = f"holds objects of Python ({found}): save its state_dict alone" if found else "is no file of torch"
        raise ToolkitError(f"{file} cannot be read as weights: it {reason}") from error
    except Exception as error:  # of bytes that are anything, an unpickler makes anything
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ToolkitError(f"{file} cannot be read as weights: {reason[:200]}") from error


def _foreign_objects(file: Path) -> str:
    """Names of the classes in a file that ``weights_only`` refuses; empty if it cannot be told."""
    with contextlib.suppress(Exception):
        return ", ".join(torch.serialization.get_unsafe_globals_in_checkpoint(file)[:3])
    return ""


def _flattened(content: Any, before: str = "") -> Iterator[tuple[str, Tensor]]:
    if not isinstance(content, Mapping):
        return
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{before}{key}", value
        else:
            yield from _flattened(value, f"{before}{key}.")


def _described(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dictionary of {', '.join(map(str, list(content)[:5])) or 'nothing'}"
    return f"a {type(content).__name__}"


def candidates(state: State, key: str | None = None) -> dict[str, State]:
    """The networks that may be in a file, by what stands before their names; the whole file under an empty name.

    Args:
        state: Of `read_state`.
        key: A container or prefix besides those that are known.
    """
    wrappers = WRAPPERS | set(key.split(".") if key else ())
    found: dict[str, State] = {"": state}
    for name, tensor in state.items():
        parts = name.split(".")
        for depth in range(1, len(parts)):
            if parts[depth - 1] not in wrappers:
                break
            found.setdefault(".".join(parts[:depth]), {})[".".join(parts[depth:])] = tensor
    return found


@dataclass
class Fit:
    """How well a candidate fits a network.

    Attributes:
        where: What stands before its names in the file.
        weights: Those that the network takes, by its names.
        missing: Names that only the network has.
        unexpected: Names that only the candidate has, heads left out.
        other_shape: Shapes in the file of those that the network has in another shape.
        resized: Names of weights that were made to fit: position embeddings, patches, channels of the first layer.
        rivals: Where others are that fit as well.
    """

    where: str
    weights: State
    missing: list[str]
    unexpected: list[str]
    other_shape: dict[str, tuple[int, ...]]
    resized: list[str]
    rivals: list[str] = field(default_factory=list)

    @property
    def keys(self) -> int:
        """Of the network."""
        return len(self.weights) + len(self.missing) + len(self.other_shape)

    @property
    def share(self) -> float:
        """Keys that match, of all on either side."""
        return len(self.weights) / (self.keys + len(self.unexpected))

    def summary(self, name: str) -> str:
        """What was taken, in a sentence."""
        text = f"{len(self.weights)} of {self.keys} keys of {name} match"
        text += f", under '{self.where}'" if self.where else ""
        text += f" (there is '{self.rivals[0]}' too: --weights-key chooses)" if self.rivals else ""
        text += f"; resized: {', '.join(self.resized)}" if self.resized else ""
        return text + (f"; left at random: {', '.join(self.missing)}" if self.missing else "")


def fit_to(model: nn.Module, state: State, where: str = "") -> Fit:
    """What of a candidate a network takes, after timm's own conversion of names and sizes."""
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    found = _converted(model, _resnet_names(state))
    first = _first_layers(model)
    for name in first & own.keys() & found.keys():
        given, needed = found[name], own[name]
        if given.ndim == 4 and given.shape[1] == 3 != needed.shape[1] and given.shape[0] == needed.shape[0]:
            found[name] = adapt_input_conv(needed.shape[1], given)
    fitting = {name: found[name] for name in own if name in found and found[name].shape == own[name].shape}
    return Fit(
        where,
        fitting,
        [name for name in own if name not in found],
        [name for name in found if name not in own and not name.startswith(HEADS) and "num_batches" not in name],
        {name: tuple(found[name].shape) for name in own if name in found and name not in fitting},
        [name for name in fitting if name in state and state[name].shape != fitting[name].shape],
    )


def best_fit(model: nn.Module, state: State, key: str | None = None) -> Fit:
    """The candidate to take: of those that fit best, the one that `TEACHERS` and `FOLLOWERS` say, or `key`.

    Raises:
        UsageError: If nothing in the file goes by the key.
    """
    fits = [fit_to(model, part, where) for where, part in candidates(state, key).items()]
    if key is not None:
        named = [fit for fit in fits if f".{key}." in f".{fit.where}."]
        if not named:
            raise unknown_name("--weights-key", key, [fit.where for fit in fits if fit.where and fit.weights])
        fits = named
    best = max(fit.share for fit in fits)
    equals = sorted((fit for fit in fits if fit.share >= ENOUGH * best), key=lambda fit: _rank(fit.where))
    return replace(equals[0], rivals=[fit.where for fit in equals[1:]] if equals[0].weights else [])


def refuse_misfit(fit: Fit, model: nn.Module, file: str, name: str) -> None:
    """Refuse weights that are not those of the architecture.

    Raises:
        UsageError: If one of them has another shape.
        ToolkitError: If fewer than 95 % of the keys match, with the first ones that do not.
    """
    if fit.share < ENOUGH:
        apart = [f"missing are {', '.join(fit.missing[:3])}"] if fit.missing else []
        apart += [f"unexpected are {', '.join(fit.unexpected[:3])}"] if fit.unexpected else []
        apart += [f"of another shape are {', '.join(list(fit.other_shape)[:3])}"] if fit.other_shape else []
        raise ToolkitError(
            f"{file}: {len(fit.weights)} of {fit.keys} keys of {name} match, and {len(fit.unexpected)} more are there, "
            f"too few: {'; '.join(apart)}"
        )
    for weight, shape in fit.other_shape.items():
        fix = ": give --encoder.stem, or leave it out" if weight == "conv1.weight" else ""
        needed = tuple(model.state_dict()[weight].shape)
        raise UsageError(f"{file}: weight '{weight}' has shape {shape}, {name} needs {needed}{fix}")


def _rank(where: str) -> int:
    words = set(where.replace("_", ".").split("."))
    return 0 if words & TEACHERS else 2 if words & FOLLOWERS else 1


def _resnet_names(state: State) -> State:
    if not {"0.weight", "4.0.conv1.weight"} <= state.keys():
        return state
    parts = ((*name.partition("."), tensor) for name, tensor in state.items())
    return {f"{SEQUENTIAL.get(first, first)}.{rest}": tensor for first, _, rest, tensor in parts}


def _converted(model: nn.Module, state: State) -> State:
    """Names and sizes as timm's own filter of the architecture makes them; a file that it does not know as it is."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return dict(state)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # one of them prints
            converted: State = convert(dict(state), model)
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return dict(state)
    return converted


def _first_layers(model: nn.Module) -> set[str]:
    """Names of the weights that see the image's channels, as timm tells them."""
    names = getattr(model, "pretrained_cfg", {}).get("first_conv") or ()
    return {f"{name}.weight" for name in ((names,) if isinstance(names, str) else names)}
