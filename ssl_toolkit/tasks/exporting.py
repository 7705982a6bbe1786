"""Export: an encoder as a file that others read without this package."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ssl_toolkit.errors import ToolkitError, UsageError, said_by
from ssl_toolkit.files import make_folder
from ssl_toolkit.runs import RunFolder
from ssl_toolkit.tasks.settings import AnyData, AnyPath, AnyTrained, Weights

if TYPE_CHECKING:
    from torch import Tensor

    from ssl_toolkit.encoders import Encoder

COMPARED_ON = 16  # images
RENDERED = "shapes:test"  # where an encoder comes without images


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file, or folder.
        lines: Python that makes ``encode`` of it, from float images (N, C, H, W) in [0, 1] to features (N, D).
        difference: Largest difference of a feature from the encoder's own, as a share of the largest feature.
        compared_on: The images that were encoded by both.
    """

    path: Path
    lines: str
    difference: float
    compared_on: str

    def __str__(self) -> str:
        compared = f"features of {self.compared_on} differ by {self.difference:.1g} of the largest"
        return f"{self.lines}\n\n{self.path}: {compared}"


def export(
    run: AnyTrained,
    out: AnyPath,
    format: Literal["timm", "torch", "torch-export", "onnx", "hf"] = "timm",
    data: AnyData | None = None,
    overwrite: bool = False,
    data_root: str | None = None,
) -> Exported:
    """Write an encoder as others read it, once it was loaded again and gave the same features of real images.

    In Python, `run` may be whatever `load_run_encoder` takes, and `data` whatever `open_images` takes.

    Args:
        run: Run folder or encoder file; or weights of timm by name (resnet18.a1_in1k), or a file of weights (see
            `architecture`).
        out: What to write: a file, with hf a folder.
        format: Kind of file: weights for timm (timm); a module of torch with the normalisation in it (torch), the same
            traced, for programs without its code (torch-export, onnx); a folder for the Hugging Face hub (hf).
        data: Images on which both are compared; if not given, those of the run, of a file alone rendered shapes.
        overwrite: Replace what is at `out`.
        data_root: Folder of torchvision's data sets; if not given, the run's own.

    Returns:
        What was written, and the lines of Python that load it.

    Raises:
        UsageError: If there is no such encoder, the format does not fit it, or `out` is there or has another suffix.
        ToolkitError: If what was written cannot be loaded, or gives other features: nothing is kept then.

    Examples:
        >>> import tempfile
        >>> from ssl_toolkit import Encoder, export
        >>> from ssl_toolkit.encoders import EncoderConfig
        >>> encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     written = export(encoder, f"{folder}/encoder.pt", format="torch")
        >>> written.path.name, written.difference < 0.001
        ('encoder.pt', True)
    """
    from ssl_toolkit.encoders.formats import FORMATS, difference
    from ssl_toolkit.tasks.start import load_run_encoder

    kind, path = FORMATS[format], Path(out)
    if path.suffix != kind.suffix and kind.suffix:
        raise UsageError(f"--out {path}: what --format {format} writes ends in {kind.suffix}")
    if path.exists() and not overwrite:
        raise UsageError(f"--out {path} exists: name another one, or give --overwrite")
    encoder, metadata = load_run_encoder(run, data, data_root)
    images, word = _images(encoder, run, data, data_root)
    make_folder(path.absolute().parent, "--out")
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.tmp-", dir=path.absolute().parent) as folder:
        written = Path(folder) / path.name
        try:
            kind.write(encoder, written, metadata["method"])
            apart = difference(encoder, kind.load(encoder, written), images)
        except (ToolkitError, OSError):
            raise
        except Exception as error:  # of tracers and loaders of other libraries, on networks of any kind
            raise ToolkitError(f"--format {format} failed on this encoder: {said_by(error)}") from error
        if not apart <= kind.tolerance:
            raise ToolkitError(
                f"--format {format}: features of {word} differ by {apart:.1g} of the largest when loaded again, more "
                f"than {kind.tolerance:g}: nothing is written"
            )
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(written, path)
    config = encoder.config
    shapes = f"(N, {config.channels}, {config.image_size}, {config.image_size}) in [0, 1] -> (N, {encoder.feature_dim})"
    call = f"features = encode(images)  # float {shapes}"
    return Exported(path, f"{kind.lines(encoder, path)}\n{call}", apart, word)


def _images(encoder: "Encoder", run: Any, data: Any, data_root: str | None) -> "tuple[Tensor, str]":
    """Some images as evaluation shows them to the encoder, and which they are."""
    import torch

    from ssl_toolkit.data.image_set import read_some
    from ssl_toolkit.eval.features.sample import draw_from, shuffled

    if data is not None:
        images = draw_from(data, encoder, root=data_root)
    else:
        try:
            config = RunFolder(Weights.of(run).path).config()  # type: ignore[arg-type]  # a module is none: TypeError
            images = draw_from(config["data"], encoder, root=data_root or config["data_root"])
        except (TypeError, UsageError):  # no run, or one whose images lie on another machine
            images = draw_from(RENDERED, encoder)
    view, images = encoder.eval_view(), images.few()
    read = read_some(images, shuffled(images), COMPARED_ON, encoder.config.load_size)
    if not read:
        raise ToolkitError(f"--data {images.word}: none of its images can be read")
    made = [view(torch.from_numpy(image)[None]) for image in read]
    return torch.cat(made), f"{len(made)} images of {images.word}"
