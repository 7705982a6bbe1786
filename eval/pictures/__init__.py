"""What an encoder sees, as pictures: maps, neighbours, attention, units, explanations."""

from ssl_toolkit.eval.pictures.ascent import ascend
from ssl_toolkit.eval.pictures.attention import attention_figure, attention_maps
from ssl_toolkit.eval.pictures.charts import confusion_figure, score_chart
from ssl_toolkit.eval.pictures.explain import ProbedEncoder, guided_backprop, occlusion, saliency, shapley, smoothgrad
from ssl_toolkit.eval.pictures.maps import map_figure, pca, tsne, umap
from ssl_toolkit.eval.pictures.neighbours import neighbour_grid, neighbours_figure
from ssl_toolkit.eval.pictures.plots import PLOTS
from ssl_toolkit.eval.pictures.png import write_figure
from ssl_toolkit.eval.pictures.sheets import Heat, Scale, sheet
from ssl_toolkit.eval.pictures.subject import Subject
from ssl_toolkit.eval.pictures.themes import DARK, LIGHT, Theme
from ssl_toolkit.eval.pictures.units import exciting_patches, feature_maps, first_filters
from ssl_toolkit.eval.pictures.views import views_figure

__all__ = [
    "DARK",
    "LIGHT",
    "PLOTS",
    "Heat",
    "ProbedEncoder",
    "Scale",
    "Subject",
    "Theme",
    "ascend",
    "attention_figure",
    "attention_maps",
    "confusion_figure",
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
    "score_chart",
    "shapley",
    "sheet",
    "smoothgrad",
    "tsne",
    "umap",
    "views_figure",
    "write_figure",
]
