"""GAN-based augmentation of face datasets, on the fly, in PyTorch.

A latent cache is made once (``ganaug precompute``); from then on :class:`GANAugmentedDataset` gives semantic variants
of the user's own faces in every batch.
"""

__version__ = "0.1.0"

from ganaug.augment import BatchAugmenter
from ganaug.cache import CacheHeader, LatentCache, Record
from ganaug.classical import ClassicalAugmentation, ClassicalConfig
from ganaug.dataset import GANAugmentedDataset
from ganaug.edits import EDITS, Direction, StyleMixing
from ganaug.generators import GENERATORS, StyleGAN2, load_generator
from ganaug.interfaces import CacheError, CheckpointError, GanaugError, ImageError, LatentSpec, UserInputError
from ganaug.inversion import INVERTERS, EncoderInverter, OptimizationInverter
from ganaug.loader import AugmentedLoader, replay
from ganaug.policy import AugmentationPolicy, linear_ratio
from ganaug.provenance import Recipe, Source

__all__ = [
    "EDITS",
    "GENERATORS",
    "INVERTERS",
    "AugmentationPolicy",
    "AugmentedLoader",
    "BatchAugmenter",
    "CacheError",
    "CacheHeader",
    "CheckpointError",
    "ClassicalAugmentation",
    "ClassicalConfig",
    "Direction",
    "EncoderInverter",
    "GANAugmentedDataset",
    "GanaugError",
    "ImageError",
    "LatentCache",
    "LatentSpec",
    "OptimizationInverter",
    "Recipe",
    "Record",
    "Source",
    "StyleGAN2",
    "StyleMixing",
    "UserInputError",
    "linear_ratio",
    "load_generator",
    "replay",
]
