"""Training an encoder for a generator that stays as it is.

Photos and the generator's own samples go through the encoder together. Photos have no known latents: their
reconstruction must resemble them in pixels, in perceptual features and, with an embedder, in identity. Samples have
known latents, which the encoder must find. As in e4e (arXiv 2102.02766) a code is one base code plus an offset per
row, and the offsets are kept small, so that the code can be edited.
"""

import copy
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganaug.features import feature_distance
from ganaug.interfaces import CheckpointError, Embedder, UserInputError
from ganaug.latents import draw_latents
from ganaug.training.averaging import update_average
from ganaug.training.checkpoint import read_checkpoint, write_checkpoint
from ganaug.training.config import convolution_dtype
from ganaug.training.data import RealImages
from ganaug.training.encoder_config import EncoderConfig
from ganaug.training.encoder_source import EncoderSource, build_encoder
from ganaug.training.identity import identity_loss
from ganaug.training.parallel import Processes, keyed_generator
from ganaug.training.prior import fit_prior

STATISTICS_DRAWS = 4096  # latents that W's variance is measured on: its relative error is about sqrt(2 / 4096) = 2 %
ENCODED_AT_ONCE = 128  # images in memory at once, where there are no gradients
MIN_W_STD = 1e-6  # a mapping that gives a constant leaves nothing to measure in
CPU = torch.device("cpu")  # where all numbers are drawn, so that a run is the same on every device
FINAL_RATE = 0.1  # share of the learning rate that is left at the end


def offset_penalty(offsets: Tensor, w_std: float) -> Tensor:
    """Delta regularisation of e4e: the sum over rows of ``|offset|_2`` (arXiv 2102.02766, L_d-reg), mean over samples.

    Not squared, so the pull towards W does not fade near it. To mean the same for every generator it is divided by
    the length of a typical row, ``w_std * sqrt(D)``, and by the number of rows.

    Args:
        offsets: ``(B, L, D)``.
        w_std: Root of W's variance per number.
    """
    num_ws, w_dim = offsets.shape[1:]
    return torch.linalg.vector_norm(offsets, dim=2).sum(dim=1).mean() / (num_ws * w_std * math.sqrt(w_dim))


class EncoderTrainer:
    """Fits an encoder to a generator, fulfilling :class:`ganaug.training.protocol.Trainable`.

    Args:
        config: Hyperparameters.
        source: The generator, with what belongs to it.
        images: Training photos at the generator's resolution.
        processes: Where to train; the generator is on that device already.
        embedder: Identity loss, see :func:`ganaug.training.identity.load_embedder`; None: without.
        data: What the photos are, for the model file.
        licence: Their licence and attribution, for the model file.

    Raises:
        UserInputError: If the batch cannot be shared by the processes, or there is no encoder to continue.

    Attributes:
        encoder: What is trained.
        encoder_ema: The running average of its weights, which is kept.
        images_seen: Photos shown so far.
        w_std: Root of W's variance per number; latent errors are measured in it.
        has_w: Whether the generator's own samples have all rows equal; if not, offsets are not penalised.
    """

    def __init__(
        self,
        config: EncoderConfig,
        source: EncoderSource,
        images: RealImages,
        processes: Processes,
        *,
        embedder: Embedder | None = None,
        data: str = "not stated",
        licence: str = "not stated",
    ) -> None:
        if config.batch_size % processes.world:
            raise UserInputError(f"batch_size {config.batch_size} cannot be shared by {processes.world} processes")
        self.config, self.source, self.images, self.processes = config, source, images, processes
        self.embedder, self.data, self.licence = embedder, data, licence
        self.device = processes.device
        self.images_seen = 0
        self.total = int(config.kimg * 1000)
        self.encoder = build_encoder(source, config.seed, continued=config.continue_encoder)
        self.encoder_ema = copy.deepcopy(self.encoder).eval().requires_grad_(False)
        betas = (config.adam_beta1, config.adam_beta2)
        self.optimizer = torch.optim.Adam(self.encoder.parameters(), lr=config.learning_rate, betas=betas)
        self.dtype = convolution_dtype(config.precision, self.device)
        with torch.no_grad():
            w_plus = draw_latents(source.generator, STATISTICS_DRAWS, keyed_generator(CPU, "variance of W"))
        self.w_std = max(float(w_plus[:, 0].var(dim=0).mean().sqrt()), MIN_W_STD)
        # A family whose samples have a row each of their own, such as the VAE, has no W to keep codes near.
        self.has_w = bool((w_plus == w_plus[:, :1]).all())

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.processes.is_main

    def barrier(self) -> None:
        """Waits for all processes."""
        self.processes.barrier()

    def _rate(self) -> float:
        config = self.config
        start = min((self.images_seen + config.batch_size) / max(config.warmup_kimg * 1000, 1.0), 1.0)
        left = (self.total - self.images_seen) / max(config.decay_fraction * self.total, 1.0)
        return config.learning_rate * start * max(min(left, 1.0), FINAL_RATE)

    def _open_rows(self) -> Tensor:
        """``(L, 1)``: 1 for rows whose offsets are let loose by now, 0 for the others."""
        num_ws = self.source.generator.latent_spec.num_ws
        opening = self.config.opening_kimg * 1000
        count = num_ws if opening == 0 else min(int(num_ws * self.images_seen / opening), num_ws)
        return (torch.arange(num_ws, device=self.device) < count).float()[:, None]

    @torch.no_grad()
    def _known_latents(self, count: int) -> Tensor:
        """``(count, L, D)`` for this step, from z and from the prior."""
        source = self.source
        draws = keyed_generator(CPU, self.config.seed, "encoder samples", self.images_seen)
        from_prior = 0 if source.prior is None else round(count * self.config.prior_share)
        w_plus = draw_latents(source.generator, count - from_prior, draws)
        if source.prior is None or from_prior == 0:
            return w_plus
        return torch.cat([w_plus, source.prior.sample(from_prior, draws)])

    def losses(self, photos: Tensor, known: Tensor) -> dict[str, Tensor]:
        """Unweighted losses of one step, scalars with gradients.

        Args:
            photos: ``(B, 3, R, R)`` in [-1, 1].
            known: ``(S, L, D)`` latents of the samples to be found again; S may be 0.
        """
        generator, count = self.source.generator, photos.shape[0]
        with torch.no_grad():
            samples = generator.synthesis(known).clamp(-1.0, 1.0)  # an encoder never meets a photo outside the range
        targets = torch.cat([photos, samples])
        base, offsets = self.encoder(targets.to(self.dtype))
        offsets = offsets * self._open_rows()
        codes = generator.w_avg + base[:, None] + offsets
        images = generator.synthesis(codes)
        with torch.no_grad():
            wanted = self.source.features(photos.to(self.dtype))
        losses = {
            "pixel": (images - targets).abs().mean(),
            "feature": feature_distance(self.source.features(images[:count].to(self.dtype)), wanted).mean(),
            "offset": offset_penalty(offsets, self.w_std) if self.has_w else offsets.new_zeros(()),
            # Not .mean(): that of no samples is NaN.
            "latent": (codes[count:] - known).square().sum() / (self.w_std**2 * max(known.numel(), 1)),
        }
        if self.embedder is not None:
            losses["identity"] = identity_loss(self.embedder, images[:count], photos)
        return losses

    def step(self) -> dict[str, float | Tensor]:
        """One optimiser step over ``batch_size`` photos.

        Returns:
            The unweighted losses and their weighted sum ``loss``.

        Raises:
            FloatingPointError: When the loss is not finite; the weights are then still those of the step before.
        """
        config, processes = self.config, self.processes
        share = config.batch_size // processes.world
        photos = self.images.batch(self.images_seen + processes.rank * share, share).to(self.device)
        known = self._known_latents(config.num_samples)[processes.rank :: processes.world]
        losses = self.losses(photos, known)
        loss = torch.stack([getattr(config, f"{name}_weight") * value for name, value in losses.items()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        processes.average_gradients(self.encoder.parameters())
        figures = {name: value.detach().clone() for name, value in {**losses, "loss": loss}.items()}
        processes.average(figures.values())
        if not math.isfinite(float(figures["loss"])):
            values = {name: float(value) for name, value in figures.items()}
            raise FloatingPointError(f"loss is not finite after {self.images_seen} images: {values}")
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.optimizer.step()
        self.images_seen += config.batch_size
        update_average(self.encoder_ema, self.encoder, config, self.images_seen)
        return {**figures}

    def save(self, path: Path) -> None:
        """Writes everything that :meth:`load` needs into one file, atomically."""
        payload = {
            "generator": self.source.generator.fingerprint,
            "encoder": self.encoder.state_dict(),
            "encoder_ema": self.encoder_ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "images_seen": self.images_seen,
        }
        write_checkpoint(path, self.config, payload)

    def load(self, path: Path) -> None:
        """Continues from a file that :meth:`save` wrote.

        Raises:
            CheckpointError: When the file is damaged, or of another configuration or generator.
        """
        payload = read_checkpoint(path, self.config)
        theirs, mine = payload.get("generator"), self.source.generator.fingerprint
        if theirs != mine:
            raise CheckpointError(f"{path}: made for generator {theirs}, not for {mine}; use another --out")
        self.encoder.load_state_dict(payload["encoder"])
        self.encoder_ema.load_state_dict(payload["encoder_ema"])
        self.optimizer.load_state_dict(payload["optimizer"])
        self.images_seen = payload["images_seen"]

    @torch.no_grad()
    def samples(self, count: int, seed: int) -> Tensor:
        """What the generator draws, ``(count, 3, R, R)``: for pictures only, as training does not change it."""
        generator = self.source.generator
        return generator.synthesis(draw_latents(generator, count, keyed_generator(CPU, seed, "samples")))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """``(B, 3, R, R)`` in [-1, 1] -> ``(B, L, D)`` by the averaged encoder."""
        generator = self.source.generator
        return torch.cat(
            [self.encoder_ema.encode(part.to(self.device), generator) for part in images.split(ENCODED_AT_ONCE)]
        )

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """``(B, 3, R, R)`` in [-1, 1] -> the same shape, encoded and decoded."""
        return torch.cat([self.source.generator.synthesis(part) for part in self.encode(images).split(ENCODED_AT_ONCE)])

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """State dicts for the model file: the file's own generator and features, the new encoder and its prior."""
        prior = fit_prior(self.encode, self.images)
        handed_on = {name: dict(state) for name, state in self.source.parts.items()}
        return handed_on | {"encoder": self.encoder_ema.state_dict(), "prior": prior.state_dict()}

    def description(self) -> dict[str, Any]:
        """What the generator's file says about itself, and one more entry in ``encoder_training``."""
        entry = {
            **self.config.to_dict(),
            "images_seen": self.images_seen,
            "generator": self.source.name,
            "data": self.data,
            "licence": self.licence,
        }
        described = {name: value for name, value in self.source.description.items() if name != "encoder_config"}
        return {
            **described,
            "encoder": "latent",
            "encoder_channels": list(self.source.encoder_channels),
            "encoder_training": [*described.get("encoder_training", []), entry],
        }
