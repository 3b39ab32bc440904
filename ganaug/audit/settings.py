"""What is audited, and how."""

from collections.abc import Sequence
from dataclasses import dataclass

from ganaug.audit.figures import MIN_COUNT
from ganaug.errors import UserInputError
from ganaug.schedules import check_ratio

MAX_PHOTOS = 2000  # that are looked at, unless told otherwise: about four minutes on one core


@dataclass(frozen=True)
class AuditSettings:
    """What is audited, and how.

    Attributes:
        ratio: Share of variants, for the counts.
        edits: Names; None: the default ones.
        preserve: What the policy must preserve; ``"identity"`` puts a gate before the variants.
        directions: File of ``ganaug directions`` with further edits.
        min_quality: See :class:`ganaug.dataset.GANAugmentedDataset`.
        columns: Groups; None: race, gender and age as far as the table has them.
        label: Column that a judge names; None: no judge.
        predictions: Column with what a judge of yours said; None: the built-in readout.
        people: Column of persons, who are then drawn and held out whole; None: every photo is one of its own.
        limit: Most photos with latents that are looked at, and a like share of those without.
        num_variants: Variants of each photo.
        max_extra: Most variants of one photo that ``extra="balance"`` makes.
        min_count: Groups with fewer photos are told to be too small; with ``people``, those with fewer persons.
        measure_balance: Whether to make the extra variants and teach a readout with them.
        embedder: Network that identity and the readout go by.
        seed: Of the policy, the choice of photos, and all draws.
    """

    ratio: float = 0.5
    edits: Sequence[str] | None = None
    preserve: Sequence[str] = ("identity",)
    directions: str | None = None
    min_quality: dict[str, float] | None = None
    columns: Sequence[str] | None = None
    label: str | None = None
    predictions: str | None = None
    people: str | None = None
    limit: int = MAX_PHOTOS
    num_variants: int = 1
    max_extra: int = 8
    min_count: int = MIN_COUNT
    measure_balance: bool = True
    embedder: str = "identity64"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.predictions is not None and self.label is None:
            raise UserInputError("predictions need a label to be right or wrong about; give --label COLUMN too")
        if "label" in self.preserve and self.label is None:
            raise UserInputError("preserve has label: say with --label which column it is")
        check_ratio(self.ratio)
        if self.min_count < 2:
            raise UserInputError(f"min_count must be at least 2, got {self.min_count}")
