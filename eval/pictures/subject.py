"""What pictures are of: an encoder, images, and a probe on their features."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError, unknown_name
from ssl_toolkit.eval.features.extraction import Features, stratified_split
from ssl_toolkit.eval.features.sample import Sample, one_a_class
from ssl_toolkit.eval.scores.linear_classifier import LinearClassifier
from ssl_toolkit.eval.scores.linear_probe import fit_softmax, linear_probe


@dataclasses.dataclass(frozen=True)
class Subject:
    """An encoder and what its pictures are to be of.

    Attributes:
        encoder: On the CPU.
        sample: Images and their features; None where none were given.
        images: How many images, units or classes are shown.
        layer: Of the units, a name of `units.map_layers`; None picks one, see `units.pick_layer`.
        unit: The only unit to show; None picks some.
        target: Name of the class to explain; None takes what the probe names.
        seed: Of all draws.
    """

    encoder: Encoder
    sample: Sample | None = None
    images: int = 8
    layer: str | None = None
    unit: int | None = None
    target: str | None = None
    seed: int = 0

    @property
    def data(self) -> Sample:
        """The images; only asked for by plots that need them."""
        assert self.sample is not None
        return self.sample

    @cached_property
    def probe(self) -> Probe:
        """Fitted once."""
        return Probe.fit(self.data, self.seed)

    @cached_property
    def rows(self) -> list[int]:
        """The images that are shown, one a class as far as they go."""
        return one_a_class(self.data.labels, self.images)

    def units_of(self, found: int) -> list[int] | None:
        """The unit that was asked for, of `found`; None if none was.

        Raises:
            UsageError: There is no such unit.
        """
        if self.unit is None:
            return None
        if not 0 <= self.unit < found:
            raise UsageError(f"--unit is {self.unit}: the layer has units 0 to {found - 1}")
        return [self.unit]

    def column(self, target: str) -> int:
        """The probe's column of a class.

        Raises:
            UsageError: It knows no such class.
        """
        classes = self.data.images.classes or []
        known = [classes[int(label)] for label in self.probe.softmax.classes]
        if target not in known:
            raise unknown_name(f"class of '{self.data.images.word}'", target, known)
        return known.index(target)


@dataclasses.dataclass(frozen=True)
class Probe:
    """A linear probe on four fifths of a sample, and how it does on the rest.

    Attributes:
        softmax: The probe.
        train: How many images it was fitted on.
        held_out: Rows of the sample that it has not seen.
        top1: Share of them that it names right, in [0, 1].
    """

    softmax: LinearClassifier
    train: int
    held_out: NDArray[np.int64]
    top1: float

    @classmethod
    def fit(cls, sample: Sample, seed: int = 0) -> Probe:
        """Fit on the labelled images of a sample.

        Raises:
            UsageError: There are none, or all are of one class.
        """
        labelled = np.flatnonzero(sample.features.label >= 0)
        if sample.images.classes is None or len(np.unique(sample.features.label[labelled])) < 2:
            raise UsageError(
                f"--data '{sample.images.word}' has no labels of two classes: a probe whose classes are explained "
                "needs them"
            )
        features: Features = sample.features.select(labelled)
        fitted, held = stratified_split(features.label, 0.2, seed)
        train, test = features.select(fitted), features.select(held)
        scored = linear_probe(train, test, seed=seed)
        return cls(fit_softmax(train, scored["l2"]), len(train), labelled[held], scored["top1"])
