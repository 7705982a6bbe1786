import inspect
import logging

import pytest
import torch

from ssl_toolkit.augment import ColourJitter, GaussianBlur, ResizedCropFlip, View, Views, colour, multicrop, recipes
from ssl_toolkit.errors import UsageError

RECIPES = {
    "simclr": (recipes.simclr_views, 2),
    "cifar": (recipes.cifar_views, 2),
    "moco_v1": (recipes.moco_v1_views, 2),
    "moco_v2": (recipes.moco_v2_views, 2),
    "moco_v3": (recipes.moco_v3_views, 2),
    "byol": (recipes.byol_views, 2),
    "multicrop": (multicrop.multicrop_views, 10),
    "ressl": (recipes.ressl_views, 2),
    "pixpro": (recipes.pixpro_views, 2),
    "pirl": (recipes.pirl_views, 2),
    "swav": (multicrop.swav_views, 8),
    "cpc": (recipes.cpc_views, 1),
    "pretext": (recipes.pretext_views, 1),
    "simmim": (recipes.simmim_views, 1),
    "i_jepa": (recipes.i_jepa_views, 1),
    "lejepa": (multicrop.lejepa_views, 8),
    "finetune": (recipes.finetune_views, 1),
}


def images(channels=3):
    return torch.randint(0, 256, (4, channels, 40, 48), dtype=torch.uint8)


@pytest.mark.parametrize(("recipe", "count"), RECIPES.values(), ids=RECIPES.keys())
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_every_recipe_makes_its_views(recipe, count, channels):
    views = recipe(32, channels=channels)
    assert len(views) == count
    for view in views(images(channels))[:count]:
        assert view.shape[:2] == (4, channels)
        assert view.dtype == torch.float32
        assert view.min() >= 0
        assert view.max() <= 1


@pytest.mark.parametrize("recipe", [recipe for recipe, _ in RECIPES.values()], ids=RECIPES.keys())
def test_every_argument_is_plain_and_documented(recipe):
    for name, parameter in inspect.signature(recipe, eval_str=True).parameters.items():
        assert parameter.annotation is not inspect.Parameter.empty
        assert f"        {name}: " in inspect.getdoc(recipe).replace("\n    ", "\n        "), name
    assert "Source:" in inspect.getdoc(recipe) or recipe is recipes.pretext_views


def test_places_are_where_the_views_lie():
    image = (torch.arange(40.0)[:, None] / 100 + torch.arange(48.0) / 1000).expand(4, 1, -1, -1).clone()  # a ramp
    plain = {"jitter_p": 0.0, "blur_p": (0.0, 0.0), "solarize_p": (0.0, 0.0), "interpolation": "bilinear"}
    views = recipes.pixpro_views(8, channels=1, **plain)
    torch.manual_seed(0)
    *made, first, second = views(image)
    assert len(views) == len(made) == 2
    share = torch.linspace(0, 1, 17)[1::2]  # of the view's side, at the centres of its pixels
    for view, places in zip(made, (first, second), strict=True):
        for seen, (top, left, bottom, right) in zip(view[:, 0], places, strict=True):
            y, x = (start + share * (end - start) for start, end in ((top, bottom), (left, right)))
            expected = (y[:, None] - 0.5) / 100 + (x - 0.5) / 1000
            torch.testing.assert_close(seen[2:-2, 2:-2], expected[2:-2, 2:-2], atol=2e-3, rtol=0)
    flipped = torch.cat([first, second])[:, 3] < torch.cat([first, second])[:, 1]
    assert 0 < flipped.sum() < 8
    with pytest.raises(UsageError, match="Identity does not say where its view lies"):
        Views([torch.nn.Identity()], places=True)(image)


def steps_of(view):
    return {type(step).__name__: step for step in view.steps}


def test_the_papers_numbers():
    simclr = recipes.simclr_views(224).transforms[0]
    assert simclr.crop._param_generator.scale == (0.08, 1.0)
    assert steps_of(simclr)["ColourJitter"]._param_generator.strength == (0.8, 0.8, 0.8, 0.2)
    assert steps_of(simclr)["GaussianBlur"].radius(224, 224) == 11
    assert "GaussianBlur" not in steps_of(recipes.cifar_views(32).transforms[0])
    first, second = (steps_of(view) for view in recipes.byol_views(224).transforms)
    assert (first["GaussianBlur"].p, second["GaussianBlur"].p) == (1.0, 0.1)
    assert "Solarize" not in first
    assert (second["Solarize"].p, second["Solarize"].threshold) == (0.2, 0.5)
    assert steps_of(recipes.moco_v1_views(224).transforms[0])["ColourJitter"].grey_first
    dino = multicrop.multicrop_views(224).transforms
    assert [view.crop.flags["size"][0] for view in dino] == [224] * 2 + [96] * 8
    assert [steps_of(view)["GaussianBlur"].p for view in dino] == [1.0, 0.1] + [0.5] * 8
    assert ["Solarize" in steps_of(view) for view in dino] == [False, True] + [False] * 8
    lejepa = multicrop.lejepa_views(224).transforms
    assert [view.crop.flags["size"][0] for view in lejepa] == [224] * 2 + [96] * 6
    assert {(steps_of(view)["GaussianBlur"].p, steps_of(view)["Solarize"].p) for view in lejepa} == {(0.5, 0.2)}
    (i_jepa,) = recipes.i_jepa_views(224).transforms
    assert (i_jepa.crop._param_generator.scale, list(steps_of(i_jepa))) == ((0.3, 1.0), [])
    swav = multicrop.swav_views(224).transforms
    assert swav[-1].crop._param_generator.scale == (0.05, 0.14)
    assert not any("Solarize" in steps_of(view) for view in swav)
    (cpc,) = recipes.cpc_views(64).transforms
    assert cpc.crop.flags["size"] == (64, 64)
    assert cpc.crop._param_generator.scale == (0.3, 1.0)
    assert list(steps_of(cpc)) == ["ColourJitter"]
    assert steps_of(cpc)["ColourJitter"]._param_generator.grey_p == 0.25


def test_moco_v1_is_greyscale_then_jitter_on_every_image_without_blur():
    for view in recipes.moco_v1_views(32).transforms:
        assert list(steps_of(view)) == ["ColourJitter"]
        assert steps_of(view)["ColourJitter"].grey_first
        assert steps_of(view)["ColourJitter"]._param_generator.strength == (0.4, 0.4, 0.4, 0.4)
        assert view.crop._param_generator.scale == (0.2, 1.0)
    for view in recipes.moco_v2_views(32).transforms:
        assert list(steps_of(view)) == ["ColourJitter", "GaussianBlur"]
        assert not steps_of(view)["ColourJitter"].grey_first
    assert steps_of(recipes.moco_v2_views(32, grey_first=True).transforms[1])["ColourJitter"].grey_first


def test_moco_views_are_made_of_the_parts_they_name():
    parts = {"size": (16, 16), "scale": (0.2, 1.0)}
    v1 = View(ResizedCropFlip(**parts), [ColourJitter((0.4, 0.4, 0.4, 0.4), 1.0, 0.2, grey_first=True)])
    v2 = View(ResizedCropFlip(**parts), [ColourJitter((0.4, 0.4, 0.4, 0.1), 0.8, 0.2), GaussianBlur((0.1, 2.0), 0.5)])
    image = images()
    for recipe, part in ((recipes.moco_v1_views, v1), (recipes.moco_v2_views, v2)):
        made = []
        for views in (recipe(16), Views([part, part])):
            torch.manual_seed(3)
            made.append(torch.stack(views(image)))
        assert torch.equal(*made)


@pytest.mark.parametrize("recipe", [multicrop.multicrop_views, multicrop.swav_views])
def test_local_views_are_smaller_and_of_whole_patches_at_any_size(recipe):
    for size in range(16, 513, 3):  # all remainders of 16
        sides = [view.crop.flags["size"] for view in recipe(size, local_count=1).transforms]
        local = sides[-1][0]
        assert sides == [(size, size)] * 2 + [(local, local)]
        assert 8 <= local < size
        assert local % (16 if size >= 64 else 8) == 0
        assert abs(local - size * 3 / 7) <= 8
    assert recipe(224, local_size=50).transforms[-1].crop.flags["size"] == (50, 50)


def test_pretext_views_keep_the_colours():
    image = torch.full((2, 3, 30, 30), 51, dtype=torch.uint8)
    assert torch.allclose(recipes.pretext_views(16)(image)[0], torch.tensor(0.2), atol=1e-5)


def test_what_cannot_happen_is_left_out():
    assert len(recipes.simclr_views(32, jitter_p=0, grey_p=0, blur_p=0).transforms[0].steps) == 0


def test_other_channel_counts_leave_out_what_needs_rgb():
    draws = steps_of(recipes.simclr_views(32, channels=1).transforms[0])["ColourJitter"]._param_generator
    assert draws.strength == (0.8, 0.8, 0.0, 0.0)
    assert draws.grey_p == 0
    assert not recipes.simclr_views(32, channels=4, jitter=(0, 0, 0.4, 0.1), blur_p=0).transforms[0].steps


def test_other_channel_counts_are_said_once(caplog):
    colour.say_rgb_only.cache_clear()
    with caplog.at_level(logging.WARNING, "ssl_toolkit"):
        recipes.simclr_views(32, channels=4)(images(4))
    assert len(caplog.records) == 1
    assert "4 channels" in caplog.text


def test_eval_view():
    assert recipes.eval_view(32)(images()).shape == (4, 3, 32, 32)


@pytest.mark.parametrize("bad", [{"size": 0}, {"size": 32, "channels": 0}])
def test_bad_sizes_are_named(bad):
    with pytest.raises(UsageError, match="at least 1"):
        recipes.simclr_views(**bad)


def test_randaugment_and_erasing_stay_in_range_and_repeat():
    image = torch.randint(1, 256, (6, 3, 24, 24), dtype=torch.uint8)
    views, plain = recipes.finetune_views(16, randaugment=2, magnitude=12, erase_p=1.0), recipes.finetune_views(16)
    for seed in range(12):  # RandAugment draws its operations for the batch
        torch.manual_seed(seed)
        (view,) = views(image)
        torch.manual_seed(seed)
        assert torch.equal(views(image)[0], view)
        assert view.shape == (6, 3, 16, 16)
        assert view.min() >= 0
        assert view.max() <= 1
        torch.manual_seed(seed)
        (cropped,) = plain(image)
        assert ((view == 0).all(dim=1) & (cropped > 0).all(dim=1)).flatten(1).any(dim=1).all()  # a part is erased
    with pytest.raises(UsageError, match="--randaugment needs RGB images, these have 1 channels"):
        recipes.finetune_views(16, channels=1, randaugment=1)


def test_the_masked_autoencoders_crops_are_bicubic() -> None:
    for asked, name in (({}, "BICUBIC"), ({"interpolation": "bilinear"}, "BILINEAR")):
        views = recipes.masked_autoencoder_views(32, **asked)
        assert views.transforms[0].crop.flags["resample"].name == name
