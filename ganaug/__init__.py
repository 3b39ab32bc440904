"""GAN-based augmentation of face datasets, on the fly, in PyTorch.

A latent cache is made once (``ganaug precompute``); from then on :class:`GANAugmentedDataset` gives semantic variants
of the user's own faces in every batch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ganaug.augment import BatchAugmenter
    from ganaug.cache import CacheHeader, LatentCache, Record
    from ganaug.classical import ClassicalAugmentation, ClassicalConfig
    from ganaug.dataset import GANAugmentedDataset
    from ganaug.degrade import DegradationConfig
    from ganaug.edits import EDITS, Direction, StyleMixing
    from ganaug.edits.published import import_directions
    from ganaug.errors import CacheError, CheckpointError, GanaugError, ImageError, UserInputError
    from ganaug.faces.datasets import FaceDataset, open_dataset
    from ganaug.gate import IdentityGate
    from ganaug.generators import GENERATORS, StyleGAN2, load_generator
    from ganaug.interfaces import LatentSpec
    from ganaug.inversion import INVERTERS, EncoderInverter, OptimizationInverter
    from ganaug.loader import AugmentedLoader
    from ganaug.policy import AugmentationPolicy
    from ganaug.provenance import Recipe, Source, read_recipes, write_recipes
    from ganaug.schedules import cosine_ratio, curriculum, linear_ratio, step_ratio
    from ganaug.stage import replay
    from ganaug.strengths import Constant, Normal, Uniform

# Name -> module. Imported at first use: torch and kornia take seconds, and `ganaug --help` needs neither.
_MODULES = {
    "AugmentationPolicy": "ganaug.policy",
    "AugmentedLoader": "ganaug.loader",
    "BatchAugmenter": "ganaug.augment",
    "CacheError": "ganaug.errors",
    "CacheHeader": "ganaug.cache",
    "CheckpointError": "ganaug.errors",
    "ClassicalAugmentation": "ganaug.classical",
    "ClassicalConfig": "ganaug.classical",
    "DegradationConfig": "ganaug.degrade",
    "Constant": "ganaug.strengths",
    "Direction": "ganaug.edits",
    "EDITS": "ganaug.edits",
    "EncoderInverter": "ganaug.inversion",
    "FaceDataset": "ganaug.faces.datasets",
    "GANAugmentedDataset": "ganaug.dataset",
    "GENERATORS": "ganaug.generators",
    "GanaugError": "ganaug.errors",
    "INVERTERS": "ganaug.inversion",
    "IdentityGate": "ganaug.gate",
    "ImageError": "ganaug.errors",
    "LatentCache": "ganaug.cache",
    "LatentSpec": "ganaug.interfaces",
    "Normal": "ganaug.strengths",
    "OptimizationInverter": "ganaug.inversion",
    "Recipe": "ganaug.provenance",
    "Record": "ganaug.cache",
    "Source": "ganaug.provenance",
    "StyleGAN2": "ganaug.generators",
    "StyleMixing": "ganaug.edits",
    "Uniform": "ganaug.strengths",
    "UserInputError": "ganaug.errors",
    "cosine_ratio": "ganaug.schedules",
    "curriculum": "ganaug.schedules",
    "import_directions": "ganaug.edits.published",
    "linear_ratio": "ganaug.schedules",
    "open_dataset": "ganaug.faces.datasets",
    "load_generator": "ganaug.generators",
    "read_recipes": "ganaug.provenance",
    "replay": "ganaug.stage",
    "step_ratio": "ganaug.schedules",
    "write_recipes": "ganaug.provenance",
}

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
    "Constant",
    "DegradationConfig",
    "Direction",
    "EncoderInverter",
    "FaceDataset",
    "GANAugmentedDataset",
    "GanaugError",
    "IdentityGate",
    "ImageError",
    "LatentCache",
    "LatentSpec",
    "Normal",
    "OptimizationInverter",
    "Recipe",
    "Record",
    "Source",
    "StyleGAN2",
    "StyleMixing",
    "Uniform",
    "UserInputError",
    "cosine_ratio",
    "curriculum",
    "import_directions",
    "linear_ratio",
    "load_generator",
    "open_dataset",
    "read_recipes",
    "replay",
    "step_ratio",
    "write_recipes",
]


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'ganaug' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
