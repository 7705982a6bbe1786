"""What tasks take: the kinds of their arguments, defaults out of signatures; names, types and ranges checked."""

# Nothing heavy is imported here: the command line reads limits and signatures before it knows what is to be done.
import inspect
import os
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from ssl_toolkit.errors import UsageError, unknown_name
from ssl_toolkit.objects import describe
from ssl_toolkit.runs import flatten

if TYPE_CHECKING:
    from torch import nn

    from ssl_toolkit.eval.search.index import EmbeddingIndex

    AnyPath: TypeAlias = str | os.PathLike[str]
    AnyData: TypeAlias = Any  # whatever `open_images` takes
    AnyTrained: TypeAlias = AnyPath | nn.Module | "Weights"  # whatever `load_run_encoder` takes
    AnyIndex: TypeAlias = AnyPath | EmbeddingIndex
else:  # of the command line, words
    AnyPath = AnyData = AnyTrained = AnyIndex = str


AnyRange: TypeAlias = str | tuple[float, float]  # see `parse_range`
AnyChannels: TypeAlias = str | tuple[int, ...]  # see `parse_picture_channels`


@dataclass(frozen=True)
class Weights:
    """Weights from elsewhere, in the place of a run: timm's by name, or a file of another project.

    Attributes:
        path: The name or file.
        architecture: Timm architecture (or convnet) of a file of weights of another project; `run` is that file.
        weights_key: Which of several networks in that file, such as student; if not given, the teacher or the only one.
        image_size: Side of the images that such weights are shown, pixels; if not given, what timm shows them.
        mean: Mean of each channel that they were trained with, in [0, 1]; if not given, timm's, of a file ImageNet's.
        std: Standard deviation likewise.
        range: Values of images deeper than 8 bits that become 0 and 1, such as 0,4095; auto measures those of the data.
            A run has its own.

    Examples:
        >>> Weights("moco.pth", architecture="resnet50").image_size is None
        True
    """

    path: AnyTrained
    architecture: str | None = None
    weights_key: str | None = None
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    range: AnyRange | None = None

    @classmethod
    def of(cls, run: AnyTrained) -> "Weights":
        """What stands for a run, with how it is read."""
        return run if isinstance(run, cls) else cls(run)


@dataclass(frozen=True)
class EncoderOptions:
    """How a new encoder is built; of one that is there already, nothing of this counts.

    Attributes:
        stem: A ResNet's first layer. small: a 3x3 one and no max-pool; auto: so under 64 px.
        norm: layer: layer norms in the place of batch norms; auto: where the method needs it.
        patch_size: Side of a ViT's patches, pixels; if not given, its own, but of those named patch8, patch16 or
            patch32 at most an eighth of image_size.
        heads: A ViT's heads, which divide its width; if not given, its own.
        positions: sincos: a ViT's positions are sines and cosines, which are not trained.
        init: Whose first weights a ViT with random ones has.
        registers: Tokens of a ViT beside its class token and patches; if not given, its own.
        pool: mean: features are the mean of a ViT's patches; own: its class token, if it has one; auto: as the method's
            paper has it.
        checkpoint_activations: Compute a ViT's blocks again in the backward pass, in the place of keeping
            what they were: the same gradients for less memory, in about a third more time.
        normalize: Mean and standard deviation that images are normalised with. imagenet: its; data: those of the data,
            measured on up to 2,000 images; auto: those of timm's weights, else imagenet's.
        mean: Mean of each channel instead, in [0, 1].
        std: Standard deviation likewise.
    """

    stem: Literal["auto", "small", "standard"] = "auto"
    norm: Literal["auto", "batch", "layer"] = "auto"
    patch_size: int | None = None
    heads: int | None = None
    positions: Literal["learned", "sincos"] = "learned"
    init: Literal["timm", "moco_v3", "mae"] = "timm"
    registers: int | None = None
    pool: Literal["auto", "own", "mean"] = "auto"
    checkpoint_activations: bool = False
    normalize: Literal["auto", "imagenet", "data"] = "auto"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


# Least and largest value of each number a user may give.
LIMITS: dict[str, tuple[float, float]] = {
    "image_size": (8, 4096),
    "views.size": (8, 4096),
    "load_size": (8, 4096),
    "encoder.patch_size": (0, 4096),
    "encoder.heads": (1, 1024),
    "encoder.registers": (0, 64),
    "channels": (1, 4096),
    "epochs": (1, 10**6),
    "batch_size": (2, 10**6),
    "seeds": (1, 1000),
    "workers": (0, 256),
    "max_bad_rate": (0, 1),
    "accumulate": (1, 10**4),
    "devices": (1, 1024),
    "nodes": (1, 10**4),
    "recalibrate": (0, 10**9),
    "clip_gradient": (0, float("inf")),
    "checkpoint_every": (1, 10**9),
    "knn_every": (0, 10**6),
    "optimizer.lr": (1e-12, 1e6),
    "optimizer.weight_decay": (0, 10),
    "optimizer.final_weight_decay": (0, 10),
    "optimizer.momentum": (0, 1),
    "optimizer.warmup": (0, 0.99),
    "optimizer.final_lr_share": (0, 1),
    "optimizer.bias_lr_share": (0, 1),
}


def check_numbers(config: dict[str, Any], limits: dict[str, tuple[float, float]] = LIMITS) -> None:
    """Refuse numbers out of range.

    Raises:
        UsageError: Naming the option, its value and its range.
    """
    for key, value in flatten(config).items():
        if key not in limits or value is None or isinstance(value, str):  # auto
            continue
        low, high = limits[key]
        if not low <= value <= high:
            allowed = f"at least {low:g}" if high >= 10**4 else f"from {low:g} to {high:g}"
            raise UsageError(f"{_option(key)} is {value}: it must be {allowed}")


def with_defaults(
    function: Callable[..., Any], given: Mapping[str, Any], group: str = "", skip: Iterable[str] = ()
) -> dict[str, Any]:
    """Arguments of `function`, those that are not given by their defaults; their names and types checked.

    Args:
        function: Its signature says what there is.
        given: Arguments by name.
        group: What stands before their names in errors, ``"method"``.
        skip: Parameters that are no settings.

    Raises:
        UsageError: Naming the first argument that does not exist, is missing or is of another type.
    """
    parameters = {name: p for name, p in inspect.signature(function).parameters.items() if name not in {*skip}}
    prefix = f"{group}." if group else ""
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for name in given:
            if name not in parameters:
                raise unknown_name("option", prefix + name, [prefix + known for known in parameters])
    named = {name: p for name, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    values = {name: p.default for name, p in named.items()} | dict(given)
    hints = _hints(function)
    for name, value in values.items():
        if value is inspect.Parameter.empty:
            raise UsageError(f"{_option(prefix + name)} is missing")
        if not _fits(value, hints.get(name, object)):
            shown = repr(value) if isinstance(value, str | Real | list | tuple | None) else describe(value)
            raise UsageError(f"{_option(prefix + name)} is {shown[:80]}: it must be {in_words(hints[name])}")
        if type(value) is not bool and isinstance(value, Real):  # NumPy's numbers too
            values[name] = int(value) if isinstance(value, Integral) else float(value)
    return values


def _option(name: str) -> str:
    """A setting as the command line spells it."""
    return f"--{name.replace('_', '-')}"


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(getattr(function, "__init__") if isinstance(function, type) else function)  # noqa: B009
    except NameError:  # a type that is imported for type checkers only
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type, as far as plain types go; what is no plain type fits."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return any(value == part and type(value) is type(part) for part in parts)
    if origin is tuple and Ellipsis not in parts:
        fitting = isinstance(value, list | tuple) and len(value) == len(parts)
        return fitting and all(_fits(each, part) for each, part in zip(value, parts, strict=True))
    if hint is float or hint is int:
        return isinstance(value, Real if hint is float else Integral) and not isinstance(value, bool)
    return isinstance(value, hint) if hint in (bool, str, types.NoneType) else True


def in_words(hint: Any) -> str:
    """What a value of a type is, as it reads behind "it must be"."""
    parts = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType, Literal):
        return " or ".join(in_words(part) for part in parts)
    if get_origin(hint) is tuple and Ellipsis in parts:
        return f"a list, each of it {in_words(parts[0])}"
    if get_origin(hint) is tuple:
        return f"({', '.join(in_words(part) for part in parts)})"
    if hint is types.NoneType:
        return "None"
    return {int: "a whole number", float: "a number", bool: "True or False", str: "text"}.get(hint, str(hint))
