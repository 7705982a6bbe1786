"""A bar moves where someone looks, and is slow in files."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

from ssl_toolkit.progress import duration, progress_bar


@pytest.mark.parametrize(("kernel", "pause"), [(False, 20.0), (True, 0.5)])
def test_a_bar_in_a_notebook_moves(monkeypatch: pytest.MonkeyPatch, kernel: bool, pause: float) -> None:
    if kernel:
        monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    else:
        monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    with progress_bar(3, "reading", "image") as bar:
        from tqdm.auto import tqdm

        assert isinstance(bar, tqdm)
        assert (bar.mininterval, bar.leave) == (pause, kernel)
        bar.update(3)
        assert bar.n == 3


def test_saying_something_imports_no_bar() -> None:
    code = "import sys; from ssl_toolkit.progress import say; say('x'); assert 'tqdm' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize(("seconds", "words"), [(89, "89 s"), (150, "2 min"), (5399, "90 min"), (9000, "2.5 h")])
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words
