"""Encoders for elsewhere: files that timm, torch, ONNX and the Hugging Face hub read without this package."""

from __future__ import annotations

import copy
import importlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from timm.models import save_for_hf
from torch import Tensor, nn
from torchvision.transforms import v2

from ssl_toolkit.encoders import ConvNet, Encoder
from ssl_toolkit.encoders.backbone import timm_network
from ssl_toolkit.encoders.vision_transformer import pools_by_token
from ssl_toolkit.encoders.weights_file import plain_state, versions
from ssl_toolkit.errors import UsageError, missing_extra

Encode = Callable[[Tensor], Any]

# Of whose classes a module file may be made: whoever loads it has them.
COMMON_LIBRARIES = ("torch", "torchvision", "timm")


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        suffix: Of its name; a folder's is empty.
        write: Writes an encoder to a path; the last argument is the method that trained it.
        lines: Python that makes ``encode`` of what lies at a path, from float images (N, C, H, W) in [0, 1] to features
            (N, D), with no line of this package.
        load: ``encode`` of what lies at a path.
        tolerance: How far features may be from the encoder's own, as a share of the largest.
    """

    suffix: str
    write: Callable[[Encoder, Path, str], None]
    lines: Callable[[Encoder, Path], str]
    load: Callable[[Encoder, Path], Encode]
    tolerance: float = 1e-5


def _by_its_lines(lines: Callable[[Encoder, Path], str]) -> Callable[[Encoder, Path], Encode]:
    """What is printed is what is run: no other code could prove that it works."""

    def load(encoder: Encoder, path: Path) -> Encode:
        names: dict[str, Any] = {}
        exec(lines(encoder, path), names)
        encode: Encode = names["encode"]
        return encode

    return load


def _normalize(encoder: Encoder) -> v2.Normalize:
    return v2.Normalize(list(encoder.config.mean), list(encoder.config.std))


def _normalized(encoder: Encoder, made: str) -> str:
    return f"encode = torch.nn.Sequential({_normalize(encoder)!r}, {made}).eval()"


def _timm_arguments(encoder: Encoder, format: str) -> dict[str, Any]:
    """What ``timm.create_model`` builds the encoder's network with.

    Raises:
        UsageError: If timm cannot build it.
    """
    config = encoder.config
    if isinstance(encoder.backbone, ConvNet) or encoder.own_module is not None:
        reason = f"{config.name} is no network of timm's"
    elif config.colours != "rgb":
        reason = f"it sees {config.colours}, which timm does not make of images"
    elif config.norm != "batch":
        reason = "it has layer norms where timm's network has batch norms"
    else:
        network, arguments = timm_network(config.name, config, config.channels)
        by_mean = config.pool == "mean" and pools_by_token(network)
        return arguments | ({"global_pool": "avg", "fc_norm": False} if by_mean else {})
    raise UsageError(f"--format {format} does not fit this encoder: {reason}; give --format torch-export")


def _write_timm(encoder: Encoder, path: Path, method: str) -> None:
    _timm_arguments(encoder, "timm")
    path.write_bytes(save(plain_state(encoder.backbone), {"format": "pt"}))  # save_file would make it private


def _timm_lines(encoder: Encoder, path: Path) -> str:
    config = encoder.config
    options = "".join(f", {name}={value!r}" for name, value in _timm_arguments(encoder, "timm").items())
    lines = [
        "import timm, torch",
        "from safetensors.torch import load_file",
        "from torchvision.transforms.v2 import Normalize",
    ]
    lines += [f"model = timm.create_model({config.name!r}{options})"]
    if config.stem == "small":
        conv = encoder.backbone.conv1
        lines += [
            f"model.conv1 = torch.nn.Conv2d({conv.in_channels}, {conv.out_channels}, 3, padding=1, bias=False)",
            "model.maxpool = torch.nn.Identity()",
        ]
    lines += [f"model.load_state_dict(load_file({str(path)!r}))", _normalized(encoder, "model")]
    return "\n".join(lines)


def _write_hf(encoder: Encoder, path: Path, method: str) -> None:
    config, arguments = encoder.config, _timm_arguments(encoder, "hf")
    if config.stem == "small":
        raise UsageError(
            "--format hf does not fit this encoder: timm's loader knows no small stem; give --format "
            "timm, which prints the lines that build one"
        )
    network = _copy(encoder).backbone
    side, crop = config.image_size, config.image_size / config.load_size
    shown = {"mean": config.mean, "std": config.std, "input_size": (config.channels, side, side), "crop_pct": crop}
    network.pretrained_cfg = {**network.pretrained_cfg, **shown, "num_classes": 0}
    save_for_hf(network, str(path), model_args=arguments, safe_serialization=True)
    (path / "model.safetensors").chmod((path / "config.json").stat().st_mode)  # safetensors makes it private
    (path / "README.md").write_text(_card(encoder, method))


def _card(encoder: Encoder, method: str) -> str:
    """The model card, with the head that the hub reads."""
    config, by = encoder.config, f" pretrained with {method}" if method else ""
    shown = f"{config.channels} channels, the central {config.image_size} px of images of {config.load_size} px"
    facts = {
        "Architecture": f"{config.name}, {encoder.feature_dim} features",
        "Images": f"{shown}, mean {config.mean}, standard deviation {config.std}",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "Weights": f"sha256 {encoder.sha256} as ssl-toolkit counts it",
    }
    head = ["---", "library_name: timm", "pipeline_tag: image-feature-extraction", "tags:", "- timm", "---"]
    lines = [*head, f"An image encoder{by}, without labels, by ssl-toolkit.", ""]
    lines += [f"- **{name}:** {fact}" for name, fact in facts.items()]
    lines += ["", "```python", _hf_lines(encoder, Path("this-folder")), "```", ""]
    return "\n".join(lines)


def _hf_lines(encoder: Encoder, path: Path) -> str:
    return "\n".join(
        [
            "import timm, torch",
            "from torchvision.transforms.v2 import Normalize",
            f"model = timm.create_model({'local-dir:' + str(path)!r}, pretrained=True, num_classes=0)",
            _normalized(encoder, "model"),
        ]
    )


def _write_module(encoder: Encoder, path: Path, method: str) -> None:
    if encoder.own_module is not None or encoder.config.colours != "rgb":
        reason = "is a module of yours" if encoder.own_module is not None else f"sees {encoder.config.colours}"
        raise UsageError(
            f"--format torch does not fit this encoder: it {reason}, and more than torch and timm would be needed to "
            "load it; give --format torch-export"
        )
    network = _copy(encoder).backbone
    if isinstance(network, ConvNet):
        network = nn.Sequential(network.features, network.global_pool)
    torch.save(nn.Sequential(OrderedDict(normalize=_normalize(encoder), network=network)).eval(), path)


def _module_lines(encoder: Encoder, path: Path) -> str:
    return f"import torch\nencode = torch.load({str(path)!r}, weights_only=False)"


def _load_module(encoder: Encoder, path: Path) -> Encode:
    """Without running what a pickle may hold: classes of common libraries alone."""
    found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    foreign = [name for name in found if name.split(".")[0] not in COMMON_LIBRARIES]
    if foreign:
        raise UsageError(
            f"--format torch does not fit this encoder: {foreign[0]} is needed to load it; give torch-export"
        )
    homes = (name.rpartition(".") for name in found)
    with torch.serialization.safe_globals([getattr(importlib.import_module(home), name) for home, _, name in homes]):
        module: nn.Module = torch.load(path, weights_only=True)
    return module


def _copy(encoder: Encoder) -> Encoder:
    """Laid out as other programs expect it, and without the look at each image's range, which no tracer follows."""
    copied = copy.deepcopy(encoder).cpu().to(memory_format=torch.contiguous_format)
    copied.checks_range = False
    return copied


def _example(encoder: Encoder) -> Tensor:
    """Images to trace with; of one or none, the tracer would make a constant."""
    config = encoder.config
    return torch.full((2, config.channels, config.image_size, config.image_size), 0.5)


def _write_exported(encoder: Encoder, path: Path, method: str) -> None:
    program = torch.export.export(_copy(encoder), (_example(encoder),), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, path)


def _exported_lines(encoder: Encoder, path: Path) -> str:
    return f"import torch\nencode = torch.export.load({str(path)!r}).module()"


def _write_onnx(encoder: Encoder, path: Path, method: str) -> None:
    for library in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(library)
        except ImportError as error:
            raise missing_extra("--format onnx", "onnx") from error
    torch.onnx.export(
        _copy(encoder),
        (_example(encoder),),
        path,
        dynamo=True,
        external_data=False,
        input_names=["images"],
        output_names=["features"],
        dynamic_shapes=({0: torch.export.Dim("n")},),
        verbose=False,
    )


def _onnx_lines(encoder: Encoder, path: Path) -> str:
    return "\n".join(
        [
            "import onnxruntime",
            f"session = onnxruntime.InferenceSession({str(path)!r})",
            "encode = lambda images: session.run(None, {'images': images.numpy()})[0]",
        ]
    )


FORMATS = {
    "timm": Format(".safetensors", _write_timm, _timm_lines, _by_its_lines(_timm_lines)),
    "torch": Format(".pt", _write_module, _module_lines, _load_module),
    "torch-export": Format(".pt2", _write_exported, _exported_lines, _by_its_lines(_exported_lines)),
    "onnx": Format(".onnx", _write_onnx, _onnx_lines, _by_its_lines(_onnx_lines), 1e-4),
    "hf": Format("", _write_hf, _hf_lines, _by_its_lines(_hf_lines)),
}


def difference(encoder: Encoder, encode: Encode, images: Tensor) -> float:
    """How far the features of `encode` are from the encoder's own, as a share of the largest of these.

    Args:
        encoder: In eval mode, on the CPU.
        encode: See `Format.lines`.
        images: (N, C, H, W) float in [0, 1].
    """
    with torch.no_grad():
        own, theirs = encoder(images), torch.as_tensor(encode(images))
    if own.shape != theirs.shape:
        return float("inf")
    return float((own - theirs).abs().max() / own.abs().max().clamp(min=1e-12))
