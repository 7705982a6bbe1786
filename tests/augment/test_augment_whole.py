"""The executor of accelerators, as far as a machine without one can show it."""

import contextlib
import copy
import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ssl_toolkit import augment
from ssl_toolkit.augment.views import Views, compiled_function

NAMES = [name for name in augment.__all__ if name.endswith("_views")]


@pytest.fixture
def everywhere(monkeypatch):
    """Every image through every stage, whatever the device."""
    for module in ("blur", "engine", "resample"):
        monkeypatch.setattr(f"ssl_toolkit.augment.{module}.whole", lambda x: True)


class Recorded(TorchDispatchMode):
    """The names of all operators that the host dispatches."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def images(count=24, height=40, width=48):
    """Smooth ones: where the chroma is small, a hue turn amplifies every rounding."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(count, 3, 5, 6, generator=generator)
    return (torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 1) * 255).byte()


def both(views, image, box=None):
    """(seeded) views of the CPU's executor, then a function that makes them again."""

    def make():
        torch.manual_seed(1)
        return [view.clone() for view in views(image, box)]

    return make(), make


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("padded", [False, True])
def test_both_executors_make_the_same_views(name, padded, request):
    views = getattr(augment, name)(32)
    box = torch.tensor([[40, 48], [20, 48], [40, 17]]).repeat(8, 1) if padded else None
    ours, again = both(views, images(), box)
    request.getfixturevalue("everywhere")
    for one, two in zip(ours, again(), strict=True):
        # A threshold (solarize) or a clamp may fall the other way in single pixels of bytes that were rounded twice.
        assert (one - two).abs().mean() < 0.3 / 255
        assert ((one - two).abs() > 2 / 255).float().mean() < 2e-3


@pytest.mark.parametrize("name", NAMES)
def test_nothing_waits_for_the_device(name, everywhere):
    """No operator depends on data, and nothing is copied between host and device inside a view."""
    views = getattr(augment, name)(32)
    view = views.transforms[-1].to("meta")
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        image = torch.empty(16, 3, 40, 48, dtype=torch.uint8, device="meta")
        uniforms = torch.empty(view.draws, 16, device="meta")
        with Recorded() as recorded:
            made = view._made(image, uniforms, torch.empty(16, 2, dtype=torch.int64, device="meta"))
    assert made.shape == (16, 3, *view.crop.flags["size"])
    forbidden = ("_local_scalar_dense", "nonzero", "item", "unique", "masked_select", "is_nonzero", "lift_fresh")
    assert not [each for each in recorded.names if any(word in each for word in forbidden)]


@pytest.mark.parametrize(("name", "a_view"), [("simclr_views", 165), ("multicrop_views", 120)])
def test_views_keep_to_few_operators(name, a_view, monkeypatch):
    """Of an accelerator, by a device that computes nothing (and knows no autocast); whatever the batch."""
    monkeypatch.setattr("torch.autocast", lambda *args, **kwargs: contextlib.nullcontext())
    views, counts = getattr(augment, name)(32).to("meta"), []
    for batch in (2, 64):
        with Recorded() as recorded:
            views(torch.empty(batch, 3, 32, 32, dtype=torch.uint8, device="meta"))
        counts.append(len(recorded.names))
    assert counts[0] == counts[1] < a_view * len(views)  # today's count


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs the compiler of a CPU")
def test_a_compiled_view_is_few_kernels_for_every_batch():
    from torch._inductor import metrics

    view = augment.simclr_views(32).transforms[0]
    compiled = compiled_function(view._made)  # of one graph, or an error
    counts = []
    for batch in (64, 512):
        image, uniforms = images(batch, 32, 32), torch.rand(view.draws, batch)
        torch._dynamo.maybe_mark_dynamic(image, 0)
        torch._dynamo.maybe_mark_dynamic(uniforms, 1)
        with torch.no_grad():
            made, plain = compiled(image, uniforms, None), view._made(image, uniforms, None)
        assert (made - plain).abs().max() < 1e-3
        counts.append(metrics.generated_kernel_count)
    assert counts[0] == counts[1] <= 40
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1


def test_a_failing_compiler_warns_once_and_views_go_on(monkeypatch):
    def broken(function):
        def fails(*args):
            raise RuntimeError("no compiler on this machine\nand more")

        return fails

    monkeypatch.setattr("ssl_toolkit.augment.views.compiled_function", broken)
    monkeypatch.setattr(Views, "compiler_works", True)
    view = augment.simclr_views(32).transforms[0]
    uniforms = torch.rand(view.draws, 24)
    with pytest.warns(RuntimeWarning, match="no compiler on this machine") as caught:
        made = view._fused(images(), uniforms, None)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = view._fused(images(), uniforms, None)
    assert torch.equal(made, again)
    assert torch.equal(made, view(images(), uniforms=uniforms))


def test_a_copy_of_a_view_compiles_its_own():
    view = augment.simclr_views(32).transforms[0]
    view._compiled = lambda *args: None
    assert copy.deepcopy(view)._compiled is None
