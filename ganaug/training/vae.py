"""Training of the VAE family: encoder and decoder together, on photos alone (arXiv 1312.6114).

As in the GAN's training, a step's draws depend on (seed, step, part of the batch) alone: nothing random is stored, and
a batch cut into parts gives the same run whether one process works through them or several share them.
"""

import copy
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ganaug.features import PerceptualFeatures, feature_distance
from ganaug.generators.prior import LatentPrior
from ganaug.generators.vae import VAE, VAEConfig
from ganaug.interfaces import CheckpointError, UserInputError
from ganaug.inversion.vae import VAEEncoder, kl_divergence, sample_posterior
from ganaug.training.averaging import update_average
from ganaug.training.checkpoint import read_checkpoint, write_checkpoint
from ganaug.training.config import TrainConfig
from ganaug.training.data import RealImages
from ganaug.training.parallel import Processes, keyed_generator
from ganaug.training.prior import fit_prior

ADAM_BETA1 = 0.9  # arXiv 1412.6980, section 2; nothing adversarial here that would ask for 0
SAMPLED_PRIOR_IMAGES = 2048  # photos behind the prior that a snapshot's samples come from
CHECK_INTERVAL = 16  # steps between looks at whether losses are finite on a GPU, each of which waits for it


class VAETrainer:
    """Fulfils :class:`ganaug.training.protocol.Trainable`.

    The loss is a negative evidence lower bound: Laplace likelihood of the pixels (L1), a perceptual term, and the KL
    divergence, whose weight rises linearly from 0, because an encoder that says nothing yet is cheapest to give up
    (arXiv 1602.02282, section 3.3).

    Args:
        config: Hyperparameters; ``family`` must be ``"vae"``.
        images: Training images.
        processes: The processes that share the run.
        features: Frozen perceptual features for the loss. A copy goes into checkpoint and model file.

    Raises:
        UserInputError: For another family, a ``condition``, or a batch that cannot be cut into equal parts.
    """

    def __init__(
        self, config: TrainConfig, images: RealImages, processes: Processes, *, features: PerceptualFeatures
    ) -> None:
        if config.family != "vae":
            raise UserInputError(f"VAETrainer trains family 'vae', got {config.family!r}")
        if config.condition:
            raise UserInputError(f"a VAE is unconditional: leave out the condition {', '.join(config.condition)}")
        self.config, self.images, self.processes = config, images, processes
        self.device = processes.device
        self.part_size = config.part_size(processes.world)
        self.total = int(config.kimg * 1000)
        self.dtype = config.dtype(self.device)
        self.images_seen = 0
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)
            self.generator = VAE(VAEConfig(config.resolution, config.w_dim, config.generator_channels))
            self.encoder = VAEEncoder(config.discriminator_channels, *self.generator.latent_spec.shape)
        self.features = copy.deepcopy(features).eval().requires_grad_(False)
        for network in (self.generator, self.encoder, self.features):
            network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.generator_ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.encoder_ema = copy.deepcopy(self.encoder).eval().requires_grad_(False)
        trained = [*self.generator.parameters(), *self.encoder.parameters()]
        self.parameters = [parameter for parameter in trained if parameter.requires_grad]
        betas = (ADAM_BETA1, config.adam_beta2)
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.learning_rate, betas=betas)
        self._finite = torch.ones((), dtype=torch.bool, device=self.device)
        self._sampled: tuple[int, LatentPrior] | None = None  # images seen, and the prior as of then

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self.processes.is_main

    def barrier(self) -> None:
        """Waits for the other processes."""
        self.processes.barrier()

    # ---- one step ---------------------------------------------------------------------------------------------------

    def kl_weight(self) -> float:
        """Weight of the KL divergence per pixel value, now."""
        warm_up = self.config.kl_warmup_kimg * 1000
        return self.config.kl_weight * (min(self.images_seen / warm_up, 1.0) if warm_up > 0 else 1.0)

    def losses(self, photos: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Scalars ``loss``, ``pixel``, ``feature`` and ``kl`` (nats an image), means over the batch.

        Args:
            photos: ``(B, 3, R, R)`` in [-1, 1].
            noise: ``(B, L, D)`` ~ N(0, I), the posterior's draw.
        """
        config = self.config
        mean, log_variance = self.encoder(photos.to(self.dtype))
        made = self.generator.synthesis_network(sample_posterior(mean, log_variance, noise), "none", self.dtype)
        with torch.no_grad():
            target_maps = self.features(photos.to(self.dtype))
        pixel = (made - photos).abs().mean()
        feature = feature_distance(self.features(made.to(self.dtype)), target_maps).mean()
        kl = kl_divergence(mean, log_variance).mean()
        loss = config.pixel_weight * pixel + config.feature_weight * feature
        loss = loss + self.kl_weight() * kl / math.prod(photos.shape[1:])
        return {"loss": loss, "pixel": pixel, "feature": feature, "kl": kl}

    def step(self) -> dict[str, Tensor]:
        """One step of encoder and decoder on ``config.batch_size`` images.

        Raises:
            FloatingPointError: When the loss is no longer finite; noticed within 16 steps on a GPU.
        """
        config, processes = self.config, self.processes
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate_at(self.images_seen)
        number = self.images_seen // config.batch_size
        figures: dict[str, Tensor] = {}
        self.optimizer.zero_grad(set_to_none=True)
        for part in range(processes.rank * config.accumulate, (processes.rank + 1) * config.accumulate):
            photos = self.images.batch(self.images_seen + part * self.part_size, self.part_size).to(self.device)
            rng = keyed_generator(self.device, config.seed, number, part, "posterior")
            noise = torch.randn(self.part_size, *self.encoder.shape, generator=rng, device=self.device)
            found = self.losses(photos, noise)
            (found["loss"] / config.accumulate).backward()  # type: ignore[no-untyped-call]
            for name, value in found.items():
                share = value.detach() / config.accumulate
                figures[name] = figures[name] + share if name in figures else share
        processes.average_gradients(self.parameters)
        self.optimizer.step()
        self.images_seen += config.batch_size
        update_average(self.generator_ema, self.generator, config, self.images_seen)
        update_average(self.encoder_ema, self.encoder, config, self.images_seen)
        self._finite &= torch.isfinite(figures["loss"])
        if self.device.type == "cpu" or (number + 1) % CHECK_INTERVAL == 0:
            self.check_finite(figures)
        return figures

    def check_finite(self, figures: dict[str, Tensor] | None = None) -> None:
        """Raises FloatingPointError if the loss of a step so far was not finite."""
        if not bool(self._finite):
            values = {name: round(float(value), 4) for name, value in (figures or {}).items()}
            raise FloatingPointError(f"loss is not finite after {self.images_seen} images: {values}")

    # ---- files and results ------------------------------------------------------------------------------------------

    def _modules(self) -> dict[str, nn.Module]:
        """Everything with weights. The frozen features too: a run that goes on must be judged by the same eye."""
        names = ("generator", "encoder", "generator_ema", "encoder_ema", "features")
        return {name: getattr(self, name) for name in names}

    def save(self, path: Path) -> None:
        """Writes a checkpoint: weights, averages, features, optimiser and position; atomically.

        Raises:
            FloatingPointError: When the loss is not finite; a good checkpoint is never replaced by a broken one.
        """
        self.check_finite()
        payload = {
            "modules": {name: module.state_dict() for name, module in self._modules().items()},
            "optimizer": self.optimizer.state_dict(),
            "images_seen": self.images_seen,
        }
        write_checkpoint(path, self.config, payload)

    def load(self, path: Path) -> None:
        """Continues from a checkpoint.

        Raises:
            CheckpointError: When the file is damaged, or belongs to another configuration or other features.
        """
        payload = read_checkpoint(path, self.config)
        try:
            for name, module in self._modules().items():
                module.load_state_dict(payload["modules"][name])
            self.optimizer.load_state_dict(payload["optimizer"])
            self.images_seen, self._sampled = int(payload["images_seen"]), None
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{path}: does not fit this run: {error}") from error

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """``(B, 3, R, R)`` in [-1, 1] -> ``w_plus (B, L, D)`` by the averaged encoder."""
        return self.encoder_ema.encode(images.to(self.device), self.generator_ema)

    @torch.no_grad()
    def samples(self, count: int, seed: int) -> Tensor:
        """``(count, 3, R, R)`` in [-1, 1], from where the shipped model draws: the prior over codes."""
        rng = keyed_generator(torch.device("cpu"), seed, "samples")
        if self._sampled is None or self._sampled[0] != self.images_seen:
            self._sampled = (self.images_seen, fit_prior(self.encode, self.images, SAMPLED_PRIOR_IMAGES))
        w_plus = self._sampled[1].sample(count, rng)
        return torch.cat([self.generator_ema.synthesis(part.to(self.device)) for part in w_plus.split(64)])

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """``(B, 3, R, R)`` in [-1, 1] through averaged encoder and generator."""
        return self.generator_ema.synthesis(self.encode(images))

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """What goes into a model file; the generator maps z to the codes of the training photos."""
        prior = fit_prior(self.encode, self.images)
        shipped = copy.deepcopy(self.generator_ema)
        shipped.set_prior(prior)
        return {
            "generator": shipped.state_dict(),
            "encoder": self.encoder_ema.state_dict(),
            "features": self.features.trunk.state_dict(),
            "prior": prior.state_dict(),
        }

    def description(self) -> dict[str, Any]:
        """What a reader of the model file needs to build the networks; the features' trunk may be of any size."""
        return {
            "family": self.generator.family,
            "config": asdict(self.generator.config),
            "encoder_channels": list(self.config.discriminator_channels),
            "discriminator_channels": list(self.features.trunk.channels),
            "features_resolution": self.features.img_resolution,
        }
