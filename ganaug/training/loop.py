"""The training loop: generator, discriminator and encoder together.

Generated images are half samples ``G(f(z))`` and half reconstructions ``G(E(x))`` of real ones. Both must fool the
discriminator (non-saturating loss, arXiv 1406.2661; R1, arXiv 1801.04406), reconstructions must also resemble their
photo in pixels and in the discriminator's own features (VAE/GAN, arXiv 1512.09300; joint training as in
arXiv 2110.08718). On a small budget this gives the generator a direct signal from every photo, and what counts here is
that real photos come back.
"""

import copy
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.utils import save_image
from tqdm import tqdm

from ganaug.faces.align import to_unit_range
from ganaug.features import feature_distance
from ganaug.generators.stylegan2 import StyleGAN2
from ganaug.interfaces import CheckpointError
from ganaug.inversion.encoder import LatentEncoder
from ganaug.training.augment import augment, draw_augmentation
from ganaug.training.config import TrainConfig
from ganaug.training.data import RealImages
from ganaug.training.discriminator import Discriminator

W_AVG_BETA = 0.998  # decay of the running mean of W per step (arXiv 1812.04948, appendix C: 0.995)


@dataclass
class TrainState:
    """Networks and optimisers of one run; ``*_ema`` are the averaged copies that are kept."""

    generator: StyleGAN2
    encoder: LatentEncoder
    discriminator: Discriminator
    generator_ema: StyleGAN2
    encoder_ema: LatentEncoder
    g_optimizer: torch.optim.Adam
    d_optimizer: torch.optim.Adam
    rng: torch.Generator
    images_seen: int = 0
    step: int = 0

    def modules(self) -> dict[str, nn.Module]:
        """Everything with weights, by name."""
        return {
            "generator": self.generator,
            "encoder": self.encoder,
            "discriminator": self.discriminator,
            "generator_ema": self.generator_ema,
            "encoder_ema": self.encoder_ema,
        }


def build(config: TrainConfig, device: torch.device) -> TrainState:
    """Fresh networks; their initial weights depend on ``config.seed`` alone and the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        generator = StyleGAN2(config.generator())
        spec = generator.latent_spec
        encoder = LatentEncoder(config.discriminator_channels, spec.num_ws, spec.w_dim)
        discriminator = Discriminator(config.discriminator_channels)
    networks = [generator, encoder, discriminator]
    for network in networks:
        network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator_ema = copy.deepcopy(generator).eval().requires_grad_(False)
    encoder_ema = copy.deepcopy(encoder).eval().requires_grad_(False)
    betas = (0.0, config.adam_beta2)
    g_parameters = [*generator.parameters(), *encoder.parameters()]
    return TrainState(
        generator,
        encoder,
        discriminator,
        generator_ema,
        encoder_ema,
        torch.optim.Adam(g_parameters, lr=config.learning_rate, betas=betas, eps=1e-8),
        torch.optim.Adam(discriminator.parameters(), lr=config.learning_rate, betas=betas, eps=1e-8),
        torch.Generator(device=device).manual_seed(config.seed),
    )


class Trainer:
    """Runs :class:`TrainConfig` on images.

    Args:
        config: Hyperparameters.
        images: Training images.
        held_out: ``(N, 3, R, R)`` in [-1, 1] photos for pictures and the log; never trained on.
        device: Where to train.
    """

    def __init__(self, config: TrainConfig, images: RealImages, held_out: Tensor, device: torch.device) -> None:
        self.config = config
        self.images = images
        self.device = device
        self.held_out = held_out.to(device)
        self.state = build(config, device)
        self.total = int(config.kimg * 1000)
        self.dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}[config.precision]

    def _rate(self) -> float:
        """Learning rate now: constant, then linear to a tenth."""
        start = 1.0 - self.config.decay_fraction
        progress = min(self.state.images_seen / max(self.total, 1), 1.0)
        fall = max(progress - start, 0.0) / max(self.config.decay_fraction, 1e-8)
        return self.config.learning_rate * (1.0 - 0.9 * fall)

    def _latents(self, batch: int) -> Tensor:
        """``(batch, L, D)`` from z, some of them mixed from two z at a random row."""
        state, spec = self.state, self.state.generator.latent_spec
        draw: dict[str, Any] = {"generator": state.rng, "device": self.device}
        w_plus = state.generator.mapping(torch.randn(batch, self.config.z_dim, **draw))
        other = state.generator.mapping(torch.randn(batch, self.config.z_dim, **draw))
        cut = torch.randint(1, spec.num_ws, (batch, 1), **draw)
        cut = torch.where(torch.rand(batch, 1, **draw) < self.config.style_mixing_p, cut, spec.num_ws)
        keep = torch.arange(spec.num_ws, device=self.device)[None] < cut
        return torch.where(keep[:, :, None], w_plus, other)

    def _synthesize(self, w_plus: Tensor) -> Tensor:
        images: Tensor = self.state.generator.synthesis_network(w_plus, "random", self.dtype, self.state.rng)
        return images

    def _generate(self, real: Tensor) -> tuple[Tensor, Tensor, int]:
        """Generated batch as large as ``real``: samples first, then reconstructions of ``real[:n]``.

        Returns:
            Images, the encoder's offsets ``(n, L, D)`` and n.
        """
        state = self.state
        num_rec = round(real.shape[0] * self.config.reconstructed_share)
        w_plus = self._latents(real.shape[0] - num_rec)
        base, offsets = state.encoder(real[:num_rec].to(self.dtype))
        codes = state.generator.w_avg.detach() + base[:, None] + offsets
        return self._synthesize(torch.cat([w_plus, codes])), offsets, num_rec

    def _discriminator_step(self, real: Tensor) -> dict[str, Tensor]:
        state, config = self.state, self.config
        with torch.no_grad():
            fake, _, _ = self._generate(real)
        params = draw_augmentation(2 * real.shape[0], config.augment_p, state.rng, self.device)
        shown = augment(torch.cat([real, fake]), params).to(self.dtype)
        # Two passes: the minibatch statistic must never see real and generated images together.
        real_logits, _ = state.discriminator(shown[: real.shape[0]])
        fake_logits, _ = state.discriminator(shown[real.shape[0] :])
        loss = F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()
        figures = {"d_loss": loss.detach(), "real_sign": real_logits.detach().sign().mean()}
        if state.step % config.r1_interval == 0:
            # Half the batch: an unbiased estimate of the same penalty for half the double backward pass.
            probe = real[: max(real.shape[0] // 2, 1)].detach().requires_grad_(True)
            logits, _ = state.discriminator(probe)
            (gradient,) = torch.autograd.grad(logits.sum(), probe, create_graph=True)
            penalty = gradient.square().sum(dim=(1, 2, 3)).mean()
            loss = loss + 0.5 * config.effective_r1_gamma * config.r1_interval * penalty
            figures["r1"] = penalty.detach()
        state.d_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        state.d_optimizer.step()
        return figures

    def _generator_step(self, real: Tensor) -> dict[str, Tensor]:
        state, config = self.state, self.config
        state.discriminator.requires_grad_(False)
        fake, offsets, num_rec = self._generate(real)
        num_samples = fake.shape[0] - num_rec
        params = draw_augmentation(fake.shape[0], config.augment_p, state.rng, self.device)
        logits, maps = state.discriminator(augment(fake, params).to(self.dtype))
        adversarial = F.softplus(-logits).mean()
        photos = real[:num_rec]
        with torch.no_grad():
            target_maps = state.discriminator.trunk(augment(photos, params[num_samples:]).to(self.dtype))
        pixel = (fake[num_samples:] - photos).abs().mean()
        feature = feature_distance([m[num_samples:] for m in maps], target_maps).mean()
        size = offsets.square().mean()
        loss = adversarial + config.pixel_weight * pixel + config.feature_weight * feature + config.offset_weight * size
        figures = {
            "g_loss": adversarial.detach(),
            "pixel": pixel.detach(),
            "feature": feature.detach(),
            "offset": size.detach(),
        }
        if state.step % config.latent_interval == 0:
            with torch.no_grad():
                w_plus = self._latents(max(num_samples, 1))
                samples = self._synthesize(w_plus)
                spread = w_plus[:, 0].var(dim=0).mean() + 1e-4
            codes = state.encoder.encode(samples.to(self.dtype), state.generator.w_avg)
            latent = ((codes - w_plus).square().mean() / spread).clamp(max=10.0)
            loss = loss + config.latent_weight * config.latent_interval * 0.25 * latent
            figures["latent"] = latent.detach()
        state.g_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        state.g_optimizer.step()
        state.discriminator.requires_grad_(True)
        return figures

    @torch.no_grad()
    def _update_average(self) -> None:
        state, config = self.state, self.config
        w = state.generator.map_network(
            torch.randn(config.batch_size, config.z_dim, generator=state.rng, device=self.device)
        )
        state.generator.map_network.w_avg.lerp_(w.mean(dim=0), 1.0 - W_AVG_BETA)
        half_life = min(config.ema_kimg * 1000, max(state.images_seen * config.ema_rampup, 1.0))
        weight = 1.0 - 0.5 ** (config.batch_size / half_life)
        pairs = [(state.generator_ema, state.generator), (state.encoder_ema, state.encoder)]
        for averaged, current in pairs:
            for a, b in zip(averaged.parameters(), current.parameters(), strict=True):
                a.lerp_(b, weight)
            for kept, new in zip(averaged.buffers(), current.buffers(), strict=True):
                kept.copy_(new)

    def step(self) -> dict[str, float]:
        """One step of discriminator and generator.

        Raises:
            FloatingPointError: When a loss is no longer finite.
        """
        state = self.state
        for optimizer in (state.g_optimizer, state.d_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = self._rate()
        real = self.images.batch(state.images_seen, self.config.batch_size).to(self.device)
        figures = {**self._discriminator_step(real), **self._generator_step(real)}
        state.images_seen += self.config.batch_size
        state.step += 1
        self._update_average()
        values = {name: float(value) for name, value in figures.items()}
        if not all(math.isfinite(value) for value in values.values()):
            raise FloatingPointError(f"loss is not finite after {state.images_seen} images: {values}")
        return values

    def save(self, out: Path) -> None:
        """Writes ``out/checkpoint.pt`` atomically: all weights, optimisers, random state and position."""
        state = self.state
        payload = {
            "config": self.config.to_dict(),
            "modules": {name: module.state_dict() for name, module in state.modules().items()},
            "g_optimizer": state.g_optimizer.state_dict(),
            "d_optimizer": state.d_optimizer.state_dict(),
            "rng": state.rng.get_state(),
            "images_seen": state.images_seen,
            "step": state.step,
        }
        temporary = out / "checkpoint.tmp"
        torch.save(payload, temporary)
        os.replace(temporary, out / "checkpoint.pt")

    def load(self, out: Path) -> None:
        """Continues from ``out/checkpoint.pt``.

        Raises:
            CheckpointError: When the file is damaged or belongs to another configuration.
        """
        path = out / "checkpoint.pt"
        try:
            payload: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:
            raise CheckpointError(f"{path}: cannot be read as a training checkpoint: {error}") from error
        mine, theirs = self.config.to_dict(), payload["config"]
        different = [
            f"{k}: {theirs.get(k)} there, {v} here" for k, v in mine.items() if theirs.get(k) != v and k != "kimg"
        ]
        if different:
            raise CheckpointError(f"{path}: made with other settings ({'; '.join(different)}); use another --out")
        state = self.state
        for name, module in state.modules().items():
            module.load_state_dict(payload["modules"][name])
        state.g_optimizer.load_state_dict(payload["g_optimizer"])
        state.d_optimizer.load_state_dict(payload["d_optimizer"])
        state.rng.set_state(payload["rng"].cpu())
        state.images_seen, state.step = payload["images_seen"], payload["step"]

    @torch.no_grad()
    def picture(self, num_columns: int = 12) -> Tensor:
        """Three rows of samples, one of held-out photos, one of their reconstructions: ``(3, 5R, C*R)`` in [0, 1]."""
        state = self.state
        num_columns = min(num_columns, self.held_out.shape[0])
        generator = torch.Generator(device=self.device).manual_seed(self.config.seed + 1)
        z = torch.randn(3 * num_columns, self.config.z_dim, generator=generator, device=self.device)
        samples = state.generator_ema.synthesis(state.generator_ema.mapping(z, truncation_psi=0.8))
        photos = self.held_out[:num_columns]
        codes = state.encoder_ema.encode(photos, state.generator_ema.w_avg)
        images = to_unit_range(torch.cat([samples, photos, state.generator_ema.synthesis(codes)]))
        rows = images.unflatten(0, (5, num_columns))  # (5, C, 3, R, R)
        return rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)

    @torch.no_grad()
    def held_out_error(self) -> float:
        """Mean squared error of the encoder's reconstructions of held-out photos, of images in [0, 1]."""
        state = self.state
        total = 0.0
        for photos in self.held_out.split(64):
            codes = state.encoder_ema.encode(photos, state.generator_ema.w_avg)
            error = to_unit_range(state.generator_ema.synthesis(codes)) - to_unit_range(photos)
            total += float(error.square().mean(dim=(1, 2, 3)).sum())
        return total / max(self.held_out.shape[0], 1)

    def run(self, out: Path) -> None:
        """Trains to the end, with checkpoints, pictures and ``log.jsonl`` in ``out``."""
        out.mkdir(parents=True, exist_ok=True)
        state, config = self.state, self.config
        every = max(int(config.snapshot_kimg * 1000), config.batch_size)
        averages: dict[str, list[float]] = {}
        started = time.monotonic()
        with tqdm(total=self.total, initial=state.images_seen, unit="img", desc="training", disable=None) as bar:
            while state.images_seen < self.total:
                for name, value in self.step().items():
                    averages.setdefault(name, []).append(value)
                bar.update(config.batch_size)
                if state.images_seen % every < config.batch_size or state.images_seen >= self.total:
                    self.save(out)
                    name = f"samples-{state.images_seen // 1000:06d}.png"
                    save_image(self.picture(), out / name)
                    line = {k: round(sum(v) / len(v), 5) for k, v in averages.items()}
                    line |= {"images": state.images_seen, "held_out_mse": round(self.held_out_error(), 6)}
                    line |= {"seconds": round(time.monotonic() - started, 1)}
                    with (out / "log.jsonl").open("a") as log:
                        log.write(json.dumps(line) + "\n")
                    averages = {}
