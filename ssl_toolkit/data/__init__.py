"""Images in, batches out: sources of every kind, what cannot be read, and the loader."""

from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.batch import Batch, as_batch
from ssl_toolkit.data.cache import cached
from ssl_toolkit.data.image_set import ImageSet, Labels, Subset, read_some
from ssl_toolkit.data.images import BadImageError, decode_image, read_image
from ssl_toolkit.data.items import open_item
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.data.statistics import channel_statistics
from ssl_toolkit.data.torchvision_sets import torchvision_names

__all__ = [
    "BadImageError",
    "BadImages",
    "Batch",
    "ImageLoader",
    "ImageSet",
    "Labels",
    "Subset",
    "as_batch",
    "cached",
    "channel_statistics",
    "decode_image",
    "open_images",
    "open_item",
    "read_image",
    "read_some",
    "torchvision_names",
]
