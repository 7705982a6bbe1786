"""DICOM files, by the package pydicom (the extra ``[dicom]``): an image, or the frames of one, and its own window."""

from __future__ import annotations

import importlib
import logging
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.data.depth import Range
from ssl_toolkit.data.resizing import check_pixels
from ssl_toolkit.errors import missing_extra

MAGIC_AT, MAGIC = 128, b"DICM"
_DEFLATED = "1.2.840.10008.1.2.1.99"


class Scan(NamedTuple):
    """What a DICOM file holds.

    Attributes:
        values: (C, H, W), rescaled: of a CT, Hounsfield units. Colours are uint8.
        window: What its own window shows from black to white, or else all that its bits can say; None: not known.
        inverted: Whether low values are bright (MONOCHROME1).
    """

    values: NDArray[Any]
    window: Range | None
    inverted: bool


def read_dicom(file: BinaryIO, channels: int, max_pixels: int) -> Scan:
    """A DICOM file, with its rescale slope and intercept, or its table for that, applied.

    Args:
        file: At any place.
        channels: 1 and 3 give the first frame, other counts all frames, of which there must be as many.
        max_pixels: Of a frame; all values together may be three times as many.

    Raises:
        ValueError: It holds no such image, or one that is too large.
        UsageError: pydicom is not installed.
    """
    try:
        reader, pixels = (importlib.import_module(f"pydicom.{part}") for part in ("filereader", "pixels"))
    except ImportError as error:
        raise missing_extra("reading DICOM files", "dicom", "pydicom") from error
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # what is wrong is an error of ours
    file.seek(MAGIC_AT + len(MAGIC))
    meta = reader.read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") == _DEFLATED:  # it would inflate to any size before a look at that
        raise ValueError("deflated DICOM files are not read")
    file.seek(0)
    data = reader.dcmread(file)
    frames, samples = int(data.get("NumberOfFrames") or 1), int(data.get("SamplesPerPixel") or 1)
    check_pixels((int(data.Columns), int(data.Rows)), max_pixels)
    if channels in (1, 3):
        values = pixels.pixel_array(data, index=0)[None]
    else:
        if frames * samples != channels:
            raise ValueError(f"the DICOM file has {frames * samples} planes, {channels} are wanted")
        check_pixels((int(data.Columns) * channels, int(data.Rows)), 3 * max_pixels)
        values = np.stack([pixels.pixel_array(data, index=frame) for frame in range(frames)])
    if samples > 1:  # (F, H, W, S)
        return Scan(np.concatenate(np.moveaxis(values, -1, 1)), None, False)
    return Scan(pixels.apply_modality_lut(values, data), _window(data), data.PhotometricInterpretation == "MONOCHROME1")


def _window(data: Any) -> Range | None:
    """What the values are shown by, from black to white (DICOM PS3.3, C.11.2.1.2)."""
    try:
        centre, width = (float(np.atleast_1d(data.get(name))[0]) for name in ("WindowCenter", "WindowWidth"))
    except (TypeError, ValueError):
        centre, width = 0.0, 0.0
    if data.get("VOILUTFunction", "LINEAR") == "LINEAR" and width > 1:
        return centre - width / 2, centre + width / 2 - 1
    if width > 0:
        return centre - width / 2, centre + width / 2
    if "ModalityLUTSequence" in data or "PixelData" not in data:
        return None
    count, signed = 2 ** int(data.BitsStored), int(data.PixelRepresentation)
    slope, intercept = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
    ends = [intercept + slope * value for value in (-count // 2 * signed, count - 1 - count // 2 * signed)]
    return min(ends), max(ends)
