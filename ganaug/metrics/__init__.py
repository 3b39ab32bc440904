"""How far generated images are from real ones, in the features of any network: ``update``, ``compute``, ``reset``.

A metric sees features ``(B, D)``, never images: which network they come from decides what a figure means, so name it
beside every figure. Figures from different networks, or from sets of different sizes, are not comparable.
"""

from ganaug.metrics.frechet import FrechetDistance, frechet_distance
from ganaug.metrics.kernel import KernelDistance, kernel_distance
from ganaug.metrics.neighbours import PrecisionRecall, precision_recall

__all__ = [
    "FrechetDistance",
    "KernelDistance",
    "PrecisionRecall",
    "frechet_distance",
    "kernel_distance",
    "precision_recall",
]
