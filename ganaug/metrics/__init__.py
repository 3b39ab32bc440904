"""How good generated images are: realism, diversity, identity, attributes, and how local an edit is.

Every metric is a streaming object. ``update`` shows it a batch, ``compute`` gives figures and may be called at any
time, ``reset`` forgets, ``merge`` takes in what another metric of the kind was shown, and ``reduce`` adds up the shares
of all processes of a job (torch.distributed), after which each computes the same. Sums are float64; how images are
divided into batches and processes changes nothing beyond their rounding.

| asks | metric | is shown | memory |
|---|---|---|---|
| realism of a set | :class:`FrechetDistance` (FID) | features of real and generated images | D x D numbers a side |
| | :class:`KernelDistance` (KID) | the same | all features |
| | :class:`PrecisionRecall`: realism and diversity apart | the same | all features |
| | :class:`InceptionScore` | logits of generated images | C numbers a part |
| likeness of pairs | :class:`PerceptualDistance` (LPIPS) | pairs of images | a number a pair |
| | :class:`MultiScaleSSIM` | pairs of images | two numbers a pair |
| diversity | :class:`PerceptualDiversity` | all variants of a photo | a number a photo |
| | :class:`IdentityDiversity` | embeddings of variants | D numbers a photo |
| the person | :class:`IdentityPreservation` | embeddings of photo and variant | a number a variant |
| the label | :class:`AttributeConsistency` | scores of photo and variant | a few numbers an attribute |
| place of an edit | :class:`EditLocalisation` | images before and after, a mask | three numbers an image |

Which network features and logits come from decides what a figure means: name it beside every figure
(``load_extractor(...).name``). Figures from different networks, or from sets of different sizes, are not comparable.

Example:
    >>> import torch
    >>> halves = FrechetDistance(), FrechetDistance()
    >>> for metric, number in zip(halves, (0.0, 2.0)):
    ...     metric.update(torch.tensor([[number]]), real=True)
    ...     metric.update(torch.tensor([[number + 3.0]]), real=False)
    >>> halves[0].merge(halves[1])
    >>> round(halves[0].compute(), 6)
    9.0
"""

from ganaug.metrics.attributes import AttributeConsistency
from ganaug.metrics.extractors import Extractor, load_extractor
from ganaug.metrics.frechet import FrechetDistance, frechet_distance
from ganaug.metrics.identity import IdentityDiversity, IdentityPreservation
from ganaug.metrics.inception import InceptionScore
from ganaug.metrics.kernel import KernelDistance, kernel_distance
from ganaug.metrics.localisation import EditLocalisation
from ganaug.metrics.neighbours import PrecisionRecall, precision_recall
from ganaug.metrics.perceptual import PerceptualDistance, PerceptualDiversity
from ganaug.metrics.ssim import MultiScaleSSIM, multi_scale_ssim

__all__ = [
    "AttributeConsistency",
    "EditLocalisation",
    "FrechetDistance",
    "IdentityDiversity",
    "IdentityPreservation",
    "InceptionScore",
    "KernelDistance",
    "MultiScaleSSIM",
    "PerceptualDistance",
    "PerceptualDiversity",
    "PrecisionRecall",
    "Extractor",
    "load_extractor",
    "frechet_distance",
    "kernel_distance",
    "multi_scale_ssim",
    "precision_recall",
]
