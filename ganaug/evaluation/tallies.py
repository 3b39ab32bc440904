"""What is kept of every condition while an evaluation goes on."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ganaug.evaluation.judges import Reading
from ganaug.metrics import (
    EditLocalisation,
    IdentityDiversity,
    IdentityPreservation,
    InceptionScore,
    PerceptualDiversity,
)

What = Literal["inversion", "served", "edit"]


@dataclass(frozen=True)
class Condition:
    """What was done to the photos.

    Attributes:
        what: Nothing but the inversion; what a training loop gets, drawn by the policy; or one edit at one strength.
        edit: Its name.
        strength: Its magnitude; None where it has none.
    """

    what: What
    edit: str | None = None
    strength: float | None = None

    @property
    def name(self) -> str:
        """For tables: ``"age 2.0"``."""
        if self.what != "edit":
            return {"inversion": "inversion", "served": "as served"}[self.what]
        return str(self.edit) if self.strength is None else f"{self.edit} {self.strength:.2f}"


@dataclass
class Tally:
    """What was measured under one condition; lists grow by a batch.

    Attributes:
        identity: Cosines to the photos.
        features: ``(B, F)`` each, for realism.
        inception: Score of the pictures whose features are kept, where the network tells classes.
        change: ``(B,)`` mean absolute change of a pixel, in [0, 1].
        moves: ``(B, readings)``: change of each reading, along the way that the edit went.
        same: Attribute -> ``(B,)`` 1.0 where the likeliest class is that of the photo.
        place: Change outside of the part over that inside, for edits of a part.
    """

    identity: IdentityPreservation
    features: list[Tensor] = field(default_factory=list)
    inception: InceptionScore = field(default_factory=InceptionScore)
    change: list[Tensor] = field(default_factory=list)
    moves: list[Tensor] = field(default_factory=list)
    same: dict[str, list[Tensor]] = field(default_factory=dict)
    place: EditLocalisation = field(default_factory=EditLocalisation)


@dataclass
class Measured:
    """All that was measured.

    Attributes:
        keys: Of the N photos.
        tallies: Condition -> its tally; photos in the order of ``keys``, those with features first.
        readings: What ``moves`` are of.
        photo_numbers: ``(N, readings)`` of the unedited faces.
        real: Features of real photos that the others are compared with; and of other real photos, the floor.
        floor: See ``real``.
        real_inception: Score of the real photos.
        perceptual: Distances among variants of one photo.
        perceptual_photos: The same among different photos, for scale.
        identity: Likeness of variants of one photo and of different ones.
        identity_photos: The same of the photos.
        attempts: ``(N,)`` variants that the gate was shown.
        outcome: ``(N,)`` of :class:`ganaug.provenance.Source`.
        has_gate: Whether there is one.
        sheets: Edit -> picture from weak to strong.
    """

    keys: list[str]
    tallies: dict[Condition, Tally]
    readings: list[Reading]
    photo_numbers: Tensor
    real: Tensor
    floor: Tensor
    real_inception: InceptionScore
    perceptual: PerceptualDiversity
    perceptual_photos: PerceptualDiversity
    identity: IdentityDiversity
    identity_photos: IdentityDiversity
    attempts: NDArray[np.int64]
    outcome: NDArray[np.int64]
    has_gate: bool
    sheets: dict[str, Image.Image]
