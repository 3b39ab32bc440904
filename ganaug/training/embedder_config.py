"""Everything that decides the training of an identity embedder, in one frozen dataclass."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ganaug.embedders import EmbedderArchitecture
from ganaug.errors import UserInputError
from ganaug.faces.templates import TEMPLATES


@dataclass(frozen=True)
class EmbedderConfig:
    """Hyperparameters of :class:`ganaug.training.embedder.EmbedderTrainer`.

    Attributes:
        kimg: Length of the run, in thousands of photos shown, each in two views.
        batch_size: Photos a step.
        resolution: Side of the images.
        channels: Feature maps at a half, a quarter, ... of that side.
        embedding_dim: Numbers per face.
        template: Framing of the photos, a key of ``TEMPLATES``; None if not known. Kept in the model file.
        identity: Column that says which photos are of one person; None: each is a person of its own.
        groups: Columns whose values together say who could be taken for each other.
        attributes: Columns that heads of the network learn to tell.
        init: ``checkpoint.pt`` of another run whose network to start from; None: fresh weights.
        generator: Model file with an encoder that draws further views; None: photos only.
        generated_share: Share of the views that the generator drew.
        mixed_share: Faces on the way from one person to another, as a share of ``batch_size``, on top of it.
        hard_share: Share of the photos that come from two groups alone: they are hard to tell apart
            (arXiv 2010.04592).
        pair_share: Share of the photos that come as two photos of one person, where there are such.
        temperature: What cosines are divided by. Lower weighs the likest wrong face more; 0.1 (arXiv 2004.11362,
            section 4.4) finds 98 % of FairFace's photos among 256 views within 1,600 steps.
        attribute_weight: Weight of the heads' cross-entropy.
        learning_rate: AdamW's rate (arXiv 1711.05101), after the warm-up; falls to zero as a cosine.
        weight_decay: AdamW's decay.
        warmup_kimg: First part of the run over which the rate rises linearly.
        false_accept_rate: Of pairs of different people of one group, the share that the threshold takes for one person.
            At 1 in 1,000 the bundled embedder still knows 98 % of augmented views again, and lets 45 % of the faces
            pass that are half another person's; at 1 in 100 it would be 84 % (``assets/identity64.md``).
        snapshot_kimg: Thousands of photos between checkpoints with figures.
        evaluated_images: Held-out photos that the figures of a snapshot are computed from; 0 computes none.
        seed: Decides initial weights and every draw.
    """

    kimg: float = 400.0
    batch_size: int = 112
    resolution: int = 64
    channels: Sequence[int] = (16, 32, 64, 112)
    embedding_dim: int = 128
    template: str | None = "fairface"
    identity: str | None = None
    groups: Sequence[str] = ()
    attributes: Sequence[str] = ()
    init: str | None = None
    generator: str | None = None
    generated_share: float = 0.4
    mixed_share: float = 0.25
    hard_share: float = 0.5
    pair_share: float = 0.07
    temperature: float = 0.07
    attribute_weight: float = 0.2
    learning_rate: float = 0.002
    weight_decay: float = 0.02
    warmup_kimg: float = 10.0
    false_accept_rate: float = 0.001
    snapshot_kimg: float = 40.0
    evaluated_images: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("channels", "groups", "attributes"):  # lists come from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("kimg", "learning_rate", "temperature", "snapshot_kimg"):
            if not getattr(self, name) > 0:
                raise UserInputError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("generated_share", "mixed_share", "hard_share", "pair_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserInputError(f"{name} must lie in 0 to 1, got {getattr(self, name)}")
        for name in ("attribute_weight", "weight_decay", "warmup_kimg", "evaluated_images"):
            if not getattr(self, name) >= 0:
                raise UserInputError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 < self.false_accept_rate < 1:
            raise UserInputError(f"false_accept_rate must lie between 0 and 1, got {self.false_accept_rate}")
        if self.batch_size < 4:
            raise UserInputError(f"batch_size must be at least 4, got {self.batch_size}")
        if self.mixed_share > 0.5:
            raise UserInputError(
                f"mixed_share must be at most 0.5: every mixed face has a partner; got {self.mixed_share}"
            )
        if self.template not in (None, *TEMPLATES):
            raise UserInputError(
                f"template must be one of {', '.join(sorted(TEMPLATES))} or None, got {self.template!r}"
            )
        try:
            EmbedderArchitecture(self.resolution, self.channels, self.embedding_dim)
        except ValueError as error:
            raise UserInputError(f"resolution, channels and embedding_dim fit no network: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain containers only."""
        values = asdict(self)
        return values | {name: list(values[name]) for name in ("channels", "groups", "attributes")}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "EmbedderConfig":
        """Inverse of :meth:`to_dict`, after a trip through JSON."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise UserInputError(f"unknown setting(s) {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        return cls(**values)
