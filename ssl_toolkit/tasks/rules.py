"""What fits images and a machine: one table of rules, for what `pretrain` is not told and for `recommend`.

Each rule has its source: a paper, or a measurement of ours. Nothing here looks at anything: the facts are given.
"""

# Nothing heavy is imported here: the command line reads this before it knows what is to be done.
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

SMALL = ("convnet", "test_vit")  # encoders that learn on a CPU in minutes
DEFAULT_EPOCHS = 100
DEFAULT_MINUTES = 20.0  # that a training takes without an accelerator
SMALL_SIDE = 64  # pixels: the small encoders were tried up to here, and views below it are not blurred

# Views whose forward and backward one core does in a second, by encoder and side of a view, float32, batches of 128.
#   python benchmarks/rates.py     (a core of an AMD EPYC, AVX2, other programs beside it; 2026-11-29)
VIEWS_PER_SECOND: dict[str, dict[int, float]] = {
    "convnet": {16: 1290, 24: 628, 32: 428, 40: 218, 64: 84, 80: 54},
    "resnet18": {32: 20, 64: 56, 128: 18},  # under 64 px with the small stem, at its full resolution
    "test_vit": {24: 308, 32: 336, 64: 292},  # patches of an eighth of the side
}
MOST_CORES = 8  # that count: more were not tried

# What an image costs a method, in such views; two where it is not said. Of contrastive methods twice the ratio in
# docs/performance.md, "A step of each method"; of the masked autoencoder by its run in docs/results.md; others by
# benchmarks/rates.py.
VIEWS_PER_IMAGE: dict[str, float] = {
    "autoencoder": 3.0, "barlow_twins": 2.9, "byol": 2.5, "colorization": 1.9, "cpc": 5.9, "dino": 3.0, "jigsaw": 1.3,
    "masked_autoencoder": 2.0, "moco": 1.3, "moco_v3": 2.7, "nnclr": 2.3, "relative_patch": 1.3, "rotation": 3.8,
    "simsiam": 2.9, "split_brain": 1.6, "vicreg": 3.7,
}  # fmt: skip

# Views of 32 px, forward and backward of a ResNet-18 with the small stem, in a second of SimCLR's loop on a GPU.
# docs/performance.md, "On a GPU": 17,700 images a second, bfloat16, on one H100.
GPU_VIEWS_PER_SECOND = {"h100": 35_400.0}
# Operations of a ResNet-18 a pixel with the standard stem, as a share of those with the small one (1.82e9 at 224 px,
# 0.56e9 at 32 px).
STANDARD_STEM = 1 / 15

# Methods that compare or turn crops: the small encoders learn as much from views smaller than the images, in less time.
OF_CROPS = {
    *("simclr", "dcl", "supcon", "moco", "moco_v3", "ressl", "byol", "simsiam", "barlow_twins", "vicreg", "nnclr"),
    *("swav", "dino", "rotation", "tico", "w_mse", "dense_cl", "deepcluster_v2", "pixpro"),
}  # fmt: skip
OF_TILES = {"jigsaw", "relative_patch"}  # whose tiles need views larger than the images

COPIES = 0.25  # share of images that are copies of others, from which on negatives are taken to be false
GREY = 0.95  # share of images without colours, from which on all are read as grey


@dataclass(frozen=True)
class Case:
    """What a choice depends on.

    Attributes:
        images: Their number.
        side: Short side that most of them have, pixels, at most 224.
        cores: Of this machine.
        gpu: Name of the GPU, lower case; None for the CPU alone.
        minutes: That the training may take; None: as long as `DEFAULT_EPOCHS` do.
        default_encoder: What the method takes where there is a GPU.
        frames: Of a clip; 1 for images.
        channels: Of an image as it is read.
        copies: Share of the images that are near copies of another.
        grey: Share of the images that have no colours.
        detail: Share of the short side that holds detail: half of it, where every second pixel says nothing.
        chosen: What is given or decided already, by option.
    """

    images: int
    side: int
    cores: int = 1
    gpu: str | None = None
    minutes: float | None = DEFAULT_MINUTES
    default_encoder: str = "resnet18"
    frames: int = 1
    channels: int = 3
    copies: float = 0.0
    grey: float = 0.0
    detail: float = 1.0
    chosen: Mapping[str, Any] = field(default_factory=dict)

    @property
    def small(self) -> bool:
        """Whether the encoder is one that learns on a CPU in minutes."""
        return self.chosen.get("encoder.name") in SMALL

    @property
    def size(self) -> int:
        """Side of the images that the encoder is for, pixels."""
        return int(self.chosen["image_size"])

    @property
    def view(self) -> int:
        """Side of a view, pixels."""
        return int(self.chosen.get("views.size") or self.size)

    def seconds_per_epoch(self) -> float | None:
        """What a pass over the images takes; None where nothing was measured that tells."""
        rate = self._views_per_second()
        if rate is None:
            return None
        return self.images * VIEWS_PER_IMAGE.get(str(self.chosen.get("method")), 2.0) / rate

    def _views_per_second(self) -> float | None:
        name, view = self.chosen.get("encoder.name"), self.view
        if self.gpu is not None:
            known = [rate for gpu, rate in GPU_VIEWS_PER_SECOND.items() if gpu in self.gpu]
            if not known or name != "resnet18":
                return None
            return known[0] * (32 / view) ** 2 / (STANDARD_STEM if self.size >= SMALL_SIDE else 1)
        if name not in VIEWS_PER_SECOND:
            return None
        measured = VIEWS_PER_SECOND[name]
        nearest = max((side for side in measured if side <= view), default=min(measured))
        return measured[nearest] * (nearest / view) ** 2 * min(self.cores, MOST_CORES)


@dataclass(frozen=True)
class Rule:
    """One line of the table.

    Attributes:
        when: Whether it is for a case.
        value: What is chosen, from the case and the default of the recipe of views.
        reason: Why, in a few words; ``{}`` stands for attributes of the case.
        source: Paper, or our own measurement.
    """

    when: Callable[[Case], bool]
    value: Callable[[Case, Any], Any]
    reason: str
    source: str


@dataclass(frozen=True)
class Choice:
    """What was decided for an option, and why."""

    option: str
    value: Any
    reason: str
    source: str


def always(case: Case) -> bool:
    """A rule for all cases."""
    return True


def small_under_64(case: Case) -> bool:
    """Small encoders on small images; of clips nothing was measured."""
    return case.small and case.size < SMALL_SIDE and case.frames == 1


def small_from_64(case: Case) -> bool:
    """Small encoders on larger images; of clips nothing was measured."""
    return case.small and case.size >= SMALL_SIDE and case.frames == 1


def convolutional(case: Case) -> bool:
    """The small encoder that takes views of any size; a ViT's are whole patches."""
    return case.chosen.get("encoder.name") == "convnet"


def views_under_64(case: Case) -> bool:
    """Views too small for a blur."""
    return case.view < SMALL_SIDE


def eights(size: float) -> int:
    """Whole eights of pixels, at least 16."""
    return max(16, round(size / 8) * 8)


def zero(default: Any) -> Any:
    """No chance, for as many views as the default has one for."""
    return 0.0 if isinstance(default, int | float) else [0.0] * len(default)


def at_most(strength: tuple[float, ...]) -> Callable[[Case, Any], Any]:
    """The default, or the strength where that is less."""
    return lambda case, default: [min(pair) for pair in zip(default, strength, strict=True)]


def crops_from(share: float) -> Callable[[Case, Any], Any]:
    """The default, with no crop smaller than a share of the image's area."""
    return lambda case, default: [max(default[0], share), default[1]]


def most_patches(case: Case, _: Any) -> int:
    """Side of patches: at most an eighth of the image, which it divides."""
    side = 16
    while side > max(1, case.size // 8) or case.size % side:
        side //= 2
    return side


def batch(most: int) -> Callable[[Case, Any], int]:
    """A power of two: at most a quarter of the images, that an epoch has some steps, if they are not too few."""
    return lambda case, _: min(most, max(min(16, case.images), 1 << (max(1, case.images // 4)).bit_length() - 1))


def epochs(case: Case, _: Any) -> int:
    """As many as the time allows; beyond some hundreds little is gained."""
    seconds = case.seconds_per_epoch()
    if seconds is None or case.minutes is None:
        return DEFAULT_EPOCHS
    return max(1, min(200 if case.gpu is None else 800, int(case.minutes * 60 / seconds)))


_MEASURED = "our measurement: docs/results.md"
_SMALL_IMAGES = f"{_MEASURED}, CIFAR-10"
_LARGER_IMAGES = f"{_MEASURED}, Imagenette at 64 px"

# Options in the order in which they are decided; of each the first rule that is for the case.
RULES: dict[str, tuple[Rule, ...]] = {
    "method": (
        Rule(lambda c: c.frames > 1, lambda c, _: "cpc", "clips: predicts frames from those before them",
             "van den Oord et al. 2018"),
        Rule(lambda c: c.copies >= COPIES, lambda c, _: "vicreg",
             "{copies:.0%} have a near copy, which others would push away as a negative; it has none",
             f"Chuang et al. 2020; {_SMALL_IMAGES}: 61.7 % kNN beside SimCLR's 63.3"),
        Rule(always, lambda c, _: "simclr",
             "the best of eleven contrastive methods and nine pretext tasks in some ten minutes",
             f"{_SMALL_IMAGES}, contrastive methods; pretext tasks"),
    ),
    "channels": (
        Rule(lambda c: c.channels == 3 and c.grey >= GREY, lambda c, _: 1,
             "{grey:.0%} have no colours: two channels less to read and to see",
             "no measurement: equal channels say nothing more"),
    ),
    "encoder.name": (
        Rule(lambda c: c.gpu is None and c.default_encoder.startswith("vit"), lambda c, _: "test_vit",
             "no GPU: the smallest ViT, which this method needs", f"{_MEASURED}, pretext tasks"),
        Rule(lambda c: c.gpu is None, lambda c, _: "convnet",
             "no GPU: learns in minutes, where a ResNet-18 takes 20 times as long a view",
             f"benchmarks/rates.py; {_MEASURED}"),
        Rule(always, lambda c, _: c.default_encoder, "what published figures at these sizes are for",
             "lightly's and solo-learn's benchmarks"),
    ),
    "image_size": (
        Rule(lambda c: c.small and c.detail * c.side < min(c.side, SMALL_SIDE), lambda c, _: eights(c.detail * c.side),
             "images of {side} px hold no detail beyond this: half the size loses less than 1 % of their variance",
             "measured on these images; tasks/looking.py"),
        Rule(lambda c: c.small and c.side >= SMALL_SIDE, lambda c, _: SMALL_SIDE,
             "of {side} px; on larger ones, four times as slow, the small encoder was not tried", _LARGER_IMAGES),
        Rule(lambda c: c.chosen.get("encoder.name") == "test_vit", lambda c, _: max(16, c.side // 8 * 8),
             "what the images have, in whole patches", "no choice"),
        Rule(lambda c: c.detail < 1, lambda c, _: eights(c.detail * c.side),
             "images of {side} px hold no detail beyond this: half the size loses less than 1 % of their variance",
             "measured on these images; tasks/looking.py"),
        Rule(always, lambda c, _: c.side, "what the images have", "Touvron et al. 2019: train near the size of use"),
    ),
    "encoder.patch_size": (
        Rule(lambda c: c.chosen.get("encoder.name") == "test_vit", most_patches, "patches of an eighth of the side",
             f"{_MEASURED}, pretext tasks"),
    ),
    "views.size": (
        Rule(lambda c: c.chosen.get("method") in OF_TILES and convolutional(c),
             lambda c, _: max(32, eights(1.5 * c.size)),
             "tiles of a third of the view must be large enough", f"{_MEASURED}, pretext tasks"),
        Rule(lambda c: c.chosen.get("method") in OF_CROPS and convolutional(c) and small_under_64(c),
             lambda c, _: min(c.size, eights(0.75 * c.size)), "crops that are not enlarged, in half the time",
             f"{_SMALL_IMAGES}; Touvron et al. 2019"),
        Rule(lambda c: c.chosen.get("method") in OF_CROPS and convolutional(c), lambda c, _: eights(0.625 * c.size),
             "crops that are not enlarged, in less than half the time", f"{_LARGER_IMAGES}; Touvron et al. 2019"),
        Rule(always, lambda c, _: c.size, "as the images", "the papers"),
    ),
    **{
        option: (
            Rule(small_under_64, crops_from(0.3), "smaller crops of small images show next to nothing", _SMALL_IMAGES),
            Rule(small_from_64, crops_from(0.2), "smaller crops show too little to a small encoder", _LARGER_IMAGES),
        )
        for option in ("views.crop_scale", "views.global_scale")
    },
    "views.local_count": (
        Rule(lambda c: c.small and views_under_64(c), lambda c, _: 0,
             "local crops would be of 16 px: they cost 6 points of kNN", _SMALL_IMAGES),
    ),
    "views.jitter": (
        Rule(small_under_64, at_most((0.2, 0.2, 0.2, 0.05)), "a small encoder learns more from mild colours",
             f"{_SMALL_IMAGES}; Chen et al. 2020, appendix B.9"),
        Rule(small_from_64, at_most((0.4, 0.4, 0.4, 0.1)), "a small encoder learns more from mild colours",
             _LARGER_IMAGES),
    ),
    **{
        option: (
            Rule(views_under_64, lambda c, default: zero(default), "views under 64 px lose what they show",
                 "Chen et al. 2020, appendix B.9"),
        )
        for option in ("views.blur_p", "views.global_blur_p", "views.local_blur_p")
    },
    "views.solarize_p": (
        Rule(small_under_64, lambda c, default: zero(default), "mild colours for a small encoder", _SMALL_IMAGES),
    ),
    "batch_size": (
        Rule(lambda c: c.gpu is None, batch(128), "0.7 points of kNN above 64 for the same images", _SMALL_IMAGES),
        Rule(always, batch(256), "4.9 GB at 512 images of 32 px; fits cards of 8 GB", "lightly's benchmarks"),
    ),
    "epochs": (
        Rule(lambda c: c.minutes is None or c.seconds_per_epoch() is None, epochs,
             "the usual number; how fast this would be was not measured", "the first steps of the run tell"),
        Rule(always, epochs, "what ends in the time, at most some hundreds",
             "benchmarks/rates.py; docs/performance.md"),
    ),
}  # fmt: skip


# What is worth knowing beside the choices; the value is the advice.
NOTES = (
    Rule(lambda c: c.images < 1000,
         lambda c, _: "start from weights that exist, --encoder resnet18.a1_in1k (a download)",
         "{images} images are few", "docs/methods.md; not measured here"),
    Rule(lambda c: c.copies >= 0.05, lambda c, _: "ssl-toolkit duplicates lists them, and what may go",
         "{copies:.0%} look like the image before them", "docs/evaluation.md"),
    Rule(lambda c: c.gpu is not None and c.seconds_per_epoch() is None,
         lambda c, _: "ssl-toolkit check with these options measures it there",
         "how long it takes on '{gpu}' is not known", "docs/performance.md has one H100"),
)  # fmt: skip


def decide(option: str, case: Case, default: Any = None) -> Choice | None:
    """What the first rule of an option that is for a case says; None where there is none.

    Args:
        option: A key of `RULES`.
        case: What it depends on.
        default: Of the recipe of views.
    """
    return next((_said(option, rule, case, default) for rule in RULES[option] if rule.when(case)), None)


def notes(case: Case) -> list[Choice]:
    """What is worth knowing about a case for which all is chosen; the advice is the value."""
    return [_said("note", rule, case) for rule in NOTES if rule.when(case)]


def _said(option: str, rule: Rule, case: Case, default: Any = None) -> Choice:
    return Choice(option, rule.value(case, default), rule.reason.format(**vars(case)), rule.source)


def choose(case: Case, recipe: Mapping[str, Any]) -> tuple[Case, list[Choice]]:
    """Decide all that is open.

    Args:
        case: What is given stands in `Case.chosen` and is kept.
        recipe: Options of the method's recipe of views to their defaults; those of others are no options. None is
            decided about views where it is empty.

    Returns:
        The case with all that is chosen, and the choices that are not the defaults of the recipe.
    """
    choices = []
    for option in RULES:
        default = recipe.get(option.removeprefix("views."))
        if option in case.chosen or (option.startswith("views.") and option.removeprefix("views.") not in recipe):
            continue
        choice = decide(option, case, default)
        if choice is not None and (default is None or choice.value != _listed(default)):
            choices.append(choice)
            case = replace(case, chosen={**case.chosen, option: choice.value})
    return case, choices


def _listed(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default
