"""The run on the page: what was trained, what could not be read, how to get it again, and with which versions."""

from __future__ import annotations

import csv
import dataclasses
import json
import platform
import shlex
from importlib.metadata import version
from typing import Any

import torch
import yaml

from ssl_toolkit.encoders import Encoder, encoder_metadata, load_encoder
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.eval.report.compare import sets_of
from ssl_toolkit.runs import RunFolder, available_cores, flatten

BAD_SHOWN = 5
LIBRARIES = ("ssl-toolkit", "torch", "torchvision", "pytorch-lightning", "kornia", "timm", "faiss-cpu", "numpy")


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a run trained.

    Attributes:
        encoder: On the CPU.
        method: What it was trained by.
        sha256: Of its weights.
        versions: Of the libraries that it was trained with.
    """

    encoder: Encoder
    method: str
    sha256: str
    versions: dict[str, str]

    @classmethod
    def load(cls, folder: RunFolder) -> Trained:
        """Read it from a run.

        Raises:
            ToolkitError: There is no encoder yet, or it is damaged.
        """
        if not folder.encoder_file.is_file():
            raise ToolkitError("the run has no encoder yet: it is written with the first checkpoint")
        metadata = encoder_metadata(folder.path)
        return cls(load_encoder(folder.path), metadata["method"], metadata["sha256"], json.loads(metadata["versions"]))


def read_config(folder: RunFolder) -> dict[str, Any]:
    """The settings of a run.

    Raises:
        ToolkitError: They are damaged.
    """
    try:
        config = folder.config()
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ToolkitError(f"{folder.config_file} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise ToolkitError(f"{folder.config_file} is damaged: it holds no settings")
    return config


def facts_part(folder: RunFolder, config: dict[str, Any], trained: Trained | None) -> list[tuple[str, str]]:
    """What was run, in a few pairs of words."""
    flat = flatten(config)

    def get(key: str) -> Any:
        return flat.get(key, "?")

    facts = [("images", str(get("data"))), ("encoder", str(get("encoder.name")))]
    if trained is not None:
        count = sum(weight.numel() for weight in trained.encoder.backbone.parameters())
        facts += [
            ("features", f"{trained.encoder.feature_dim}"),
            ("parameters", f"{count / 1e6:.3g} million"),
            ("image size", f"{trained.encoder.config.image_size} px"),
        ]
    return [
        *facts,
        ("epochs", ", ".join(filter(None, (f"{get('epochs')}", folder.extended())))),
        ("batch size", f"{get('batch_size')}"),
        ("optimiser", f"{get('optimizer.name')}, lr {get('optimizer.lr')}"),
        ("precision", f"{get('precision')}"),
        ("seed", f"{get('seed')}"),
    ]


def bad_images_part(folder: RunFolder, results: dict[str, Any] | None) -> dict[str, Any] | None:
    """Images that could not be read: of the training from their file, of the scoring as numbers; None if all could."""
    first: list[tuple[str, str]] = []
    count = 0
    if folder.bad_images_file.exists():
        with folder.bad_images_file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
            try:
                for count, row in enumerate(csv.reader(lines)):  # the header is number 0
                    if 0 < count <= BAD_SHOWN:
                        first.append((row[0], " ".join(row[1:])))
            except (csv.Error, IndexError) as error:
                raise ToolkitError(f"{folder.bad_images_file} is damaged: {error}") from error
    sets = {} if results is None else sets_of(results)
    parts = [each["protocol"][part] for each in sets.values() for part in ("train", "test")]
    scored = {part["data"]: part["bad"] for part in parts if part.get("bad")}
    if not count and not scored:
        return None
    return {"count": count, "first": first, "more": count - len(first), "scored": scored}


def commands_part(folder: RunFolder, results: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What to type to get all of this again."""
    data = ["--train", "DATA", "--test", "DATA"] if results is None else _data_options(sets_of(results))
    before = [str(each["epochs"]) for each in folder.extensions()]
    first = ["--epochs", before[0]] if before else []
    longer = [*before[1:], str(read_config(folder)["epochs"])] if before else []
    again = ["pretrain", "--out", "NEW_FOLDER", "--resume", "--extend", "--epochs"]
    commands = (
        ("train", ["pretrain", "--config", str(folder.config_file), *first, "--out", "NEW_FOLDER"]),
        *(("extend", [*again, epochs]) for epochs in longer),
        ("score", ["evaluate", str(folder.path), *data]),
        ("report", ["report", str(folder.path)]),
    )
    return [(what, f"ssl-toolkit {shlex.join(words)}") for what, words in commands]


def _data_options(sets: dict[str, dict[str, Any]]) -> list[str]:
    """The options of ``ssl-toolkit evaluate`` that name its labelled sets."""
    options = ["--sets"] if "" not in sets else []
    for name, labelled in sets.items():
        protocol = labelled["protocol"]
        words = [protocol["train"]["data"], *([] if protocol.get("left_out") else [protocol["test"]["data"]])]
        if name:
            options.append(f"{name}={','.join(words)}")
        else:
            options += [word for pair in zip(("--train", "--test"), words, strict=False) for word in pair]
    return options


def versions_part(trained: Trained | None) -> list[tuple[str, str]]:
    """What the encoder was trained with, as far as it says so, and what made the page."""
    used = {"trained with": {} if trained is None else trained.versions}
    used["this page"] = {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}
    return [(what, ", ".join(f"{name} {number}" for name, number in of.items())) for what, of in used.items() if of]


def machine() -> str:
    """The kind of machine, in general words."""
    system = {"Darwin": "macOS"}.get(platform.system(), platform.system())
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{system} on {platform.machine()}, {available_cores()} CPU cores, {', '.join(gpus) or 'no GPU'}"
