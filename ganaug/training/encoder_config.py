"""Everything that decides the training of an encoder, in one frozen dataclass."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from ganaug.errors import UserInputError
from ganaug.training.config import PRECISIONS


@dataclass(frozen=True)
class EncoderConfig:
    """Hyperparameters of :class:`ganaug.training.encoder.EncoderTrainer`.

    Attributes:
        kimg: Length of the run, in thousands of photos shown.
        batch_size: Photos a step.
        sample_share: The generator's own samples a step, as a share of ``batch_size``; their latents are known.
        prior_share: Share of those samples that is drawn from the model file's prior instead of from z; without effect
            for a file without one.
        learning_rate: Adam's rate. Half of StyleGAN2's 0.002 (arXiv 1912.04958, appendix B) for the same kind of
            layers: there is no adversary to keep up with.
        adam_beta1: First-moment decay (arXiv 1412.6980: 0.9; the 0 of StyleGAN is for adversarial losses).
        adam_beta2: Second-moment decay, as when the generator was trained.
        warmup_kimg: First part of the run over which the rate rises linearly, so that Adam's first, sign-like steps do
            not undo an encoder that is continued.
        decay_fraction: Last part of the run over which the rate falls linearly to a tenth.
        ema_kimg: Half-life of the weight average, in thousands of photos; the average is what is kept.
        ema_rampup: The half-life is at most this share of the photos shown so far (arXiv 2006.06676).
        pixel_weight: Weight of the L1 error of photos and samples.
        feature_weight: Weight of :func:`ganaug.features.feature_distance` between photo and reconstruction.
        latent_weight: Weight of the squared error of samples' latents, in units of W's variance.
        identity_weight: Weight of one minus the cosine between embeddings of photo and reconstruction
            (arXiv 2008.00951, equation 3); needs an embedder.
        offset_weight: Weight of the rows' offsets, which keeps codes near W, where edits work
            (:func:`ganaug.training.encoder.offset_penalty`).
        opening_kimg: Thousands of photos over which the rows' offsets are let loose one after another, coarse rows
            first (progressive training of arXiv 2102.02766); 0: all from the start.
        continue_encoder: Start from the model file's own encoder instead of from fresh weights.
        embedder: ``package.module:function`` that returns the :class:`ganaug.interfaces.Embedder` of the identity loss;
            None: no identity loss.
        snapshot_kimg: Thousands of photos between checkpoints with pictures and figures.
        evaluated_images: Held-out photos that the figures of a snapshot are computed from; 0 computes none.
        precision: ``"bfloat16"`` or ``"float32"`` for the convolutions; weights, losses and optimiser are float32
            either way. None: bfloat16 on CUDA, float32 elsewhere.
        seed: Decides initial weights, order of the photos and every draw.
    """

    kimg: float = 50.0
    batch_size: int = 16
    sample_share: float = 0.5
    prior_share: float = 0.5
    learning_rate: float = 0.001
    adam_beta1: float = 0.9
    adam_beta2: float = 0.99
    warmup_kimg: float = 0.5
    decay_fraction: float = 0.25
    ema_kimg: float = 1.0
    ema_rampup: float = 0.05
    pixel_weight: float = 4.0
    feature_weight: float = 4.0
    latent_weight: float = 0.25
    identity_weight: float = 0.5
    offset_weight: float = 0.1
    opening_kimg: float = 0.0
    continue_encoder: bool = False
    embedder: str | None = None
    snapshot_kimg: float = 4.0
    evaluated_images: int = 256
    precision: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.precision not in (*PRECISIONS, None):
            raise UserInputError(f"precision must be one of {', '.join(PRECISIONS)} or None, got {self.precision!r}")
        if self.batch_size < 1:
            raise UserInputError(f"batch_size must be at least 1, got {self.batch_size}")
        for name in ("kimg", "learning_rate", "ema_kimg", "ema_rampup", "snapshot_kimg"):
            if not getattr(self, name) > 0:
                raise UserInputError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("sample_share", "prior_share", "decay_fraction", "adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserInputError(f"{name} must lie in 0 to 1, got {getattr(self, name)}")
        weights = ("pixel_weight", "feature_weight", "latent_weight", "identity_weight", "offset_weight")
        for name in (*weights, "warmup_kimg", "opening_kimg", "evaluated_images"):
            if not getattr(self, name) >= 0:
                raise UserInputError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.continue_encoder and self.opening_kimg > 0:
            raise UserInputError("opening_kimg is for a fresh encoder: the rows of a continued one are open already")

    @property
    def num_samples(self) -> int:
        """The generator's own samples a step."""
        return round(self.batch_size * self.sample_share)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers only."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "EncoderConfig":
        """Inverse of :meth:`to_dict`, after a trip through JSON."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise UserInputError(f"unknown setting(s) {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        return cls(**values)
