"""What an encoder sees, as pictures: maps, neighbours, attention, units, explanations."""

from ssl_toolkit.eval.pictures.ascent import ascend
from ssl_toolkit.eval.pictures.attention import attention_maps
from ssl_toolkit.eval.pictures.explain import ProbedEncoder, guided_backprop, occlusion, saliency, shapley, smoothgrad
from ssl_toolkit.eval.pictures.maps import map_figure, pca, tsne, umap
from ssl_toolkit.eval.pictures.neighbours import neighbour_grid, neighbours_figure
from ssl_toolkit.eval.pictures.plots import PLOTS, Subject
from ssl_toolkit.eval.pictures.units import exciting_patches, feature_maps, first_filters
from ssl_toolkit.eval.pictures.visualize import DARK, LIGHT, Theme, write_figure

__all__ = [
    "DARK",
    "LIGHT",
    "PLOTS",
    "ProbedEncoder",
    "Subject",
    "Theme",
    "ascend",
    "attention_maps",
    "exciting_patches",
    "feature_maps",
    "first_filters",
    "guided_backprop",
    "map_figure",
    "neighbour_grid",
    "neighbours_figure",
    "occlusion",
    "pca",
    "saliency",
    "shapley",
    "smoothgrad",
    "tsne",
    "umap",
    "write_figure",
]
