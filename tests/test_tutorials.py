"""Notebooks and examples run from a clean start, on a few small images."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ssl_toolkit import open_images

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a class, of 300 rendered images."""
    folder, images = tmp_path_factory.mktemp("photos"), open_images("shapes:train:300")
    assert images.classes is not None
    for place in range(len(images)):
        file = folder / images.classes[images.labels[place]] / f"{place:03d}.jpg"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(images.load(place, 32).transpose(1, 2, 0)).save(file, quality=92)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="extra docs")
    pytest.importorskip("ipykernel", reason="extra docs")
    import nbformat

    for name, value in {"PHOTOS": photos, "TRAIN": photos, "TEST": photos, "MINUTES": 0.1, "EPOCHS": 1, "TUNE": 1,
                        "COUNT": 200}.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    book = nbformat.read(notebook, as_version=4)
    nbclient.NotebookClient(
        book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()


@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_small_and_shows_no_failure(notebook: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="extra docs")
    book = nbformat.read(notebook, as_version=4)
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert notebook.stat().st_size < 1_000_000
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
    assert os.path.expanduser("~") not in notebook.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted((EXAMPLES / "seams").glob("*.py")), ids=lambda path: path.stem)
def test_an_example_runs(example: Path, tmp_path: Path) -> None:
    if example.stem == "hugging_face":
        pytest.importorskip("datasets", reason="extra hf")
    done = subprocess.run([sys.executable, example], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout
