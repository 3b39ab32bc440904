"""Inversion by optimisation, batched, from the generator's mean or from an encoder's guess.

StyleGAN2's projector (arXiv 1912.04958, appendix D) with W+ (arXiv 1904.03189) as the default space: Adam on the
latents, learning rate warmed up and ramped down (:mod:`ganaug.inversion.descent`), pixel and perceptual loss, pulled
towards the mean of W in units of W's own spread (:mod:`ganaug.inversion.losses`).
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ganaug.features import PerceptualFeatures
from ganaug.generators.deltas import DeltaLayout
from ganaug.interfaces import Generator, Inversion, LatentSpec, UserInputError
from ganaug.inversion.curvature import Curvature
from ganaug.inversion.descent import Descent, Plateau, Tensors
from ganaug.inversion.encoder import Encoder
from ganaug.inversion.losses import InversionLoss, LossTerm, PerceptualLoss, PixelLoss, StartLoss
from ganaug.inversion.quality import QualityJudge, require_chips
from ganaug.inversion.quasi_newton import QuasiNewton
from ganaug.precision import fast_convolutions

# Share of the steps in which the generator may round. Near the end 8 bits are too few: at 60 steps, four fifths of a
# gradient was rounding. Perceptual features may round to the last: the error was the same to 1 %.
EARLY = 0.75

Space = Literal["w", "w_plus", "parts"]


class OptimizationInverter:
    """Finds latents whose image resembles the photo; fulfils :class:`ganaug.interfaces.Inverter`.

    Args:
        generator: Generator to invert.
        features: Perceptual features, or None for pixels alone.
        encoder: Starting point; None starts from ``w_avg``.
        space: ``"w_plus"``, one code per row; ``"w"``, one code for all rows; ``"parts"``, for generators with parts,
            one code for all rows of a part, and one for each row that parts share.
        steps: Optimisation steps, with a plateau at most.
        learning_rate: Adam's rate at its highest; None: 0.1 from the mean (arXiv 1912.04958), 0.05 from an encoder.
            With a curvature: length of the first step in average Newton steps; None: 0.5.
        pixel_weight: Weight of the mean squared error of images in [-1, 1].
        feature_weight: Weight of the perceptual distance.
        prior_weight: Weight of the squared distance to the starting point (``w_avg`` or the encoder's guess), in
            standard deviations of W; None: 0.002 from the mean, 0.1 from an encoder, 0.001 with a curvature. Codes that
            stray far from where the generator was trained reconstruct better and edit worse (arXiv 2102.02766,
            section 3).
        features_of: Model whose features these are, where they are not the generator's own; kept in ``settings``.
        judge: What is measured of each inversion.
        terms: Further terms of the loss.
        noise: Noise maps that images are made with: the stored ones, none, or, ``"optimized"``, the stored ones and
            what is found for each image (arXiv 1912.04958, appendix D), which its record then holds as a delta.
        noise_weight: Weight of the mean square of what is found, in the units of the delta. Noise left to itself takes
            over what the code should say, and edits do not move it.
        plateau: Ends images early; None gives all the same number of steps.
        curvature: How the loss curves on average; then the steps are quasi-Newton ones, in coordinates that even it
            out, in the place of Adam's. For W+ and noise maps that are not optimised.
        fast: Take most of the steps in bfloat16 where the device has instructions for it. What is found is judged in
            full precision.

    Raises:
        UserInputError: For an unknown space or kind of noise, fewer than one step, a space of parts or a loss on parts
            for a generator without, or a curvature with what it does not cover.
    """

    def __init__(
        self,
        generator: Generator,
        features: PerceptualFeatures | None = None,
        encoder: Encoder | None = None,
        *,
        space: Space = "w_plus",
        steps: int = 100,
        learning_rate: float | None = None,
        pixel_weight: float = 1.0,
        feature_weight: float = 0.2,
        prior_weight: float | None = None,
        features_of: str | None = None,
        judge: QualityJudge | None = None,
        terms: Sequence[LossTerm] = (),
        noise: Literal["const", "none", "optimized"] = "const",
        noise_weight: float = 0.01,
        plateau: Plateau | None = None,
        curvature: Curvature | None = None,
        fast: bool = False,
    ) -> None:
        if noise not in ("const", "none", "optimized"):
            raise UserInputError(f"noise must be 'const', 'none' or 'optimized', got {noise!r}")
        self.name = "optimization" if encoder is None else "hybrid"
        self.generator, self.encoder, self.space = generator, encoder, space
        self.noise, self.noise_weight = noise, noise_weight
        self._groups = groups_of_rows(generator.latent_spec, space)
        if curvature is not None and (space != "w_plus" or noise == "optimized"):
            raise UserInputError(f"a curvature is of w_plus alone, got space {space!r} and noise {noise!r}")
        self.curvature, self.fast = curvature, fast
        usual = (0.5, 0.001) if curvature is not None else (0.1, 0.002) if encoder is None else (0.05, 0.1)
        self.learning_rate = learning_rate if learning_rate is not None else usual[0]
        prior_weight = prior_weight if prior_weight is not None else usual[1]
        own: list[LossTerm] = [PixelLoss(pixel_weight), StartLoss(generator, prior_weight)]
        if features is not None:
            own.append(PerceptualLoss(features, feature_weight, features_of))
        self.objective = InversionLoss([*own, *terms])
        if self.objective.needs_parts and not generator.latent_spec.parts:
            raise UserInputError("a loss on parts was asked for, but the generator has no parts")
        rates = {"code": self.learning_rate}
        self._layout: DeltaLayout | None = None
        if noise == "optimized":
            self._layout = noise_layout(generator)
            rates["delta"] = self.learning_rate
        rule = None if curvature is None else QuasiNewton(curvature.whitening(generator.w_avg.device))
        self.descent = Descent(self, rates, steps, plateau=plateau, rule=rule)
        self.refills = plateau is not None
        self.anchored = encoder is not None
        self.judge = judge or QualityJudge()
        self.quality_names = (*self.judge.names, "steps", "seconds")

    @property
    def delta(self) -> dict[str, Any] | None:
        """Layout of the noise maps, if they are optimised."""
        return None if self._layout is None else self._layout.to_dict()

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the result."""
        plateau = self.descent.plateau
        return {
            "name": self.name,
            "space": self.space,
            "steps": self.descent.steps,
            "learning_rate": self.learning_rate,
            "feature_weight": 0.0,
            **self.objective.settings,
            **({} if self.noise == "const" else {"noise": self.noise}),
            **({} if self._layout is None else {"noise_weight": self.noise_weight}),
            **({} if plateau is None else plateau.settings),
            **self.descent.rule.settings,
            **({} if self.curvature is None else self.curvature.settings),
            **({} if self.encoder is None else self.encoder.settings),
            **self.judge.settings,
        }

    def start(self, images: Tensor) -> Tensors:
        """``code (B, G, D)``: one for each group of rows, see :meth:`ganaug.inversion.descent.Problem.start`."""
        if self.encoder is not None:
            w_plus = self.encoder.encode(images, self.generator)
        else:
            w_plus = self.generator.w_avg.expand(len(images), self.generator.latent_spec.num_ws, -1)
        begun = {"code": torch.stack([w_plus[:, rows].mean(dim=1) for rows in self._groups], dim=1)}
        if self._layout is not None:
            begun["delta"] = torch.zeros(len(images), self._layout.size, device=images.device)
        return begun

    def targets(self, images: Tensor, start: Tensors) -> Tensors:
        """See :meth:`ganaug.inversion.descent.Problem.targets`."""
        return self.objective.targets(images, self.to_w_plus(start["code"]))

    def loss(self, params: Tensors, targets: Tensors) -> Tensor:
        """Loss per image ``(B,)``, see :meth:`ganaug.inversion.descent.Problem.loss`."""
        w_plus, delta = self.to_w_plus(params["code"]), params.get("delta")
        with fast_convolutions(self.fast and self._early(targets["step"])):
            made = self.objective.make(self.generator, w_plus, **self._drawing(delta))
        with fast_convolutions(self.fast):
            loss = self.objective(made, targets)
        return loss if delta is None else loss + self.noise_weight * delta.square().mean(dim=1)

    def _early(self, step: Tensor) -> bool:
        """Whether gradients are still large beside the rounding of bfloat16; for images that start together."""
        if step.is_cuda:  # where generators draw in bfloat16 anyway, and looking would wait for the device
            return True
        return not self.refills and bool((step < EARLY * self.descent.steps).any())

    def _drawing(self, delta: Tensor | None) -> dict[str, Any]:
        """Further arguments of ``synthesis``."""
        if self._layout is None or delta is None:
            return {"noise": self.noise}
        return {"delta": self._layout.bind(delta)}

    def to_w_plus(self, code: Tensor) -> Tensor:
        """``(B, G, D)`` -> ``(B, L, D)``."""
        group_of_row = {row: group for group, rows in enumerate(self._groups) for row in rows}
        num_ws = self.generator.latent_spec.num_ws
        return code if len(self._groups) == num_ws else code[:, [group_of_row[row] for row in range(num_ws)]]

    def invert(self, images: Tensor, batch_size: int | None = None) -> Inversion:
        """See :meth:`ganaug.interfaces.Inverter.invert`."""
        require_chips(images, self.generator)
        device = self.generator.w_avg.device
        found = self.descent.run(images, batch_size, device)
        w_plus, delta = self.to_w_plus(found.params["code"]), found.params.get("delta")
        anchor = self.to_w_plus(found.start["code"]) if self.anchored else None

        def draw(part: slice) -> Tensor:
            return self.generator.synthesis(w_plus[part], **self._drawing(None if delta is None else delta[part]))

        quality = self.judge.of_drawn(draw, images, batch_size or len(images), device)
        return Inversion(w_plus, {**quality, "steps": found.steps, "seconds": found.seconds}, anchor, delta)


def noise_layout(generator: Generator) -> DeltaLayout:
    """A delta that is noise maps alone.

    Raises:
        UserInputError: If the generator cannot draw with such.
    """
    return DeltaLayout.build(generator, 0, torgb=False, noise=True)


def groups_of_rows(spec: LatentSpec, space: Space) -> list[list[int]]:
    """The rows of ``w_plus`` that share one code, group by group.

    Raises:
        UserInputError: For an unknown space, or ``"parts"`` where there are none.
    """
    if space == "w":
        return [list(range(spec.num_ws))]
    if space == "w_plus":
        return [[row] for row in range(spec.num_ws)]
    if space != "parts":
        raise UserInputError(f"space must be 'w', 'w_plus' or 'parts', got {space!r}")
    if not spec.parts:
        raise UserInputError("space 'parts' needs a generator with parts; this one has none: use 'w_plus' or 'w'")
    owned = [list(rows) for rows in spec.parts.values() if rows]
    shared = sorted(set(range(spec.num_ws)) - {row for rows in owned for row in rows})
    return [[row] for row in shared] + owned
