"""A part of a face drawn anew from what that part can look like, near or far from what it is."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ganaug.interfaces import NUM_EDIT_UNIFORMS, Generator, UserInputError
from ganaug.latents import draw_latents, principal_axes

NUM_AXES = NUM_EDIT_UNIFORMS - 1  # one uniform number is for the strength
NUM_SAMPLES = 4096  # the relative error of a standard deviation is 1 / sqrt(2 N), 1.1 %
# 2**-33, so that no draw is infinite: the normal number of it is -6.3
_SMALLEST = 2.0**-33


class PartJitter:
    """Resamples the rows of a part along the leading principal axes of what these rows vary in.

    With ``c`` the coordinate along an axis in standard deviations and ``n`` a normal number,
    ``c' = sqrt(1 - strength^2) * c + strength * n``: if ``c`` is normal, so is ``c'``, whatever the strength
    (the proposal of preconditioned Crank-Nicolson; Cotter et al., Statistical Science 28(3), 2013, section 1).
    So strength 1 is another part from the prior, 0.3 a slightly other one, and none is less typical than the photo's
    own. What lies beside the axes stays as it is.

    Args:
        name: Name of the edit.
        rows: Rows of ``w_plus`` that move.
        mean: ``(L, D)``, the mean of the prior.
        axes: ``(K, L, D)``, orthonormal when flattened, zero outside ``rows``; K at most 15.
        std: ``(K,)``, standard deviation along each.
        touches: Attributes that the rows carry.
        strength: Range of the strength, within [0, 1].

    Raises:
        UserInputError: For a strength outside [0, 1], or too many axes.
    """

    needs_partner = False

    def __init__(
        self,
        name: str,
        rows: Sequence[int],
        mean: Tensor,
        axes: Tensor,
        std: Tensor,
        touches: set[str] | frozenset[str],
        strength: tuple[float, float] = (0.5, 1.0),
    ) -> None:
        if not 0.0 <= strength[0] <= strength[1] <= 1.0:
            raise UserInputError(f"edit {name!r}: the strength of a jitter lies within [0, 1], got {strength}")
        if not 1 <= len(axes) <= NUM_AXES or axes.shape[1:] != mean.shape or std.shape != axes.shape[:1]:
            raise UserInputError(
                f"edit {name!r}: expected 1 to {NUM_AXES} axes (K, L, D), a mean (L, D) and (K,) standard deviations; "
                f"got {tuple(axes.shape)}, {tuple(mean.shape)} and {tuple(std.shape)}"
            )
        self.name = name
        self.rows = tuple(rows)
        self.touches = frozenset(touches)
        self.strength = strength
        self.mean, self.axes, self.std = mean, axes, std

    @classmethod
    def of_rows(
        cls,
        name: str,
        generator: Generator,
        rows: Sequence[int],
        touches: set[str] | frozenset[str],
        strength: tuple[float, float] = (0.5, 1.0),
    ) -> "PartJitter":
        """The jitter of some rows of a generator, along at most 15 axes.

        The axes are those of the rows' share of ``generator.prior``, the codes of photos, where there is one; else of
        4096 random latents, drawn from a fixed seed.
        """
        mean, factors = _spread(generator, rows)
        _, std, axes = torch.linalg.svd(factors, full_matrices=False)  # of the covariance factors^T factors
        kept = int((std > 1e-6 * std[:1]).sum().clamp(1, NUM_AXES))
        shape = generator.latent_spec.shape
        widened = torch.zeros(kept, *shape)
        widened[:, list(rows)] = axes[:kept].reshape(kept, len(rows), shape[1]).float()
        return cls(name, rows, mean, widened, std[:kept].float(), touches, strength)

    def sample_params(self, uniforms: Tensor) -> dict[str, Tensor]:
        """``strength (B,)``, uniform over the range, and normal numbers ``n0``, ``n1``, ... ``(B,)``, one per axis."""
        low, high = self.strength
        normal = torch.special.ndtri(uniforms[:, 1 : 1 + len(self.std)].double().clamp(_SMALLEST, 1.0 - _SMALLEST))
        params = {f"n{k}": numbers.float().contiguous() for k, numbers in enumerate(normal.unbind(dim=1))}
        return {"strength": (low + (high - low) * uniforms[:, 0]).float(), **params}

    def apply(self, w_plus: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """``params``: ``strength (B,)`` and ``n0``, ``n1``, ... ``(B,)``."""
        axes, std = self.axes.to(w_plus), self.std.to(w_plus)
        around = w_plus - self.mean.to(w_plus)
        strength = params["strength"].to(w_plus)
        kept = (1.0 - strength.square()).clamp(min=0.0).sqrt()
        edited = w_plus
        # Axis by axis, no matrix product: its rounding would depend on the size of the batch.
        for k, axis in enumerate(axes):
            own = (around * axis).flatten(1).sum(dim=1)
            step = (kept - 1.0) * own + strength * std[k] * params[f"n{k}"].to(w_plus)
            edited = edited + step[:, None, None] * axis
        return edited


@torch.no_grad()
def _spread(generator: Generator, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean ``(L, D)`` of the latents, and factors ``(K, R * D)`` of the covariance of some rows, on the CPU."""
    prior = getattr(generator, "prior", None)
    if prior is not None:
        mean, components, std = (values.double().cpu() for values in (prior.mean, prior.components, prior.std))
        return mean.float(), (components[:, list(rows)].flatten(1) * std[:, None])
    codes = draw_latents(generator, NUM_SAMPLES, torch.Generator().manual_seed(0)).cpu()
    own = codes[:, list(rows)].flatten(1)
    if bool((codes == codes[:, :1]).all()):  # W: the rows are copies of one, so the axes are those of one
        _, axes, std = principal_axes(codes[:, 0], NUM_AXES)
        own_axes = axes.repeat(1, len(rows)) * std[:, None]
    else:
        _, axes, std = principal_axes(own, NUM_AXES)
        own_axes = axes * std[:, None]
    return codes.mean(dim=0), own_axes.double()
