"""FAISS and torch in one process: whichever is imported first, in forked workers, and with each other's threads."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from ssl_toolkit.eval.scores.knn import nearest
from ssl_toolkit.eval.search.index import EmbeddingIndex

knn = importlib.import_module("ssl_toolkit.eval.scores.knn")  # the package has its function
X = np.random.default_rng(0).standard_normal((2000, 16), dtype=np.float32)

needs_fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="forks")


def found_by_faiss() -> list[int]:
    return nearest(X, X[:200], 3)[1][:, 0].tolist()


def computed_by_torch() -> float:
    return float((torch.from_numpy(X) @ torch.from_numpy(X).T).diagonal().sum())


def in_a_fork() -> tuple[list[int], float]:
    """FAISS with the threads that were left to it; then torch with one, as in a loader's workers."""
    found = found_by_faiss()
    torch.set_num_threads(1)
    return found, computed_by_torch()


class Neighbours(Dataset[list[int]]):
    """Item i: the three nearest of row i, found by FAISS in the worker."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, item: int) -> list[int]:
        return nearest(X, X[item : item + 1], 3)[1][0].tolist()


@pytest.mark.parametrize("order", ["faiss, torch", "torch, faiss"])
def test_both_compute_with_as_many_threads_whichever_is_imported_first(order: str) -> None:
    program = f"""
import {order}
import numpy as np
x = np.random.default_rng(0).standard_normal((600, 16), dtype=np.float32)
for count in (2, 1):
    torch.set_num_threads(count)
    faiss.omp_set_num_threads(count)
    found = faiss.knn(x, x, 1)[1][:, 0]
    assert (found == np.arange(600)).all()
    near = torch.cdist(torch.from_numpy(x), torch.from_numpy(x)).argmin(1)
    assert (near == torch.arange(600)).all()
    index = faiss.index_factory(16, "IVF8,Flat")
    index.train(x)
    torch.nn.Linear(16, 16)(torch.from_numpy(x)).sum().backward()

from ssl_toolkit.eval.scores.knn import nearest
found_by, taken = faiss.knn, []
faiss.knn = lambda *args, **options: (taken.append(faiss.omp_get_max_threads()), found_by(*args, **options))[1]
for count in (1, 3):
    torch.set_num_threads(count)
    nearest(x, x, 1)
    assert torch.get_num_threads() == taken[-1] == count
print("done")
"""
    own = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, env=own)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@needs_fork
def test_a_forked_process_uses_both_after_its_parent_has() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        near, trace = found_by_faiss(), computed_by_torch()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            found = [pool.apply_async(in_a_fork) for _ in range(4)]
            for their_near, their_trace in (each.get(timeout=100) for each in found):
                assert their_near == near
                assert their_trace == pytest.approx(trace, rel=1e-5)
        assert found_by_faiss() == near
    finally:
        torch.set_num_threads(threads)


@needs_fork
def test_workers_of_a_loader_search_after_their_parent_has() -> None:
    expected = nearest(X, X[:8], 3)[1].tolist()
    loader = DataLoader(
        Neighbours(), batch_size=None, num_workers=2, multiprocessing_context="fork", collate_fn=list, timeout=300
    )
    assert list(loader) == expected


def test_searching_leaves_the_number_of_threads_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "encoder").write_text("weights")
    names = [str(number) for number in range(len(X))]
    torch_threads, faiss_threads = torch.get_num_threads(), faiss.omp_get_max_threads()
    try:
        torch.set_num_threads(2)
        faiss.omp_set_num_threads(3)
        before = torch.get_num_threads(), faiss.omp_get_max_threads()  # the two may share one setting
        monkeypatch.setattr(knn, "_PROCESS", -1)  # as in a fork: FAISS takes one
        nearest(X, X[:50], 3)
        assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == before
        for factory in ("Flat", "IVF8,Flat"):
            index = EmbeddingIndex.build(
                X, names, factory=factory, encoder_file=tmp_path / "encoder", encoder_sha256="e" * 64
            )
            index.search(X[:50], 3)
            index.neighbours(3)
            index.changed(np.arange(5), X[:2], ["a", "b"])
            assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == before
    finally:
        torch.set_num_threads(torch_threads)
        faiss.omp_set_num_threads(faiss_threads)
