"""What an inversion minimises: a weighted sum of terms, each a small class of its own.

A term prepares what it needs of a photo once, when the photo comes in (:meth:`LossTerm.targets`), and is then called at
every step. All tensors have the image as first dimension, and a row depends on its own image alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.errors import UserInputError
from ganaug.features import PerceptualFeatures, feature_distance
from ganaug.interfaces import Embedder, Generator
from ganaug.latents import draw_latents, principal_axes
from ganaug.lpips import Lpips
from ganaug.precision import fast_dtype

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Made:
    """What terms look at.

    Attributes:
        images: ``(B, 3, H, W)`` nominally in [-1, 1].
        w_plus: ``(B, L, D)`` that they were made of.
        parts: ``(B, K, H, W)`` logits of a generator with parts, if some term wants them.
    """

    images: Tensor
    w_plus: Tensor
    parts: Tensor | None = None


class LossTerm(Protocol):
    """One term.

    Attributes:
        weight: Factor in the sum.
        settings: JSON-able, its weight among them; keys differ from those of other terms.
    """

    weight: float

    @property
    def settings(self) -> dict[str, Any]: ...

    def targets(self, images: Tensor, start: Tensor) -> Tensors:
        """``images (B, 3, H, W)`` in [-1, 1], ``start (B, L, D)`` -> what the term needs of them, ``(B, ...)`` each."""
        ...

    def __call__(self, made: Made, targets: Tensors) -> Tensor:
        """``(B,)``, without the weight."""
        ...


class InversionLoss:
    """The weighted sum.

    Args:
        terms: Its terms; those of weight 0 are left out.

    Attributes:
        needs_parts: Whether the generator must be asked for parts.
    """

    def __init__(self, terms: Sequence[LossTerm]) -> None:
        self.terms = [term for term in terms if term.weight != 0.0]
        self.needs_parts = any(isinstance(term, PartsLoss) for term in self.terms)
        self._settings = {name: value for term in terms for name, value in term.settings.items()}

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-able: everything that decides the loss."""
        return dict(self._settings)

    def targets(self, images: Tensor, start: Tensor) -> Tensors:
        """What all terms need of ``images``, see :meth:`LossTerm.targets`."""
        return {
            f"{number}.{name}": tensor
            for number, term in enumerate(self.terms)
            for name, tensor in term.targets(images, start).items()
        }

    def make(self, generator: Generator, w_plus: Tensor, **synthesis: Any) -> Made:
        """Images, and parts if they are needed; ``synthesis``: further arguments of the generator's."""
        if self.needs_parts:
            images, parts = cast(Any, generator).synthesis(w_plus, return_parts=True, **synthesis)
            return Made(images, w_plus, parts)
        return Made(generator.synthesis(w_plus, **synthesis), w_plus)

    def __call__(self, made: Made, targets: Tensors) -> Tensor:
        """``(B,)``."""
        total = torch.zeros(len(made.images), device=made.images.device)
        for number, term in enumerate(self.terms):
            prefix = f"{number}."
            own = {name.removeprefix(prefix): t for name, t in targets.items() if name.startswith(prefix)}
            total = total + term.weight * term(made, own)
        return total


class PixelLoss:
    """Mean squared error of images in [-1, 1]."""

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    @property
    def settings(self) -> dict[str, Any]:
        """See :class:`LossTerm`."""
        return {"pixel_weight": self.weight}

    def targets(self, images: Tensor, start: Tensor) -> Tensors:
        """The photos."""
        return {"images": images}

    def __call__(self, made: Made, targets: Tensors) -> Tensor:
        """``(B,)``."""
        return (made.images - targets["images"]).square().mean(dim=(1, 2, 3))


class PerceptualLoss:
    """Distance between activations of a discriminator, :func:`ganaug.features.feature_distance`.

    Args:
        features: The frozen trunk.
        weight: Factor in the sum.
        of: Model whose features these are, for ``settings``; None: the generator's own.
    """

    def __init__(self, features: PerceptualFeatures, weight: float = 0.2, of: str | None = None) -> None:
        self.features, self.weight, self.of = features, weight, of

    @property
    def settings(self) -> dict[str, Any]:
        """See :class:`LossTerm`."""
        return {"feature_weight": self.weight, **({} if self.of is None else {"features_of": self.of})}

    def targets(self, images: Tensor, start: Tensor) -> Tensors:
        """The photos' maps."""
        return {f"{number:02d}": fmap for number, fmap in enumerate(self.features(images))}

    def __call__(self, made: Made, targets: Tensors) -> Tensor:
        """``(B,)``, between 0 and 4."""
        images = made.images.to(fast_dtype(made.images.device) or made.images.dtype)
        return feature_distance(self.features(images), [targets[name] for name in sorted(targets)])


class LpipsLoss:
    """LPIPS (arXiv 1801.03924), see :class:`ganaug.lpips.Lpips`.

    Args:
        lpips: The metric.
        weight: Factor in the sum.
    """

    def __init__(self, lpips: Lpips, weight: float = 0.8) -> None:
        self.lpips, self.weight = lpips, weight

    @property
    def settings(self) -> dict[str, Any]:
        """See :class:`LossTerm`."""
        return {"lpips_weight": self.weight, "lpips_of": self.lpips.name}

    def targets(self, images: Tensor, start: Tensor) -> Tensors:
        """The photos' maps."""
        return {f"{number:02d}": fmap for number, fmap in enumerate(self.lpips(images))}

    def __call__(self, made: Made, targets: Tensors) -> Tensor:
        """``(B,)``, at least 0."""
        return self.lpips.distance(self.lpips(made.images), [targets[name] for name in sorted(targets)])


class IdentityLoss:
    """One minus the cosine between embeddings (arXiv 2008.00951, equation 3), between 0 and 2.

    Args:
        embedder: Differentiable.
        name: Of the embedder, for ``settings``.
        weight: Factor in the sum.
    """

    def __init__(self, embedder: Embedder, name: str, weight: float = 0.1) -> None:
        self.embedder, self.name, self.weight = embedder, name, weight

    @property
    def settings(self) -> dict[str, Any]:
        """See :class:`LossTerm`."""
        return {"identity_weight": self.weight, "identity_of": self.name}

    def targets(self, images: Tensor, start: Tensor) -> Tensors:
        """The photos' embeddings."""
        return {"embedding": self.embedder(images).float()}

    def __call__(self, made: Made, targets: Tensors) -> Tensor:
        """``(B,)``."""
        return 1.0 - F.cosine_similarity(self.embedder(made.images).float(), targets["embedding"])


class StartLoss:
    """Squared distance to the starting point, in standard deviations of W.

    Codes that stray far from where the generator was trained reconstruct better and edit worse (arXiv 2102.02766,
    section 3).

    Args:
        generator: Whose W.
        weight: Factor in the sum.
    """

    def __init__(self, generator: Generator, weight: float) -> None:
        self.weight = weight
        self._spread = _draws_of_w(generator, 2048).std(dim=0) + 1e-3

    @property
    def settings(self) -> dict[str, Any]:
        """See :class:`LossTerm`."""
        return {"prior_weight": self.weight}

    def targets(self, images: Tensor, start: Tensor) -> Tensors:
        """Where the code begins."""
        return {"start": start}

    def __call__(self, made: Made, targets: Tensors) -> Tensor:
        """``(B,)``."""
        return ((made.w_plus - targets["start"]) / self._spread).square().mean(dim=(1, 2))


# Of the widest standard deviation: along what varies less, W is a thin sheet, and every photo would lie far off it.
NARROWEST = 0.03


class WhitenedLoss:
    """Squared Mahalanobis distance to the middle of the codes, per coordinate: about 1 for typical codes.

    In whitened space, in which all principal components of the codes vary alike (as the regulariser of
    arXiv 2012.09036, section 3.2). The codes are those that the generator's prior was fitted to, or, without a prior,
    draws of W, and then each row of a code is compared with them. Directions that a prior leaves out count as its
    narrowest one.

    Args:
        generator: Whose W or prior.
        weight: Factor in the sum.
    """

    def __init__(self, generator: Generator, weight: float) -> None:
        self.weight = weight
        prior = getattr(generator, "prior", None)
        if prior is not None:
            mean, axes, std = prior.mean.flatten(), prior.components.flatten(1), prior.std
        else:
            draws = _draws_of_w(generator, 4096)
            mean, axes, std = principal_axes(draws, draws.shape[1])
        std = std.clamp(min=NARROWEST * float(std.max()))
        on = generator.w_avg.device
        self._mean, self._axes, self._std = mean.to(on), axes.to(on), std.to(on)

    @property
    def settings(self) -> dict[str, Any]:
        """See :class:`LossTerm`."""
        return {"whitened_weight": self.weight}

    def targets(self, images: Tensor, start: Tensor) -> Tensors:
        """Nothing: the same for all photos."""
        return {}

    def __call__(self, made: Made, targets: Tensors) -> Tensor:
        """``(B,)``."""
        away = made.w_plus.reshape(len(made.w_plus), -1, len(self._mean)) - self._mean
        along = away @ self._axes.t()
        left_out = (away.square().sum(dim=2) - along.square().sum(dim=2)).clamp(min=0.0)
        total = (along / self._std).square().sum(dim=2) + left_out / self._std.min().square()
        return total.mean(dim=1) / len(self._mean)


class PartsLoss:
    """Cross-entropy between a generator's parts and those that a parser sees in the photo, mean over pixels.

    Args:
        parser: ``(B, 3, H, W)`` in [-1, 1] -> ``(B, H, W)`` int64, which part each pixel is of, in the order of the
            generator's ``latent_spec.parts``; below 0 where it does not know.
        name: Of the parser, for ``settings``.
        weight: Factor in the sum.
    """

    def __init__(self, parser: Callable[[Tensor], Tensor], name: str, weight: float = 0.1) -> None:
        self.parser, self.name, self.weight = parser, name, weight

    @property
    def settings(self) -> dict[str, Any]:
        """See :class:`LossTerm`."""
        return {"parts_weight": self.weight, "parts_of": self.name}

    def targets(self, images: Tensor, start: Tensor) -> Tensors:
        """The photos' parts.

        Raises:
            UserInputError: If the parser's answer is of another shape or type.
        """
        parts = self.parser(images)
        shape = (len(images), *images.shape[2:])
        if tuple(parts.shape) != shape or parts.dtype != torch.int64:
            raise UserInputError(
                f"parser {self.name!r} turned images {tuple(images.shape)} into {tuple(parts.shape)} {parts.dtype}, "
                f"expected one int64 number of a part per pixel, {shape}"
            )
        return {"parts": parts}

    def __call__(self, made: Made, targets: Tensors) -> Tensor:
        """``(B,)``."""
        if made.parts is None:
            raise ValueError("parts are needed, but the generator was not asked for them")
        known = targets["parts"] >= 0
        wrong = F.cross_entropy(made.parts, targets["parts"].clamp(min=0), reduction="none") * known
        return wrong.sum(dim=(1, 2)) / known.sum(dim=(1, 2)).clamp(min=1)


@torch.no_grad()
def _draws_of_w(generator: Generator, count: int) -> Tensor:
    """``(count, D)`` random w of a fixed seed."""
    return draw_latents(generator, count, torch.Generator().manual_seed(0))[:, 0].clone()
