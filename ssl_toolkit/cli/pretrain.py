"""``ssl-toolkit pretrain``: images in, a run folder with an encoder out."""

# No `from __future__ import annotations` here: to resolve such annotations, the parser would import torch.
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ssl_toolkit.cli.parser import (
    Parser,
    config_file,
    normalize,
    option_value,
    read_config,
    say,
    with_config_to_resume,
)
from ssl_toolkit.errors import UsageError
from ssl_toolkit.methods import configured_method, installed_methods, method_class
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.runs import RunFolder, flatten, launched_rank, start_run

if TYPE_CHECKING:
    import numpy as np
    import pytorch_lightning as pl
    import torch
    from numpy.typing import NDArray

    from ssl_toolkit.data.sources import ImageSet
    from ssl_toolkit.encoders import Encoder
    from ssl_toolkit.method import Method

GROUPS = ("method", "encoder", "optimizer")
NESTED = (*GROUPS, "views")
NOT_STORED = ("resume", "overwrite", "progress")
FIT = (
    *("epochs", "seed", "precision", "accumulate", "clip_gradient", "accelerator", "devices", "sync_batch_norm"),
    *("checkpoint_every", "resume", "progress"),
)  # fmt: skip


def pretrain(
    method: str | dict[str, Any],
    data: str,
    out: str,
    encoder: str | dict[str, Any] | None = None,
    weights: str | None = None,
    weights_key: str | None = None,
    views: dict[str, Any] | None = None,
    optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 - frozen
    image_size: int | None = None,
    load_size: int | None = None,
    channels: int | None = None,
    labels: Literal["auto", "folder", "none"] = "auto",
    epochs: int = 100,
    batch_size: int = 256,
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    cache: Literal["auto", "device", "memory", "none"] = "auto",
    data_root: str = "data",
    max_bad_rate: float = 0.01,
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "auto"] = "auto",
    accumulate: int = 1,
    clip_gradient: float = 0.0,
    compile: Literal["auto", "always", "never"] = "auto",
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto",
    devices: int = 1,
    sync_batch_norm: bool = True,
    checkpoint_every: int | None = None,
    knn_every: int = 0,
    doctor: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Pretrain an encoder without labels.

    Args:
        method: Name of an installed method (see ``ssl-toolkit methods``) or class path, or a dictionary of that
            ``name`` and the method's own options.
        data: Images: a folder, a .csv manifest, an .npz or .npy array, or a word like cifar10:train or shapes:train; or
            clips of 8 frames of video, every second one, clips:PATH:8:2.
        out: The run folder to make.
        encoder: Name of a timm architecture or ``convnet``, or of timm's weights (``resnet18.a1_in1k``,
            ``hf-hub:...``), or a run folder or encoder file to start from, or a dictionary of that ``name``, ``stem``,
            ``norm``, ``patch_size``, ``normalize``, ``mean`` and ``std``; if not given, resnet18, or what the method
            needs.
        weights: File of weights of another project to start from, of the architecture that `encoder` names: a
            safetensors file, or what torch.save wrote (.pth, .pt).
        weights_key: Which of several networks in that file, such as student; if not given, the teacher or the only one.
        views: Options of the method's recipe of views.
        optimizer: How the weights are moved.
        image_size: Side of the images that the encoder is for, and of the views, in pixels; if not given, what the
            images have, at most 224.
        load_size: Short side to which images are resized when read; if not given, image_size under 64 px, 8/7 of it
            above.
        channels: Channels of the images; if not given, 3 for image files, the array's own for arrays.
        labels: Whether subfolders of a folder are classes; only ``knn_every`` looks at labels.
        epochs: Passes over the images.
        batch_size: Images a batch, on each device.
        seed: Decides everything that is random.
        workers: Processes that read images, for each device; auto takes as many as there are cores for it, from 2 to
            16.
        cache: Whether decoded images are kept in memory, or on the device; auto keeps up to 2 GiB, and on a GPU keeps
            them there where a quarter of its free memory suffices.
        data_root: Folder of torchvision's data sets, to which they are downloaded.
        max_bad_rate: Share of images that may be unreadable before the run fails, in [0, 1].
        precision: Arithmetic of the training; auto takes bf16-mixed on a GPU that computes in it natively, 32-true
            elsewhere.
        accumulate: Batches an optimiser step.
        clip_gradient: Largest norm of the gradient; 0 leaves it alone.
        compile: Whether torch.compile is applied to the encoder and the views; auto does so on a GPU for runs of at
            least 2,000 steps, which are worth the minute that it takes.
        accelerator: Type of device.
        devices: Devices that train together, a process and a batch each; on the CPU, processes.
        sync_batch_norm: Whether batch norm is over the batches of all devices.
        checkpoint_every: Optimiser steps between checkpoints; if not given, one every five minutes and one at the end.
        knn_every: Epochs between kNN scores on a part of the images, if they have labels; 0 for none.
        doctor: Whether embeddings are watched for a collapse, with a warning and advice when one is found.
        resume: Whether to go on with the run in `out`, if there is one.
        overwrite: Whether a run in `out` may be deleted.
        progress: Whether a progress bar is shown.

    Returns:
        The run folder.

    Raises:
        UsageError: If something asked for does not exist or does not fit.
        ToolkitError: If the training fails.

    Example:
        >>> pretrain("simclr", data="shapes:train", out="runs/a", encoder="convnet", epochs=10)  # doctest: +SKIP
    """
    given = {k: v for k, v in locals().items() if v is not None}
    began = time.perf_counter()
    given |= {group: {"name": given[group]} for group in GROUPS if isinstance(given.get(group), str)}
    given["optimizer"] = vars(optimizer)
    return run(make_parser(given["method"].get("name")).settings_of(given), began)


def make_parser(method: str | None, parser: Parser | None = None) -> Parser:
    """The command's parser, with the options of `method` and of its views; without one, only the common options.

    Args:
        method: Name or class path.
        parser: Of another command that trains the same way, with the common options.
    """
    parser = parser or Parser("pretrain", pretrain, skip=NESTED)
    found = None if method is None else method_class(method)
    names = ", ".join(installed_methods())
    about = f"the method: {names}, or a class path; with it, --help also lists the method's own options"
    parser.add_argument("--method.name", type=str, required=True, metavar="NAME", help=about)
    parser.add_argument(
        "--encoder.name",
        type=str,
        default=found.default_encoder if found else "resnet18",
        metavar="NAME",
        help="a timm architecture, its weights by their tag (resnet18.a1_in1k) or from the hub (hf-hub:...), convnet "
        "(small, for CPUs), or a run folder or encoder file to start from",
    )
    parser.add_argument(
        "--encoder.stem",
        type=Literal["auto", "small", "standard"],
        default="auto",
        help="small: a 3x3 first layer and no max-pool in ResNets; auto: so under 64 px",
    )
    parser.add_argument(
        "--encoder.norm",
        type=Literal["auto", "batch", "layer"],
        default="auto",
        help="layer: layer norms in the place of batch norms; auto: where the method needs it",
    )
    parser.add_class_arguments(OptimizerConfig, "optimizer")
    parser.add_argument(
        "--encoder.patch_size",
        type=int | None,
        default=None,
        help="side of a ViT's patches, pixels; if not given, its own, but of those named patch8, patch16 or patch32 at "
        "most an eighth of image_size",
    )
    parser.add_argument(
        "--encoder.normalize",
        type=Literal["auto", "imagenet", "data"],
        default="auto",
        help="mean and standard deviation that images are normalised with: imagenet's; those of the data, measured on "
        "up to 2,000 images; auto: those of timm's weights, else imagenet's",
    )
    for name in ("mean", "std"):
        about = f"the {name} of each channel instead, in [0, 1]: [0.5,0.5,0.5]"
        parser.add_argument(f"--encoder.{name}", type=tuple[float, ...] | None, default=None, help=about)
    if found is not None:
        parser.add_class_arguments(found, "method", skip={"encoder", "views", "optimizer"})
        about = "Height and width of a view, pixels; if not given, image_size"
        parser.add_argument("--views.size", type=int | None, default=None, help=about)
        parser.add_function_arguments(found.default_views, "views", skip={"size", "channels"})
    for group in GROUPS:
        parser.add_named_group(group)
    return parser


def main(argv: list[str]) -> None:
    """The command."""
    began = time.perf_counter()
    argv = normalize(argv, GROUPS)
    argv = with_config_to_resume(argv)
    settings = make_parser(chosen_method(argv)).parse(argv)
    if settings is not None:
        path = run(settings, began)
        if launched_rank() == 0:
            say(f"done: {path}. Next: ssl-toolkit evaluate {path} --train DATA --test DATA")
            print(path)


def chosen_method(argv: list[str]) -> str | None:
    """The method that normalised arguments or their config file name; None if only help was asked for.

    Raises:
        UsageError: If there is none.
    """
    method, config = option_value(argv, "method.name"), config_file(argv)
    if method is None and config is not None:
        method = (read_config(config, GROUPS).get("method") or {}).get("name")
    if method is None and not {"-h", "--help"} & set(argv):
        raise UsageError(f"--method is missing: one of {', '.join(installed_methods())}, or a class path")
    return method


def assemble(config: dict[str, Any]) -> tuple["ImageSet", "Method"]:
    """The images and the method that `config` says; what it leaves open is filled in.

    Raises:
        UsageError: If something asked for does not exist or does not fit.
    """
    import torch

    from ssl_toolkit.data.loader import full_batches, read_some
    from ssl_toolkit.data.sources import open_images
    from ssl_toolkit.randomness import derive_seed
    from ssl_toolkit.training import native_bf16, on_cuda

    if config["workers"] == "auto":
        config["workers"] = readers(config["devices"])
    check_numbers(config)
    check_accelerator(config["accelerator"], config["devices"])
    native = native_bf16(config["accelerator"])
    if config["precision"] == "auto":
        config["precision"] = "bf16-mixed" if native and on_cuda(config["accelerator"]) else "32-true"
    elif config["precision"] == "bf16-mixed" and not native:
        say("this device has no bfloat16 of its own and will be very slow: --precision auto avoids that")
    images = open_images(config["data"], root=config["data_root"], labels=config["labels"], channels=config["channels"])
    full_batches(images, config["batch_size"], config["devices"])
    torch.manual_seed(derive_seed(config["seed"], "init"))
    encoder = build_encoder(config, images)
    config |= {"image_size": encoder.config.image_size, "load_size": encoder.config.load_size}
    config["views"]["size"] = config["views"]["size"] or encoder.config.image_size
    method = build_method(config, encoder, images)
    # What can never be read or trained as asked is better said before the run has a folder.
    for image in read_some(images, [0], 1, encoder.config.load_size):
        try_step(method, image)
    return images, method


def readers(devices: int) -> int:
    """Processes that read for each device: all devices share this machine's cores."""
    return max(2, min(16, available_cores() // max(1, devices)))


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def try_step(method: "Method", image: "NDArray[np.uint8]") -> None:
    """Ask a copy of the method for one step.

    Raises:
        UsageError: Views are too small for the task, or do not fit it in another way.
    """
    import copy

    import torch
    from pytorch_lightning.utilities.seed import isolate_rng

    from ssl_toolkit.data.batch import Batch

    two = torch.from_numpy(image).expand(2, -1, -1, -1)
    batch = Batch(two, torch.full((2,), -1), torch.zeros(2, dtype=torch.int64))
    with isolate_rng(), torch.no_grad():
        trial = copy.deepcopy(method).eval()
        trial.step(trial.views(batch.image), batch)


def run(config: dict[str, Any], began: float) -> Path:
    """Train what `config` says, all of it resolved (see `pretrain`).

    Args:
        config: The settings.
        began: When the command began, on `time.perf_counter`'s clock.

    Returns:
        The run folder.
    """
    from ssl_toolkit.data.loader import BadImages, ImageLoader, cached, full_batches
    from ssl_toolkit.training import WORTH_COMPILING, fit

    start = time.perf_counter()
    images, method = assemble(config)
    encoder = method.encoder
    rank, world_size, size = launched_rank(), config["devices"], encoder.config.load_size
    folder = RunFolder(config["out"])
    if rank == 0:
        start_run(
            config["out"],
            {k: v for k, v in config.items() if k not in NOT_STORED},
            overwrite=config["overwrite"],
            resume=config["resume"],
        )
        say(
            f"{config['method']['name']}: {len(images)} images of '{images.word}' at {size} px, "
            f"{encoder.config.name} with {encoder.feature_dim} features"
        )
    bad = BadImages(images, folder.bad_images(rank), config["max_bad_rate"])
    listed = time.perf_counter()
    device = own_device(config["accelerator"])
    cuda = device.type == "cuda"
    shown = config["progress"] and rank == 0
    images = cached(images, size, bad, config["cache"], config["workers"], shown, device)
    read = time.perf_counter()
    steps = full_batches(images, config["batch_size"], world_size) * config["epochs"] // config["accumulate"]
    compiled = config["compile"] == "always" or (config["compile"] == "auto" and cuda and steps >= WORTH_COMPILING)
    if rank == 0:
        say(
            f"start: {start - began:.1f} s to load the program, {listed - start:.1f} s to list images and build the "
            f"method, {read - listed:.1f} s to read them"
        )
        if compiled and config["compile"] == "auto":
            say(f"compiling encoder and views, worth it for {steps:,} steps: --compile never leaves it")
    loader = ImageLoader(
        images,
        size,
        batch_size=config["batch_size"],
        shuffle=True,
        seed=config["seed"],
        workers=config["workers"],
        bad=bad,
        rank=rank,
        world_size=world_size,
        device=device,
    )
    try:
        fit(
            method,
            loader,
            folder,
            callbacks=[*online_knn(config, images, encoder), *collapse_doctor(config), first_step(read, rank)],
            compile=compiled,
            **{name: config[name] for name in FIT},
        )
    except UsageError:
        if rank == 0 and not any(folder.checkpoints.iterdir()):
            folder.empty()  # nothing was trained, and the command can be given again
        raise
    return folder.path


def own_device(accelerator: str) -> "torch.device":
    """The device that Lightning gives to this one of the processes that train together."""
    import torch

    from ssl_toolkit.training import on_cuda

    return torch.device("cuda", launched_rank()) if on_cuda(accelerator) else torch.device("cpu")


def first_step(since: float, rank: int) -> "pl.Callback":
    """Says, in the first process, when the first step was done: compiling and choosing kernels come before that."""
    from pytorch_lightning.callbacks import LambdaCallback

    waiting = [since] if rank == 0 else []

    def tell(*_: Any) -> None:
        if waiting:
            say(f"first step done {time.perf_counter() - waiting.pop():.1f} s later")

    return LambdaCallback(on_train_batch_end=tell)


# Least and largest value of each number a user may give.
LIMITS: dict[str, tuple[float, float]] = {
    "image_size": (8, 4096),
    "views.size": (8, 4096),
    "load_size": (8, 4096),
    "encoder.patch_size": (0, 4096),
    "channels": (1, 4096),
    "epochs": (1, 10**6),
    "batch_size": (2, 10**6),
    "workers": (0, 256),
    "max_bad_rate": (0, 1),
    "accumulate": (1, 10**4),
    "devices": (1, 1024),
    "clip_gradient": (0, float("inf")),
    "checkpoint_every": (1, 10**9),
    "knn_every": (0, 10**6),
    "optimizer.lr": (1e-12, 1e6),
    "optimizer.weight_decay": (0, 10),
    "optimizer.final_weight_decay": (0, 10),
    "optimizer.momentum": (0, 1),
    "optimizer.warmup": (0, 0.99),
}


def check_numbers(config: dict[str, Any], limits: dict[str, tuple[float, float]] = LIMITS) -> None:
    """Refuse numbers out of range.

    Raises:
        UsageError: Naming the option, its value and its range.
    """
    for key, value in flatten(config).items():
        if key not in limits or value is None:
            continue
        low, high = limits[key]
        if not low <= value <= high:
            allowed = f"at least {low:g}" if high >= 10**4 else f"from {low:g} to {high:g}"
            raise UsageError(f"--{key.replace('_', '-')} is {value}: it must be {allowed}")


def check_accelerator(name: str, devices: int) -> None:
    """Refuse devices that are not there.

    Raises:
        UsageError: Naming the option.
    """
    import torch

    from ssl_toolkit.cli.common import check_device

    check_device("--accelerator", name)
    gpus = torch.cuda.device_count() if name in ("auto", "gpu") else 0
    if gpus and devices > gpus:
        raise UsageError(f"--devices is {devices}: this machine has {gpus} of that type")
    if name == "mps" and devices > 1:
        raise UsageError(f"--devices is {devices}: --accelerator mps has one")


def build_encoder(config: dict[str, Any], images: "ImageSet") -> "Encoder":
    """A new encoder, or the one that ``--encoder`` points to."""
    from ssl_toolkit.cli.common import default_load_size, default_patch_size, natural_size
    from ssl_toolkit.cli.start import normalization, refuse_options_of_a_start, start_encoder, timm_image_size
    from ssl_toolkit.encoders import EncoderConfig, load_encoder
    from ssl_toolkit.pretrained import names_weights

    name, size, load_size = config["encoder"]["name"], config["image_size"], config["load_size"]
    given = load_encoder(name) if Path(name).exists() else None
    channels = images.channels // images.frames
    if given is not None and given.config.channels != channels:
        raise UsageError(
            f"the encoder {name} takes {given.config.channels} channels, the images have {channels}: "
            f"give --channels {given.config.channels}"
        )
    if given is not None and size is None:
        size, load_size = given.config.image_size, load_size or given.config.load_size
    has_weights = names_weights(name) or config["weights"] is not None
    size = size or (timm_image_size(name) if names_weights(name) else natural_size(images))
    load_size = load_size or default_load_size(size)
    if load_size < size:
        raise UsageError(
            f"--load-size {load_size} is smaller than --image-size {size}: views are cut from what is read"
        )
    if given is not None:
        refuse_options_of_a_start(config)
        return load_encoder(name, image_size=size, load_size=load_size).train()
    found = method_class(config["method"]["name"])
    stem, norm, patch_size = (config["encoder"][key] for key in ("stem", "norm", "patch_size"))
    norm = found.encoder_norm if norm == "auto" else norm
    if patch_size is None:
        patch_size = 0 if has_weights else default_patch_size(name, size)
    mean, std = normalization(config["encoder"], images, load_size)
    asked = EncoderConfig(
        name, channels, size, load_size, stem, norm, found.encoder_colours, patch_size, mean=mean, std=std
    )
    return start_encoder(asked, config["weights"], config["weights_key"]).train()


def build_method(config: dict[str, Any], encoder: "Encoder", images: "ImageSet") -> "Method":
    """The method around its encoder, with its views and optimiser."""
    found = method_class(config["method"]["name"])
    if images.frames > 1 and not found.takes_clips:
        others = " or ".join(name for name in installed_methods() if method_class(name).takes_clips)
        raise UsageError(
            f"--method {config['method']['name']} takes single images, '{images.word}' has clips of {images.frames} "
            f"frames: give --method {others}, or clips of one frame, clips:PATH:1"
        )
    if images.frames < found.min_frames:
        raise UsageError(
            f"--method {config['method']['name']} takes clips of at least {found.min_frames} frames, '{images.word}' "
            f"has {'single images' if images.frames == 1 else f'{images.frames}'}: give --data clips:PATH:4"
        )
    return configured_method(config, encoder, images.channels)


def online_knn(config: dict[str, Any], images: "ImageSet", encoder: "Encoder") -> list["pl.Callback"]:
    """The callback behind ``--knn-every``: up to 5,000 of the images vote on 1,000 others."""
    if not config["knn_every"]:
        return []
    from ssl_toolkit.data.loader import BadImages, ImageLoader, Subset
    from ssl_toolkit.eval.callbacks import OnlineKNN
    from ssl_toolkit.randomness import numpy_generator

    if (images.labels < 0).any():
        raise UsageError(f"--knn-every needs labels, and '{images.word}' has none: leave it out")
    order = numpy_generator(0, "online-knn").permutation(len(images))[:6000]
    test = max(1, len(order) // 6)
    parts = [Subset(images, part) for part in (order[test:], order[:test])]
    # The training itself judges how many bad images are too many.
    bank, queries = (ImageLoader(p, encoder.config.load_size, bad=BadImages(p, max_rate=1.0)) for p in parts)
    return [OnlineKNN(bank, queries, config["knn_every"], view=encoder.eval_view())]


def collapse_doctor(config: dict[str, Any]) -> list["pl.Callback"]:
    """The callback behind ``--doctor``."""
    if not config["doctor"]:
        return []
    from ssl_toolkit.eval.doctor import CollapseDoctor

    return [CollapseDoctor(tell=say)]
