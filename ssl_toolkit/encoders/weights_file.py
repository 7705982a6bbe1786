"""Weights of ours as one safetensors file that says what they are, and whose hash is their identity."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ssl_toolkit import __version__
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.files import write_atomic

LATER_CHOICES = {
    "norm": "batch", "colours": "rgb", "patch_size": 0, "heads": 0, "positions": "learned", "init": "timm",
    "registers": 0, "pool": "own",
}  # fmt: skip
_ELSEWHERE = "; weights from elsewhere are taken with --architecture NAME, to pretrain with --weights FILE"


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's state, on the CPU and contiguous; where processes share it out, each must ask, and gets all."""
    return {k: whole(v.detach()).cpu().contiguous() for k, v in module.state_dict().items()}


def whole(tensor: Tensor) -> Tensor:
    """All rows of a tensor, of which this process may hold some (see `ssl_toolkit.sharding`)."""
    rows: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return rows


def content_hash(described: dict[str, Any], weights: dict[str, Tensor]) -> str:
    """Identity of a network: sha256 of its description and of every weight."""
    # Encoders saved before there was this choice keep their identity.
    described = {k: v for k, v in described.items() if LATER_CHOICES.get(k) != v}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name in sorted(weights):
        tensor = weights[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of the libraries that decide what an encoder computes."""
    return {
        "ssl-toolkit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


def save_weights(
    weights: dict[str, Tensor], described: dict[str, Any], path: str | Path, format: str, method: str = ""
) -> str:
    """Write weights to one safetensors file, with what they are in its metadata.

    Args:
        weights: By name, on the CPU and contiguous.
        described: All that is needed to build the network again, as JSON has it.
        path: The file.
        format: Name of the kind of file.
        method: What trained them.

    Returns:
        The sha256 of description and weights.

    Raises:
        ToolkitError: If a weight is not finite.
    """
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ToolkitError(f"weight '{name}' is not finite: the training diverged, {path} is not written")
    sha256 = content_hash(described, weights)
    metadata = {
        "format": format,
        "config": json.dumps(described),
        "method": method,
        "versions": json.dumps(versions()),
        "sha256": sha256,
    }
    content = save(weights, metadata)
    write_atomic(path, lambda temporary: temporary.write_bytes(content))  # save_file would make it private
    return sha256


def read_metadata(file: Path, format: str, what: str) -> dict[str, str]:
    """What `save_weights` wrote beside the weights; arguments and errors of `load_weights`."""
    try:
        with safe_open(file, "pt") as handle:
            metadata: dict[str, str] = handle.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ToolkitError(f"{file} is not a readable safetensors file: {error}{_ELSEWHERE}") from error
    if metadata.get("format") != format:
        raise ToolkitError(f"{file} is a safetensors file, but not {what} saved by ssl-toolkit ({format}){_ELSEWHERE}")
    return metadata


def load_weights(file: Path, format: str, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and description that `save_weights` wrote to a file of this format.

    Args:
        file: The file.
        format: As it was saved.
        what: Its kind with its article, for errors.

    Raises:
        ToolkitError: If it is not of this kind, or its sha256 does not match what is in it.
    """
    metadata = read_metadata(file, format, what)
    described: dict[str, Any] = json.loads(metadata["config"])
    with safe_open(file, "pt") as handle:
        weights = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a dict
    if content_hash(described, weights) != metadata["sha256"]:
        raise ToolkitError(f"{file}: its sha256 does not match its contents: it is damaged, copy or train it again")
    return weights, described
