"""Moves of latents that change one part of the picture and leave the rest: eyes, brows, nose, mouth, hair ...

Single rows of a style-based generator feed single resolutions, and some combinations of their numbers act on one part
of a face only: most channels of StyleSpace do (arXiv 2011.12799, section 4). They are found from the Jacobian of the
picture on the generator's own faces, without any labels: the moves that change much inside a mask and little outside
(LowRankGAN, arXiv 2106.04488; ReSeFa, arXiv 2202.09649).

ReSeFa divides one by the other, by generalised eigenvectors. That finds moves of the best ratio, however faint: on
faces64 their change had to be enlarged until other things came along. Here the ratio is a condition, and among the
moves that keep it the largest are taken: eigenvectors of ``inside - penalty * outside``. These are orthonormal, too, so
any combination of them keeps the condition.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.faces.masks import PARTS, landmark_masks
from ganaug.faces.templates import template_points
from ganaug.interfaces import Generator, UserInputError
from ganaug.latents import principal_axes

# Part of an edit's name -> parts of ganaug.faces.masks, and by how much of the side their masks are widened: a brow
# that is raised leaves its ellipse. A pixel of 64 for eyes, brows and nose, two for the mouth, which opens, three for
# the frames of glasses.
REGIONS: dict[str, tuple[tuple[str, ...], float]] = {
    "hair": (("hair",), 0.0),
    "background": (("background",), 0.0),
    "skin": (("face", "nose"), 0.0),
    "eyes": (("eye",), 1 / 64),
    "brows": (("eyebrow",), 1 / 64),
    "nose": (("nose",), 1 / 64),
    "mouth": (("mouth",), 2 / 64),
    "glasses": (("eye", "eyebrow"), 3 / 64),
}
# Part -> share of the height below which its pixels need not change: beside the chin there are shoulders, not always
# background.
CORES: dict[str, float] = {"background": 50 / 64}
PENALTY = 10.0  # change outside may be a tenth of that inside, per pixel: leaves room up to the quarter asked for
AXES_PER_ROW = 40  # of 256: 82 % of the variance of faces64's codes
_FAINT = 0.1  # of the mean cost of a move, added to every cost: less finds moves that hardly show
_AT_ONCE = 32  # pictures


def region_mask(name: str, size: int, template: str = "fairface") -> Tensor:
    """Where a part lies in the mean face of a template: ``(size, size)`` of zeros and ones.

    Raises:
        UserInputError: For a part without a region, or an unknown template.

    Example:
        >>> mask = region_mask("mouth", 64)
        >>> mask[43, 32].item(), mask[19, 20].item()
        (1.0, 0.0)
    """
    if name not in REGIONS:
        raise UserInputError(f"no region {name!r} in a face: expected one of {', '.join(REGIONS)}")
    parts, widened = REGIONS[name]
    points = torch.from_numpy(template_points(template, (size, size))).float()
    masks = landmark_masks(points[None], (size, size))[0]
    mask = masks[[PARTS.index(part) for part in parts]].sum(dim=0)
    margin = round(widened * size)
    return F.max_pool2d(mask[None, None], 2 * margin + 1, 1, margin)[0, 0] if margin else mask


def region_core(name: str, size: int, template: str = "fairface") -> Tensor:
    """The pixels of :func:`region_mask` that an edit of the part should change: all, but for :data:`CORES`."""
    mask = region_mask(name, size, template)
    end = round(CORES.get(name, 1.0) * size)
    return torch.cat([mask[:end], torch.zeros_like(mask[end:])])


@dataclass(frozen=True)
class RowBasis:
    """Moves of single rows, each one standard deviation of the codes at hand.

    Attributes:
        moves: ``(L, K, D)``, of row l alone: its k-th principal axis, times the standard deviation along it.
    """

    moves: Tensor

    @classmethod
    def of(cls, codes: Tensor, num_axes: int = AXES_PER_ROW) -> "RowBasis":
        """Of ``codes (N, L, D)``."""
        found = []
        for row in codes.unbind(dim=1):
            _, axes, std = principal_axes(row, num_axes)
            found.append(axes * std[:, None])
        return cls(torch.stack(found))

    def __len__(self) -> int:
        return self.moves.shape[0] * self.moves.shape[1]

    def combine(self, weights: Tensor) -> Tensor:
        """``(M, L * K)`` -> moves of latents ``(M, L, D)``."""
        rows, count, _ = self.moves.shape
        return torch.einsum("mlk,lkd->mld", weights.reshape(-1, rows, count).to(self.moves), self.moves)

    def weights_of(self, move: Tensor) -> Tensor:
        """``(L, D)`` -> ``(L * K,)``: the nearest combination of the basis."""
        along = torch.einsum("lkd,ld->lk", self.moves, move.to(self.moves))
        return (along / self.moves.square().sum(dim=2).clamp(min=1e-12)).flatten()


@torch.no_grad()
def picture_changes(generator: Generator, code: Tensor, basis: RowBasis, masks: Tensor, step: float = 1.0) -> Tensor:
    """Central differences of the picture along every move of a basis.

    Differences over a standard deviation on either side, not derivatives: an edit is a step of that size, and the
    leaky ReLUs on the way are nowhere flat.

    Args:
        generator: Whose pictures.
        code: ``(L, D)``.
        basis: ``N`` moves.
        masks: ``(M, R, R)``, only to fail early where they do not fit.
        step: In standard deviations.

    Returns:
        ``(N, 3, R, R)``, in [0, 1] of the picture per standard deviation.
    """
    size = generator.img_resolution
    if masks.shape[1:] != (size, size):
        raise UserInputError(f"masks of {tuple(masks.shape[1:])} do not fit pictures of {size} x {size}")
    changes = []
    for row, moves in enumerate(basis.moves):
        for part in moves.split(_AT_ONCE):
            both = code.repeat(2 * len(part), 1, 1)
            both[: len(part), row] += step * part.to(code)
            both[len(part) :, row] -= step * part.to(code)
            up, down = generator.synthesis(both).clamp(-1.0, 1.0).chunk(2)
            changes.append((up - down) / (4.0 * step))
    return torch.cat(changes)


@dataclass(frozen=True)
class RegionEnergy:
    """Mean squared change per pixel and channel inside and outside of masks, as quadratic forms of a move.

    Attributes:
        basis: ``N`` moves.
        inside: Name -> ``(N, N)``: ``v @ inside @ v`` is the change inside of the mask for a small move ``v``.
        outside: The same of all other pixels.
        mean: ``(N, 3, R, R)``, mean change of the picture along each move.
    """

    basis: RowBasis
    inside: Mapping[str, Tensor]
    outside: Mapping[str, Tensor]
    mean: Tensor

    @classmethod
    def measure(
        cls,
        generator: Generator,
        codes: Tensor,
        basis: RowBasis,
        masks: Mapping[str, Tensor],
        cores: Mapping[str, Tensor] | None = None,
    ) -> "RegionEnergy":
        """Mean over faces ``codes (F, L, D)``; two pictures for each move and face.

        Args:
            generator: Whose pictures.
            codes: Faces.
            basis: What may move.
            masks: Name -> ``(R, R)`` of zeros and ones; what is 0 is outside.
            cores: Name -> what is inside, where that is less than the mask.
        """
        cores = {**masks, **(cores or {})}
        stacked = torch.stack(list(masks.values()))
        count = len(basis)
        inside, outside = ({name: torch.zeros(count, count, dtype=torch.float64) for name in masks} for _ in range(2))
        mean = torch.zeros(count, 3, *stacked.shape[1:])
        for code in codes:
            changes = picture_changes(generator, code, basis, stacked).cpu()
            mean += changes / len(codes)
            for name, mask in masks.items():
                for total, pixels in ((inside[name], cores[name] > 0), (outside[name], mask == 0)):
                    chosen = changes[:, :, pixels.cpu()].flatten(1)
                    total += (chosen @ chosen.t()).double() / (len(codes) * max(chosen.shape[1], 1))
        return cls(basis, inside, outside, mean)

    def axes(self, name: str, count: int, penalty: float = PENALTY) -> Tensor:
        """The largest moves whose change outside is at most ``1 / penalty`` of that inside, per pixel, on these faces.

        Args:
            name: Of the mask.
            count: How many at most; fewer where fewer keep the condition.
            penalty: See above.

        Returns:
            ``(K, L, D)``, orthonormal combinations of the basis, largest change first; the sign makes the largest
            weight positive.

        Raises:
            UserInputError: If no move keeps the condition.
        """
        values, vectors = torch.linalg.eigh(self.inside[name] - penalty * self.outside[name])
        kept = [i for i in range(len(values) - 1, -1, -1) if values[i] > 0][:count]
        if not kept:
            raise UserInputError(f"no move of this generator's rows changes {name!r} and leaves the rest as it is")
        weights = vectors[:, kept].t()
        weights = weights * weights.gather(1, weights.abs().argmax(dim=1, keepdim=True)).sign()
        return self.basis.combine(weights)

    def towards(self, name: str, weights: Tensor, penalty: float = PENALTY) -> Tensor:
        """The move that changes a weighted sum of pixels most for the change that it makes besides.

        With ``g`` the change of the sum along each move, ``(inside + penalty * outside + r I)^-1 g``.

        Args:
            name: Of the mask that the change should stay in.
            weights: ``(3, R, R)``: redder lips are pixels of the mouth, red plus, green and blue minus.
            penalty: On change outside of the mask.

        Returns:
            ``(L, D)``, of the same length as those of :meth:`axes`.
        """
        gradient = torch.tensordot(self.mean, weights.to(self.mean), dims=3).double()
        found = torch.linalg.solve(self._cost(name, penalty), gradient)
        return self.basis.combine((found / found.norm())[None])[0]

    def localised(self, name: str, move: Tensor, penalty: float = PENALTY) -> Tensor:
        """What is nearest to a move inside of a mask, and leaves the rest as it is.

        With ``b`` the move, the minimum of ``|J_in (d - b)|^2 + penalty * |J_out d|^2 + r |d|^2``, made as long as
        changes the inside as much as ``b`` does.

        Args:
            name: Of the mask.
            move: ``(L, D)``.
            penalty: On change outside of the mask.

        Returns:
            ``(L, D)``.
        """
        whole = self.basis.weights_of(move).double()
        inside = self.inside[name]
        found = torch.linalg.solve(self._cost(name, penalty), inside @ whole)
        scale = ((whole @ inside @ whole) / (found @ inside @ found)).sqrt()
        return self.basis.combine((scale * found)[None])[0]

    def _cost(self, name: str, penalty: float) -> Tensor:
        cost = self.inside[name] + penalty * self.outside[name]
        return cost + _FAINT * cost.trace() / len(cost) * torch.eye(len(cost), dtype=cost.dtype)


@torch.no_grad()
def localisation(
    generator: Generator, codes: Tensor, edited: Tensor, mask: Tensor | Sequence[Tensor]
) -> tuple[float, float]:
    """Mean squared change of pixels in [0, 1] inside and outside of a mask, over faces.

    Args:
        generator: Whose pictures.
        codes: ``(N, L, D)``.
        edited: The same faces after an edit.
        mask: ``(R, R)`` of zeros and ones, or one for each face.
    """
    masks = mask.expand(len(codes), -1, -1) if isinstance(mask, Tensor) and mask.ndim == 2 else torch.stack([*mask])
    inside = outside = 0.0
    for before, after, part in zip(codes.split(_AT_ONCE), edited.split(_AT_ONCE), masks.split(_AT_ONCE), strict=True):
        pictures = (generator.synthesis(w).clamp(-1.0, 1.0).cpu().double() / 2 for w in (before, after))
        change = (next(pictures) - next(pictures)).square().mean(dim=1)
        weight = part.cpu().double()
        inside += float(((change * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2))).sum())
        outside += float(((change * (1 - weight)).sum(dim=(1, 2)) / (1 - weight).sum(dim=(1, 2))).sum())
    return inside / len(codes), outside / len(codes)
