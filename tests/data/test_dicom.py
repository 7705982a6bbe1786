"""DICOM: rescale, window, a stated range, frames, and what is refused."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl_toolkit.data.images import BadImageError, decode_image, read_image
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.errors import UsageError

pydicom = pytest.importorskip("pydicom")

STORED = np.arange(600, dtype=np.uint16).reshape(20, 30) * 4  # 12 bits


def written(path: Path, stored: np.ndarray = STORED, **tags: Any) -> Path:
    """A CT-like file: 12 bits in 16, Hounsfield units from -1024."""
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.Rows, data.Columns = stored.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    data.PixelData = stored.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def test_without_a_window_the_stored_bits_are_the_range(tmp_path):
    got = read_image(written(tmp_path / "a.dcm"), channels=1)
    assert got.dtype == np.uint16
    np.testing.assert_allclose(got[0] / 65535, STORED / 4095, atol=1e-5)
    np.testing.assert_array_equal(read_image(tmp_path / "a.dcm"), np.repeat(got, 3, axis=0))
    np.testing.assert_array_equal(decode_image((tmp_path / "a.dcm").read_bytes(), channels=1), got)


def test_its_own_window_is_the_range_and_a_stated_one_wins(tmp_path):
    path = written(tmp_path / "a.dcm", WindowCenter=[40, 0], WindowWidth=[400, 9])
    units = STORED.astype(float) - 1024
    shown = ((units + 160) / 399).clip(0, 1)  # PS3.3 C.11.2.1.2: from c - w/2 to c + w/2 - 1
    np.testing.assert_allclose(read_image(path, channels=1)[0] / 65535, shown, atol=1e-5)
    stated = ((units + 1000) / 1400).clip(0, 1)
    np.testing.assert_allclose(read_image(path, channels=1, range=(-1000, 400))[0] / 65535, stated, atol=1e-5)
    exact = written(tmp_path / "b.dcm", WindowCenter=40, WindowWidth=400, VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_allclose(read_image(exact, channels=1)[0] / 65535, ((units + 160) / 400).clip(0, 1), atol=1e-5)


def test_where_low_values_are_bright_they_are(tmp_path):
    plain = read_image(written(tmp_path / "a.dcm"), channels=1)
    inverted = read_image(written(tmp_path / "b.dcm", PhotometricInterpretation="MONOCHROME1"), channels=1)
    np.testing.assert_array_equal(inverted, 65535 - plain)


def test_frames_are_channels(tmp_path):
    frames = np.stack([STORED, STORED[::-1], STORED[:, ::-1], STORED // 2])
    path = written(tmp_path / "a.dcm", frames, NumberOfFrames=4)
    got = read_image(path, channels=4)
    np.testing.assert_allclose(got / 65535, frames / 4095, atol=1e-5)
    np.testing.assert_array_equal(read_image(path, channels=1), got[:1])
    with pytest.raises(BadImageError, match="4 planes, 5 are wanted"):
        read_image(path, channels=5)


def test_a_folder_of_them_and_a_measured_range(tmp_path):
    for name in "abc":
        written(tmp_path / f"{name}.dcm")
    images = open_images(tmp_path, channels=1, range="auto")
    assert images.dtype == images.load(1, 10).dtype == np.uint16
    low, high = images.range
    assert -1024 <= low < -1015
    assert 1360 < high <= int(STORED.max()) - 1024


def test_what_is_refused(tmp_path):
    path = written(tmp_path / "a.dcm")
    with pytest.raises(BadImageError, match="30 x 20 pixels are more than the cap of 599"):
        read_image(path, max_pixels=599)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadImageError):
        read_image(path)
    rng = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(content)
        for place in rng.integers(130, 700, 4):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(BadImageError):
            assert read_image(path, channels=1, max_pixels=10**5).shape[0] == 1


def test_a_deflated_file_is_refused_before_it_inflates(tmp_path):
    path = written(tmp_path / "a.dcm")
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    data.save_as(path, enforce_file_format=True)
    with pytest.raises(BadImageError, match="deflated"):
        read_image(path)


def test_without_pydicom_one_line_says_what_to_install(tmp_path, monkeypatch):
    written(tmp_path / "a.dcm")
    monkeypatch.setitem(sys.modules, "pydicom.filereader", None)
    with pytest.raises(UsageError, match=r"needs pydicom: .* pip install '\.\[dicom\]'"):
        read_image(tmp_path / "a.dcm")
