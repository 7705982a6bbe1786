import subprocess
import sys

import pytest

import ssl_toolkit


def test_every_name_is_there() -> None:
    for name in ssl_toolkit.__all__:
        assert getattr(ssl_toolkit, name).__name__ == name


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'pretain'"):
        _ = ssl_toolkit.pretain


def test_import_is_light() -> None:
    code = "import sys, ssl_toolkit; assert not {'torch', 'faiss', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_search_waits_for_no_trainer_and_no_charts() -> None:
    code = (
        "import sys, ssl_toolkit.eval.search, ssl_toolkit.eval.scores, ssl_toolkit.tasks.queries\n"
        "found = {'pytorch_lightning', 'torchmetrics', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
