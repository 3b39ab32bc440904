"""Another person in place of the photo's: a new face from the generator, with the label of the sample if it can."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganaug.edits.parts import UNKNOWN_TOUCHES
from ganaug.edits.whitening import Components
from ganaug.interfaces import Generator, UserInputError
from ganaug.rng import uniforms_of

MAX_SEED = 2**24  # float32 holds every integer up to it, so that a recipe holds the seed of a face exactly
_SMALLEST = 2.0**-54  # half the step of a uniform number: the normal number of 0 would be infinite


class Resample:
    """Draws a new face: nothing of the photo is left, least of all the person.

    An unconditional generator with a prior draws from that, near the codes of photos. Any other maps z ~ N(0, I); a
    conditional one under the label of the sample. z is a hash of one drawn integer, so a recipe holds it in one number.

    It touches everything, identity first, so ``preserve=["identity"]`` without a gate refuses it. It is for labels that
    do not say who it is: more faces of a class. Pasted into the photo (``paste="paste"``), glasses, hands and hair that
    the generator had missed there stay; ``"aligned"`` and ``"whole"`` show the new face alone. Where a record has an
    anchor (see :class:`ganaug.interfaces.Inversion`), what the inverter added to it is left in the picture, too.

    Args:
        generator: Whose faces. The edit keeps a float64 copy of what draws latents, not of what draws pictures.
        name: Name of the edit.
        truncation_psi: Scales the distance from the mean face: less is more typical and less diverse.
        classes: The generator's class for each class number of the dataset; default: the same number. For conditional
            generators only.
        strength: Range of the share of the way to the new face.

    Attributes:
        needs_label: Whether ``params`` must hold ``label (B,)``, the class number of each sample.
        num_labels: Class numbers that it knows: 0 to this, less one. 0 where there is no condition.

    Raises:
        UserInputError: For classes that the generator does not have, or a generator that takes several labels.
    """

    needs_partner = False

    def __init__(
        self,
        generator: Generator,
        name: str = "resample",
        truncation_psi: float = 0.8,
        classes: Sequence[int] | None = None,
        strength: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        sizes: tuple[int, ...] = getattr(generator, "label_sizes", ())
        if len(sizes) > 1:
            raise UserInputError(
                f"edit {name!r} gives a face the label of its sample, but this generator takes {len(sizes)} labels at "
                "once; use one that is conditional on a single column"
            )
        known = range(sizes[0]) if sizes else range(0)
        chosen = list(known if classes is None else classes)
        if not all(number in known for number in chosen):
            raise UserInputError(f"edit {name!r}: classes {chosen}, but this generator has {len(known)}")
        self.name = name
        self.touches = UNKNOWN_TOUCHES
        self.strength = strength
        self.truncation_psi = truncation_psi
        self.needs_label = bool(sizes)
        self.num_labels = len(chosen)
        self.classes = torch.tensor(chosen, dtype=torch.int64)
        self.num_classes = len(known)
        self.prior: Components | None = None if sizes else getattr(generator, "prior", None)
        self.mapper = None if self.prior is not None else _mapper(generator)
        self.num_normals = generator.z_dim if self.prior is None else len(self.prior.std)
        self._copies: dict[torch.device, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_copies": {}}

    def sample_params(self, uniforms: Tensor) -> dict[str, Tensor]:
        """``seed (B,)``, an integer below 2**24, and ``strength (B,)``, uniform over the range."""
        low, high = self.strength
        seed = (uniforms[:, 0].double() * MAX_SEED).floor()
        return {"seed": seed.float(), "strength": (low + (high - low) * uniforms[:, 1]).float()}

    def apply(self, w_plus: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """``params``: ``seed (B,)``, ``strength (B,)`` and, if ``needs_label``, ``label (B,)``."""
        drawn = self.draw(params["seed"].to(w_plus.device), params.get("label"))
        return w_plus + (drawn.to(w_plus.dtype) - w_plus) * params["strength"].to(w_plus)[:, None, None]

    @torch.no_grad()
    def draw(self, seed: Tensor, label: Tensor | None = None) -> Tensor:
        """The new faces.

        Args:
            seed: ``(B,)`` integers below 2**24, of any type.
            label: ``(B,)`` class numbers, of any type, if ``needs_label``.

        Returns:
            ``(B, L, D)`` float64: in float32, matrix products of another batch size would differ in their last bits.
        """
        uniform = uniforms_of(seed.long(), "resample", self.num_normals)
        normal = torch.special.ndtri(uniform.clamp(min=_SMALLEST))
        if self.prior is not None:
            mean, components, std = self._on(seed.device)
            moved: Tensor = mean + self.truncation_psi * torch.tensordot(normal * std, components, dims=1)
            return moved
        condition = None
        if self.needs_label:
            if label is None:
                raise UserInputError(f"edit {self.name!r} needs the labels of the samples, and got none")
            classes = self.classes.to(seed.device)[label.to(seed.device).long()]
            condition = F.one_hot(classes, self.num_classes).double()
        drawn: Tensor = self._on(seed.device).mapping(normal, condition, self.truncation_psi)
        return drawn

    def _on(self, device: torch.device) -> Any:
        """The prior's tensors or the mapper, in float64 on a device."""
        if device not in self._copies:
            if self.prior is not None:
                prior = (self.prior.mean, self.prior.components, self.prior.std)
                self._copies[device] = tuple(values.to(device).double() for values in prior)
            else:
                self._copies[device] = copy.deepcopy(cast(nn.Module, self.mapper)).to(device)
        return self._copies[device]


def _mapper(generator: Generator) -> nn.Module:
    """A float64 copy of a generator, without the network that draws pictures where that stands apart."""
    light = copy.copy(cast(nn.Module, generator))
    light._modules = {name: part for name, part in light._modules.items() if name != "synthesis_network"}
    return copy.deepcopy(light).double()
