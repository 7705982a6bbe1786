"""From the settings of a pretraining to its parts: images, encoder, views, method."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities.seed import isolate_rng
from torch import nn

from ssl_toolkit.augment import Views
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.data.depth import Pixels
from ssl_toolkit.data.image_set import ImageSet, Labels, read_some
from ssl_toolkit.data.loader import full_batches
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.encoders import (
    Encoder,
    EncoderConfig,
    check_weights,
    checkpoint_activations,
    encoder_config,
    load_encoder,
    names_weights,
)
from ssl_toolkit.errors import UsageError
from ssl_toolkit.launch import nodes
from ssl_toolkit.logs import check_logger
from ssl_toolkit.method import Method
from ssl_toolkit.methods import configured_method, installed_methods, method_class, method_name
from ssl_toolkit.objects import describe, is_object, missing_object
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.progress import say
from ssl_toolkit.randomness import derive_seed
from ssl_toolkit.runs import available_cores, launched_rank
from ssl_toolkit.tasks.common import check_device, default_load_size, default_patch_size
from ssl_toolkit.tasks.defaults import fill_open
from ssl_toolkit.tasks.settings import check_numbers
from ssl_toolkit.tasks.start import (
    known_range,
    normalization,
    refuse_options_of_a_start,
    start_encoder,
    timm_image_size,
)
from ssl_toolkit.training import automatic_precision, native_bf16


def assemble(config: dict[str, Any]) -> tuple[ImageSet, Method]:
    """The images and the method that `config` says; what it leaves open is filled in, and said.

    Raises:
        UsageError: If something asked for does not exist or does not fit.
    """
    if config["workers"] == "auto":
        config["workers"] = readers(config["devices"])
    check_numbers(config)
    check_accelerator(config["accelerator"], config["devices"])
    check_logger(config["logger"])
    if config["clip_mode"] == "parameter" and not config["clip_gradient"]:
        raise UsageError("--clip-mode parameter clips to --clip-gradient, which is 0: give that too, or leave it out")
    if config["precision"] == "auto":
        config["precision"] = automatic_precision(config["accelerator"])
    elif config["precision"] == "bf16-mixed" and not native_bf16(config["accelerator"]):
        say("this device has no bfloat16 of its own and will be very slow: --precision auto avoids that")
    images = training_images(config)
    start = _given_encoder(config)
    chosen = _fill_sizes(config, images, start)
    full_batches(images, config["batch_size"], config["devices"] * nodes())
    torch.manual_seed(derive_seed(config["seed"], "init"))
    encoder = build_encoder(config, images, start)
    if config["encoder"].get("checkpoint_activations"):
        checkpoint_activations(encoder.backbone, encoder.config.name)
    method = build_method(config, encoder, images)
    if config["strategy"] == "fsdp":
        check_fsdp(config, method)
    # What can never be read or trained as asked is better said before the run has a folder.
    few = images.few()
    for image in read_some(few, [0], 1, config["load_size"]):
        try_step(method, image, few.caption(0), few.sound(0))
    if chosen and launched_rank() == 0:
        say(chosen)
    return images, method


def training_images(config: dict[str, Any]) -> ImageSet:
    """The images to train on; their range is filled in.

    Labels of a data set in Python may take a pass over it: without a use, they are left.

    Raises:
        UsageError: There are none, or a range is stated where there is another one, or nothing that it is for.
    """
    is_word = isinstance(config["data"], str | os.PathLike)
    labels: Labels = config["labels"] if is_word or config["knn_every"] else "none"
    asked, start = config["range"], _start_config(config)
    wanted = asked
    if start is not None and start.range is not None:
        wanted = known_range(asked, start, _called(config["encoder"]["name"]))
    images = open_images(
        config["data"], root=config["data_root"], labels=labels, channels=config["channels"], range=wanted
    )
    if asked is not None and images.dtype == np.uint8:
        raise UsageError(f"--range {asked}: the images of '{images.word}' have 8 bits, from 0 to 255: leave it out")
    if asked == "auto" and images.range is not None and launched_rank() == 0:
        say(f"range: {images.range[0]:g} to {images.range[1]:g}, all but the outer thousandths of the values")
    config["range"] = images.range
    return images


def readers(devices: int) -> int:
    """Processes that read for each device: all devices share this machine's cores."""
    return max(2, min(16, available_cores() // max(1, devices)))


def try_step(
    method: Method, image: Pixels, caption: str | None = None, sound: NDArray[np.float16] | None = None
) -> None:
    """Ask a copy of the method for one step, of an image and what belongs to it.

    Raises:
        UsageError: Views are too small for the task, or do not fit it in another way.
    """
    two = torch.from_numpy(image).expand(2, -1, -1, -1)
    heard = None if sound is None else torch.from_numpy(sound).expand(2, -1, -1)
    captions = None if caption is None else [caption, caption]
    batch = Batch(two, torch.full((2,), -1), torch.zeros(2, dtype=torch.int64), caption=captions, sound=heard)
    with isolate_rng(), torch.no_grad():
        trial = copy.deepcopy(method).eval()
        trial.step(trial.views(batch.image), batch)


def check_accelerator(name: str, devices: int) -> None:
    """Refuse devices that are not there.

    Raises:
        UsageError: Naming the option.
    """
    check_device("--accelerator", name)
    gpus = torch.cuda.device_count() if name in ("auto", "gpu") else 0
    if gpus and devices > gpus:
        raise UsageError(f"--devices is {devices}: this machine has {gpus} of that type")
    if name == "mps" and devices > 1:
        raise UsageError(f"--devices is {devices}: --accelerator mps has one")


def check_fsdp(config: dict[str, Any], method: Method) -> None:
    """Refuse to share weights out where that cannot be, or was never tried.

    Raises:
        UsageError: Naming the option that does not go with it.
    """
    if config["devices"] * nodes() == 1:
        raise UsageError("--strategy fsdp shares weights out over processes, and there is one: give more --devices")
    if config["precision"] == "16-mixed":
        raise UsageError("--strategy fsdp does not go with --precision 16-mixed: give bf16-mixed or 32-true")
    if config["compile"] == "always":
        raise UsageError("--strategy fsdp does not go with --compile always: leave one of them out")
    if not method.automatic_optimization:
        raise UsageError(
            f"--strategy fsdp does not go with {type(method).__name__} and its adversary, which steps by hand: give "
            "--method.adversarial-weight 0, or leave it out"
        )


def build_encoder(config: dict[str, Any], images: ImageSet, start: Encoder | None) -> Encoder:
    """A new encoder, or that to start from, for images of the sizes that are settled.

    Raises:
        UsageError: If the encoder to start from takes images with other channels, or is given options of a new one.
    """
    if start is None:
        return _new_encoder(config, images).train()
    channels = images.channels // images.frames
    if start.config.channels != channels:
        raise UsageError(
            f"the encoder {_called(config['encoder']['name'])} takes {start.config.channels} channels, the images have "
            f"{channels}: give --channels {start.config.channels}"
        )
    refuse_options_of_a_start(config)
    return _sized(start, config["image_size"], config["load_size"], config).train()


def _fill_sizes(config: dict[str, Any], images: ImageSet, start: Encoder | None) -> str:
    """Sizes of images: as asked, of the encoder to start from, of timm's weights, or what fits; then all that is open.

    Returns:
        What was chosen, in a line or two.

    Raises:
        UsageError: If they do not fit together.
    """
    name, size, load_size = config["encoder"]["name"], config["image_size"], config["load_size"]
    if start is not None and size is None:
        size, load_size = start.config.image_size, load_size or start.config.load_size
    config["image_size"] = size or (timm_image_size(name) if _names_weights(name) else None)
    chosen = fill_open(config, images, start)
    size = config["image_size"]
    load_size = load_size or default_load_size(size)
    if load_size < size:
        raise UsageError(
            f"--load-size {load_size} is smaller than --image-size {size}: views are cut from what is read"
        )
    config["load_size"] = load_size
    return chosen


def _new_encoder(config: dict[str, Any], images: ImageSet) -> Encoder:
    """The encoder that the settings describe: around a module, or by the name of an architecture or of weights."""
    options, found = config["encoder"], method_class(config["method"]["name"])
    name, size, load_size = options["name"], config["image_size"], config["load_size"]
    mean, std = normalization(options, images, load_size)
    asked = EncoderConfig(
        describe(name) if isinstance(name, nn.Module) else name,
        images.channels // images.frames,
        size,
        load_size,
        colours=found.encoder_colours,
        mean=mean,
        std=std,
        range=images.range,
    )
    if isinstance(name, nn.Module):
        return Encoder(asked, copy.deepcopy(name))
    norm = found.encoder_norm if options["norm"] == "auto" else options["norm"]
    patch_size = options["patch_size"]
    if patch_size is None:
        has_weights = _names_weights(name) or config["weights"] is not None
        patch_size = 0 if has_weights else default_patch_size(name, size)
    vit = {"patch_size": patch_size} | {n: options[n] or 0 for n in ("heads", "registers")}
    vit |= {n: options[n] for n in ("positions", "init")}
    vit["pool"] = found.encoder_pool if options["pool"] == "auto" else options["pool"]
    asked = replace(asked, stem=options["stem"], norm=norm, **vit)
    return start_encoder(asked, config["weights"], config["weights_key"])


def _names_weights(name: Any) -> bool:
    return isinstance(name, str) and names_weights(name)


def _given_encoder(config: dict[str, Any]) -> Encoder | None:
    """The encoder to start from, if that is what is asked for: a copy, or that of a method that is there already."""
    name, method = config["encoder"]["name"], config["method"]["name"]
    if isinstance(method, Method):
        return method.encoder
    if name is None:
        return None
    if isinstance(name, Encoder):
        return copy.deepcopy(name)
    if isinstance(name, str | os.PathLike):
        if is_object(name):
            raise missing_object("encoder", os.fspath(name))
        return load_encoder(name) if Path(name).exists() else None
    if not isinstance(name, nn.Module):
        raise UsageError(f"encoder is {describe(name)}: give a name, a run or encoder file, an Encoder or a module")
    return None


def _start_config(config: dict[str, Any]) -> EncoderConfig | None:
    """The configuration of the encoder to start from, read without its weights; None of a new one."""
    name, method = config["encoder"]["name"], config["method"]["name"]
    if isinstance(method, Method):
        return method.encoder.config
    if isinstance(name, Encoder):
        return name.config
    if isinstance(name, str | os.PathLike) and Path(name).exists():
        return encoder_config(name)
    return None


def _sized(given: Encoder, size: int, load_size: int, config: dict[str, Any]) -> Encoder:
    """The encoder for images of these sizes, in the range that was stated."""
    sized = replace(given.config, image_size=size, load_size=load_size, range=config["range"] or given.config.range)
    if sized == given.config:
        return given
    if isinstance(config["method"]["name"], Method):
        asked = {"image_size": size, "load_size": load_size, "range": sized.range}
        other = [f"{name} {value}" for name, value in asked.items() if value != getattr(given.config, name)]
        raise UsageError(f"{', '.join(other)}: the method's encoder has its own: leave that out")
    encoder, weights = Encoder(sized, given.own_module), given.backbone.state_dict()
    check_weights(encoder, weights, _called(config["encoder"]["name"]))
    encoder.backbone.load_state_dict(weights)
    return encoder


def _called(name: Any) -> str:
    return os.fspath(name) if isinstance(name, str | os.PathLike) else describe(name)


def build_method(config: dict[str, Any], encoder: Encoder, images: ImageSet) -> Method:
    """The method around its encoder, with its views and optimiser."""
    asked = config["method"]["name"]
    found, called = method_class(asked), method_name(asked)
    if images.frames > 1 and not found.takes_clips:
        others = " or ".join(name for name in installed_methods() if method_class(name).takes_clips)
        raise UsageError(
            f"--method {called} takes single images, '{images.word}' has clips of {images.frames} "
            f"frames: give --method {others}, or clips of one frame, clips:PATH:1"
        )
    if isinstance(asked, Method):
        return asked
    method = configured_method(config, encoder, images.channels)
    if not isinstance(config["optimizer"], dict | str):
        method.optimizer_function = config["optimizer"]
    return method


def method_parts(method: Method, encoder: object, views: object, optimizer: object) -> dict[str, Any]:
    """What a method that is there already brings for the other settings.

    Raises:
        UsageError: If one of these is given too.
    """
    own_optimizer = None if optimizer == OptimizerConfig() else optimizer
    for name, other in (("encoder", encoder), ("views", views), ("optimizer", own_optimizer)):
        if other is not None:
            raise UsageError(f"method is an object, which has its own {name}: leave {name} out, or give the class")
    return {
        "encoder": {"name": method.encoder},
        "views": method.views,
        "optimizer": method.optimizer_function or asdict(method.optimizer_config),
    }


def check_views(views: object) -> Views | Callable[..., Any]:
    """Views that are no dictionary of options.

    Raises:
        UsageError: If they are not what makes views either, or only their description.
    """
    if is_object(views):
        raise missing_object("views", str(views))
    if not callable(views):
        raise UsageError(
            f"views is {describe(views)}: give a dictionary of options, Views, or a function from images to images"
        )
    return views
