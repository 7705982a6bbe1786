"""Pretraining: images in, a run folder with an encoder out."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
import inspect
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ssl_toolkit.errors import UsageError
from ssl_toolkit.launch import check_processes, nodes
from ssl_toolkit.methods import method_class, method_name
from ssl_toolkit.objects import describe, is_object, missing_object, plain
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.progress import say
from ssl_toolkit.runs import RunFolder, launched_rank, local_rank, start_run
from ssl_toolkit.tasks.run import Run, Runs
from ssl_toolkit.tasks.settings import AnyRange, EncoderOptions, check_numbers, with_defaults

if TYPE_CHECKING:
    import pytorch_lightning as pl
    import torch
    from pytorch_lightning.loggers.logger import Logger

    from ssl_toolkit.augment import Views
    from ssl_toolkit.data.image_set import ImageSet
    from ssl_toolkit.data.loader import ImageLoader
    from ssl_toolkit.encoders import Encoder
    from ssl_toolkit.method import Method

    AnyMethod: TypeAlias = str | type[Method] | Method | Mapping[str, Any]
    AnyEncoder: TypeAlias = str | os.PathLike[str] | torch.nn.Module | Mapping[str, Any]
    AnyViews: TypeAlias = Mapping[str, Any] | Views | Callable[[torch.Tensor], torch.Tensor]
    AnyOptimizer: TypeAlias = (
        OptimizerConfig | Mapping[str, Any] | Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
    )
    AnyLogger: TypeAlias = bool | str | Logger | Sequence[str | Logger]
    AnyCallbacks: TypeAlias = pl.Callback | Sequence[pl.Callback]
else:  # the command line does not offer these, and need not import what they are
    AnyMethod = AnyEncoder = AnyViews = AnyOptimizer = AnyLogger = AnyCallbacks = object

NOT_STORED = ("seeds", "resume", "extend", "overwrite", "progress")
FIT = (
    *("epochs", "seed", "precision", "accumulate", "clip_gradient", "clip_mode", "accelerator", "devices"),
    *("strategy", "sync_batch_norm", "checkpoint_every", "requeue", "resume", "progress", "logger"),
)  # fmt: skip


def pretrain(
    method: AnyMethod,
    data: Any,
    out: str | os.PathLike,  # type: ignore[type-arg]  # with its argument, the command line could not look at it
    encoder: AnyEncoder | None = None,
    views: AnyViews | None = None,
    optimizer: AnyOptimizer = OptimizerConfig(),  # noqa: B008 - frozen
    weights: str | None = None,
    weights_key: str | None = None,
    image_size: int | None = None,
    load_size: int | None = None,
    channels: int | None = None,
    range: AnyRange | None = None,
    labels: Literal["auto", "folder", "none"] = "auto",
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    seeds: int | None = None,
    workers: int | Literal["auto"] = "auto",
    cache: Literal["auto", "device", "memory", "none"] = "auto",
    data_root: str = "data",
    max_bad_rate: float = 0.01,
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "auto"] = "auto",
    accumulate: int = 1,
    clip_gradient: float = 0.0,
    clip_mode: Literal["norm", "parameter"] = "norm",
    compile: Literal["auto", "always", "never"] = "auto",
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto",
    devices: int = 1,
    nodes: int | None = None,
    strategy: Literal["ddp", "fsdp"] = "ddp",
    sync_batch_norm: bool = True,
    recalibrate: int = 0,
    checkpoint_every: int | None = None,
    requeue: bool = True,
    knn_every: int = 0,
    doctor: bool = True,
    callbacks: AnyCallbacks | None = None,
    logger: AnyLogger = "auto",
    resume: bool = False,
    extend: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Run:
    """Pretrain an encoder without labels.

    Args:
        method: Name of an installed method (see ``ssl-toolkit methods``) or class path, a class, or a dictionary of
            that ``name`` and the method's own options. Or an instance, which is trained itself, with its own encoder,
            views and optimiser.
        data: Images: a folder, a .csv manifest, an .npz or .npy array, or a word like cifar10:train, wds:shards/ or
            hf:NAME:train; or clips of 8 frames of video, every second one, clips:PATH:8:2. Or an object of Python: a
            list of paths, an array or tensor, a data set (see `open_images`).
        out: The run folder to make.
        encoder: Name of a timm architecture or ``convnet``, or of timm's weights (``resnet18.a1_in1k``,
            ``hf-hub:...``), or a run folder or encoder file to start from, or a dictionary of that ``name`` and the
            options of `EncoderOptions`; if not given, without an accelerator the small convnet, with one resnet18, or
            what the method needs. Or an `Encoder`, or any module from images (N, C, H, W) to (N, D), (N, D, h, w) or
            (N, tokens, D), which gets images centred and scaled as `EncoderConfig` says; both are copied.
        views: Options of the method's recipe of views, of which those that are not given fit images and encoder; or
            `Views`; or a function from float images in [0, 1] (N, C, H, W) to such images, applied once a view (see
            `OwnViews`).
        optimizer: How the weights are moved: its options, as an `OptimizerConfig` or a dictionary; or a function from
            parameter groups to an optimiser of torch, whose learning rate then follows the default schedule.
        weights: File of weights of another project to start from, of the architecture that `encoder` names: a
            safetensors file, or what torch.save wrote (.pth, .pt).
        weights_key: Which of several networks in that file, such as student; if not given, the teacher or the only one.
        image_size: Side of the images that the encoder is for, and of the views, in pixels; if not given, what the
            images have, at most 224, for the small encoder at most 64.
        load_size: Short side to which images are resized when read; if not given, image_size under 64 px, 8/7 of it
            above.
        channels: Channels of the images; if not given, 3 for image files, the array's own for arrays. Other than 1 and
            3 are read of TIFF and DICOM files.
        range: Values of images deeper than 8 bits that become 0 and 1, such as 0,4095, all others clamped; auto
            measures them. If not given, 0 to 65535 of 16 bits, 0 to 1 of floats, of DICOM files what their window
            shows. Kept with the encoder.
        labels: Classes of a folder: its subfolders (folder), or these if they look it (auto); none drops all
            labels. Only ``knn_every`` looks at them.
        epochs: Passes over the images; if not given, 100, without an accelerator what ends in some 20 minutes.
        batch_size: Images a batch, on each device; if not given, 256, without an accelerator 128, of few images less.
        seed: Decides everything that is random.
        seeds: How many runs to make, one after the other, with this seed and those after it, in folders seed0, seed1,
            ... of `out`.
        workers: Processes that read images, for each device; auto takes as many as there are cores for it, from 2 to
            16.
        cache: Keep decoded images in memory, or on the device; auto keeps up to 2 GiB, and on a GPU keeps
            them there where a quarter of its free memory suffices.
        data_root: Folder of torchvision's data sets, to which they are downloaded.
        max_bad_rate: Share of images that may be unreadable before the run fails, in [0, 1].
        precision: Arithmetic of the training; auto takes bf16-mixed on a GPU that computes in it natively, 32-true
            elsewhere.
        accumulate: Batches an optimiser step.
        clip_gradient: Largest norm of the gradient; 0 leaves it alone.
        clip_mode: Whose norm that is: of all gradients together, or of each parameter's own.
        compile: Apply torch.compile to the encoder and the views; auto does so on a GPU for runs of at
            least 2,000 steps, which are worth the minute that it takes.
        accelerator: Type of device.
        devices: Devices of each machine that train together, a process and a batch each; on the CPU, processes.
        nodes: Machines that train together; if not given, as many as torchrun or srun has started this command on.
        strategy: What each process holds of the weights: ddp, all of them; fsdp, its share, which are gathered for each
            block as it comes, for encoders too large for a device.
        sync_batch_norm: Let batch norms see the batches of all devices.
        recalibrate: Images on which the kept encoder's batch norms measure their statistics anew when training has
            ended; 0 keeps those of the training.
        checkpoint_every: Optimiser steps between checkpoints; if not given, one every five minutes and one at the end.
        requeue: Put a SLURM job that a signal warns of its end (sbatch --signal=USR1@120) back into the queue when it
            has saved; it then goes on by itself.
        knn_every: Epochs between kNN scores on a part of the images, if they have labels; 0 for none.
        doctor: Watch embeddings for a collapse; when one is found, warn and advise.
        callbacks: More callbacks of Lightning.
        logger: Where metrics go besides metrics.csv: csv (nowhere else), tensorboard, wandb, mlflow, a logger of
            Lightning, or a list of these; auto takes tensorboard if it is installed.
        resume: Go on with the run in `out`, if there is one; objects are given again.
        extend: With resume, whether to go on to more epochs than the run was to have; schedules go on from where those
            of the new length stand, without a second warm-up, and the run says that it was extended.
        overwrite: Delete a run that is in `out`.
        progress: Show a progress bar.

    Returns:
        The run: its folder, encoder and metrics; with `seeds`, `Runs`, a list of them.

    Raises:
        UsageError: If something asked for does not exist or does not fit.
        ToolkitError: If the training fails.

    Examples:
        >>> import tempfile
        >>> small = {"encoder": "convnet", "image_size": 32, "batch_size": 32, "epochs": 1, "workers": 0}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = pretrain("simclr", data="shapes:train:64", out=f"{folder}/run", progress=False, **small)
        ...     sorted(path.name for path in run.path.iterdir())
        ['checkpoints', 'config.yaml', 'encoder.safetensors', 'metrics.csv']
    """
    # The type is that of the usual case: with the other in it, whoever has types would have to tell them apart always.
    return train(dict(locals()), time.perf_counter())  # type: ignore[return-value]


def train(given: Mapping[str, Any], began: float) -> Run | Runs:
    """Train what `given`, all arguments of `pretrain`, says; see there.

    Args:
        given: The arguments by name.
        began: When the program began, on `time.perf_counter`'s clock.
    """
    if given["seeds"] is None:
        return Run(run(settings_of(given), began), given)
    check_numbers({"seeds": given["seeds"]})
    if not isinstance(_named(given["method"])["name"], str | type):
        raise UsageError("--seeds trains several methods, and method is an object: give its class")
    for option in ("devices", "nodes"):
        if (given[option] or 1) > 1:
            raise UsageError(f"--{option} is {given[option]}: with --seeds it must be 1; start each --seed by itself")
    if RunFolder(given["out"]).config_file.is_file():
        raise UsageError(f"--out {given['out']} holds a run already: --seeds needs a folder for several")
    made = []
    for seed in range(given["seed"], given["seed"] + given["seeds"]):
        one = {**given, "seeds": None, "seed": seed, "out": Path(given["out"]) / f"seed{seed}"}
        made.append(Run(run(settings_of(one), began), one))
    return Runs(made)


def settings_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of `pretrain`: what is given, objects as they are, and the defaults for the rest.

    What fits images and machine stays open: None, and views that are left out.

    Args:
        given: Arguments of `pretrain` by name; or a run's configuration.

    Raises:
        UsageError: Naming the first that does not exist, is missing, or is of another kind.
    """
    settings = with_defaults(pretrain, given)
    method = _named(settings["method"])
    options = {name: value for name, value in method.items() if name != "name"}
    found = method_class(method.get("name", ""))
    encoder, views, optimizer = (settings[name] for name in ("encoder", "views", "optimizer"))
    if not isinstance(method["name"], str | type):
        from ssl_toolkit.tasks.assembly import method_parts

        if options:
            raise UsageError(f"method is an object, which has its own {', '.join(options)}: give the class for others")
        settings |= {"method": method, **method_parts(method["name"], encoder, views, optimizer)}
    else:
        skip = ("encoder", "views", "optimizer")
        settings["method"] = {"name": method["name"], **with_defaults(found, options, "method", skip)}
        settings |= {"views": _view_settings(found, views), "optimizer": _optimizer_settings(optimizer)}
        encoder = {} if encoder is None else _named(encoder)
        name = encoder.pop("name", None)
        settings["encoder"] = {"name": name, **with_defaults(EncoderOptions, encoder, "encoder")}
    return settings | {"callbacks": _callback_list(settings["callbacks"])}


def _named(given: Any) -> dict[str, Any]:
    """A group of settings with its name, where that alone may stand for it."""
    return dict(given) if isinstance(given, Mapping) else {"name": given}


def _view_settings(found: "type[Method]", views: Any) -> Any:
    if views is not None and not isinstance(views, Mapping):
        from ssl_toolkit.tasks.assembly import check_views

        return check_views(views)
    options = dict(views or {})
    size = options.pop("size", None)
    checked = with_defaults(found.default_views, options, "views", skip=("size", "channels"))
    return {"size": size, **{name: checked[name] for name in options}}


def _optimizer_settings(optimizer: Any) -> Any:
    if isinstance(optimizer, OptimizerConfig):
        optimizer = asdict(optimizer)
    if isinstance(optimizer, Mapping):
        return with_defaults(OptimizerConfig, optimizer, "optimizer")
    if not callable(optimizer) and not is_object(optimizer):
        raise UsageError(
            f"optimizer is {describe(optimizer)}: give an OptimizerConfig, a dictionary of its options, or a function "
            "from parameter groups to an optimiser"
        )
    return optimizer


def _callback_list(callbacks: Any) -> list[Any]:
    from pytorch_lightning import Callback

    listed = [] if callbacks is None else [callbacks] if isinstance(callbacks, Callback) else callbacks
    each: Any
    for each in listed if isinstance(listed, Sequence) and not isinstance(listed, str) else [listed]:
        if is_object(each):
            raise missing_object("callbacks", each)
        if not isinstance(each, Callback):
            raise UsageError(f"callbacks holds {describe(each)}: it must be a callback of Lightning, or a list of them")
    return list(listed)


def stored_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as ``config.yaml`` holds them: of objects there are descriptions, of classes where they are found."""
    config: dict[str, Any] = plain({name: value for name, value in settings.items() if name not in NOT_STORED})
    config["method"]["name"] = method_name(settings["method"]["name"])
    if not isinstance(settings["data"], str | os.PathLike):
        config["data"] = describe(settings["data"])
    if not config["callbacks"]:
        del config["callbacks"]  # which no command line gives
    return config


def run(config: dict[str, Any], began: float) -> Path:
    """Train what `config` says, all of it resolved (see `pretrain`).

    Args:
        config: The settings.
        began: When the program began, on `time.perf_counter`'s clock.

    Returns:
        The run folder.
    """
    from ssl_toolkit.recalibration import batch_norms
    from ssl_toolkit.tasks.assembly import assemble
    from ssl_toolkit.training import fit

    start = time.perf_counter()
    check_processes(config["devices"], config["nodes"])
    if config["nodes"] is None:
        config["nodes"] = nodes()
    folder, first = RunFolder(config["out"]), launched_rank() == 0
    config = _with_what_was_begun(config, folder, first)
    images, method = assemble(config)
    if first:
        if config["recalibrate"]:
            batch_norms(method.kept_encoder)  # refuses an encoder without
        begin_run(config, images, method.encoder)
    listed = time.perf_counter()
    loader = training_loader(config, images, method.encoder.config.load_size, folder)
    read = time.perf_counter()
    if first:
        say(
            f"start: {start - began:.1f} s to load the program, {listed - start:.1f} s to list images and build the "
            f"method, {read - listed:.1f} s to read them"
        )
    try:
        callbacks = [*online_knn(config, loader.images, method.encoder), *collapse_doctor(config), first_step(read)]
        fit(
            method,
            loader,
            folder,
            callbacks=[*callbacks, *config["callbacks"]],
            # The folder of a new run is the first process's to make: it may hold another run yet.
            first_epochs=folder.first_epochs(config["epochs"]) if config["resume"] else None,
            compile=worth_compiling(config, len(loader)),
            **{name: config[name] for name in FIT},
        )
        if config["recalibrate"] and first:
            _recalibrate(config, folder, loader.images)
    except UsageError:
        if first and not any(folder.checkpoints.iterdir()):
            folder.empty()  # nothing was trained, and the command can be given again
        raise
    return folder.path


def _with_what_was_begun(config: dict[str, Any], folder: RunFolder, first: bool) -> dict[str, Any]:
    """The settings of a run that may have begun before, by this command or by a requeued job."""
    from ssl_toolkit.tasks.defaults import as_begun

    if folder.is_of_this_job():
        config |= {"resume": True, "overwrite": False}
        if first:
            say(f"this job has begun the run in {folder.path}, and goes on with it")
    if config["resume"] and folder.config_file.is_file():
        return as_begun(config, folder.config())
    return config


def _recalibrate(config: dict[str, Any], folder: RunFolder, images: "ImageSet") -> None:
    """Measure the batch norms of the encoder that a run has kept anew."""
    from ssl_toolkit.encoders import encoder_metadata, save_encoder
    from ssl_toolkit.recalibration import recalibrate

    encoder = Run(folder.path, config).encoder
    recalibrate(encoder, images, config["recalibrate"], seed=config["seed"], device=own_device(config["accelerator"]))
    save_encoder(encoder.cpu(), folder.encoder_file, encoder_metadata(folder.encoder_file)["method"])


def begin_run(config: dict[str, Any], images: "ImageSet", encoder: "Encoder") -> None:
    """Make the run folder with its settings, and say what is about to be trained."""
    stored = stored_settings(config)
    how = {name: config[name] for name in ("overwrite", "resume", "extend")}
    start_run(config["out"], stored, **how, usual=_usual(config) if config["resume"] else None)
    say(
        f"{stored['method']['name']}: {len(images)} images of '{images.word}' at {encoder.config.load_size} px, "
        f"{encoder.config.name} with {encoder.feature_dim} features"
    )


def _usual(config: dict[str, Any]) -> dict[str, Any]:
    """The defaults of all settings that have one, of a method that is named."""
    from ssl_toolkit.tasks.defaults import view_defaults

    method = config["method"]
    if not isinstance(method["name"], str | type):
        return {}
    found = method_class(method["name"])
    required = {name for name, p in inspect.signature(found).parameters.items() if p.default is p.empty}
    needed = {name: value for name, value in method.items() if name in required}
    usual = stored_settings(settings_of({"method": {"name": found, **needed}, "data": "", "out": ""}))
    return usual | {"views": plain(view_defaults(found))}


def training_loader(config: dict[str, Any], images: "ImageSet", size: int, folder: RunFolder) -> "ImageLoader":
    """Batches for this one of the processes that train together, of images that are kept where ``cache`` says.

    Args:
        config: The settings.
        images: The images.
        size: Short side at which they are read, pixels.
        folder: Of the run, where those are listed that cannot be read.
    """
    from ssl_toolkit.data.bad_images import BadImages
    from ssl_toolkit.data.cache import cached
    from ssl_toolkit.data.loader import ImageLoader

    rank, device = launched_rank(), own_device(config["accelerator"])
    bad = BadImages(images, folder.bad_images(rank), config["max_bad_rate"])
    shown = config["progress"] and rank == 0
    return ImageLoader(
        cached(images, size, bad, config["cache"], config["workers"], shown, device),
        size,
        batch_size=config["batch_size"],
        shuffle=True,
        seed=config["seed"],
        workers=config["workers"],
        bad=bad,
        rank=rank,
        world_size=config["devices"] * nodes(),
        device=device,
    )


def worth_compiling(config: dict[str, Any], batches: int) -> bool:
    """Whether encoder and views are compiled; says so where it was left open. `batches` are those of an epoch."""
    from ssl_toolkit.training import WORTH_COMPILING

    steps = batches * config["epochs"] // config["accumulate"]
    on_gpu = own_device(config["accelerator"]).type == "cuda" and config["strategy"] == "ddp"
    if config["compile"] != "auto" or not on_gpu or steps < WORTH_COMPILING:
        return bool(config["compile"] == "always")
    if launched_rank() == 0:
        say(f"compiling encoder and views, worth it for {steps:,} steps: --compile never leaves it")
    return True


def own_device(accelerator: str) -> "torch.device":
    """The device that Lightning gives to this one of the processes that train together."""
    import torch

    from ssl_toolkit.training import on_cuda

    return torch.device("cuda", local_rank()) if on_cuda(accelerator) else torch.device("cpu")


def first_step(since: float) -> "pl.Callback":
    """Says, in the first process, when the first step was done: compiling and choosing kernels come before that."""
    from pytorch_lightning.callbacks import LambdaCallback

    waiting = [since] if launched_rank() == 0 else []

    def tell(*_: Any) -> None:
        if waiting:
            say(f"first step done {time.perf_counter() - waiting.pop():.1f} s later")

    return LambdaCallback(on_train_batch_end=tell)


def online_knn(config: dict[str, Any], images: "ImageSet", encoder: "Encoder") -> list["pl.Callback"]:
    """The callback behind ``--knn-every``: up to 5,000 of the images vote on 1,000 others; processes share them out."""
    if not config["knn_every"]:
        return []
    import numpy as np

    from ssl_toolkit.data.bad_images import BadImages
    from ssl_toolkit.data.image_set import Subset
    from ssl_toolkit.data.loader import ImageLoader
    from ssl_toolkit.eval.health.callbacks import OnlineKNN
    from ssl_toolkit.randomness import numpy_generator

    if (images.labels < 0).any():
        raise UsageError(f"--knn-every needs labels from the start, and '{images.word}' has none: leave it out")
    order = numpy_generator(0, "online-knn").permutation(len(images))[:6000]
    test, together = max(1, len(order) // 6), config["devices"] * nodes()
    # As many in each process, which step together where weights are shared out: some come twice where it does not fit.
    shares = (np.resize(part, -(-len(part) // together) * together) for part in (order[test:], order[:test]))
    parts = [Subset(images, share[launched_rank() :: together]) for share in shares]
    # The training itself judges how many bad images are too many.
    bank, queries = (ImageLoader(p, encoder.config.load_size, bad=BadImages(p, max_rate=1.0)) for p in parts)
    return [OnlineKNN(bank, queries, config["knn_every"], view=encoder.eval_view())]


def collapse_doctor(config: dict[str, Any]) -> list["pl.Callback"]:
    """The callback behind ``--doctor``."""
    if not config["doctor"]:
        return []
    from ssl_toolkit.eval.health.doctor import CollapseDoctor

    return [CollapseDoctor(tell=say)]
