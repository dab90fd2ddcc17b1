"""Data: sources, splits, samples and the data check. Imports no torch.

`load_data` turns the [data] table of a recipe into three image sets. The other names are steps of
that, or describe a data set.
"""

from headstart.data.check.faults import find_warnings
from headstart.data.decode import UnreadableImageError, decode_image, describe_dark
from headstart.data.images import ImageSet
from headstart.data.loading import (
    Description,
    SourceInfo,
    describe,
    fetch,
    forget_scans,
    list_sources,
    load_data,
)
from headstart.data.samples import sample_grid
from headstart.data.sources.download import Progress
from headstart.data.sources.folder import find_images
from headstart.data.splits import BadImage, Splits

__all__ = [
    "BadImage",
    "Description",
    "ImageSet",
    "Progress",
    "SourceInfo",
    "Splits",
    "UnreadableImageError",
    "decode_image",
    "describe",
    "describe_dark",
    "fetch",
    "find_images",
    "find_warnings",
    "forget_scans",
    "list_sources",
    "load_data",
    "sample_grid",
]
