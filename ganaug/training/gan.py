"""Training of a StyleGAN2, alone or together with an encoder.

With an encoder, generated images are half samples and half reconstructions ``G(E(x))`` of real ones. Both must fool
the discriminator; reconstructions must also resemble their photo in pixels and in the discriminator's own features
(VAE/GAN, arXiv 1512.09300; joint training as in ALAE, arXiv 2004.04467, and AE-StyleGAN, arXiv 2110.08718). On a small
budget this gives the generator a direct signal from every photo, and what counts here is that real photos come back.
Half of the samples are drawn around the encoder's recent codes instead of from z, because variants are made there.

A step's draws depend on (seed, step, part of the batch) alone, so nothing random is stored, and a batch cut into parts
gives the same run whether one process works through them or several share them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganaug.features import feature_distance
from ganaug.generators.prior import LatentPrior
from ganaug.training import losses
from ganaug.training.augment import adapted, augment, draw_augmentation
from ganaug.training.averaging import update_average
from ganaug.training.config import TrainConfig
from ganaug.training.data import RealImages
from ganaug.training.gan_state import TrainState, build, load, save
from ganaug.training.parallel import Processes, keyed_generator
from ganaug.training.prior import fit_prior

W_AVG_BETA = 0.998  # decay of the running mean of W per step (arXiv 1812.04948, appendix C: 0.995)
MAX_LATENT_LOSS = 10.0  # the latent error is a ratio of variances: huge at first, when W has hardly any
SAMPLED_PRIOR_IMAGES = 2048  # photos behind the prior that a snapshot's samples come from
CHECK_INTERVAL = 16  # steps between looks at whether losses are finite on a GPU, each of which waits for it


@dataclass
class Generated:
    """What one part of a batch made the generator draw; samples come first, then reconstructions."""

    images: Tensor
    w_plus: Tensor
    offsets: Tensor | None
    codes: Tensor | None
    num_samples: int
    c: Tensor | None


class GANTrainer:
    """Fulfils :class:`ganaug.training.protocol.Trainable`.

    Args:
        config: Hyperparameters.
        images: Training images, with labels if ``config.condition`` names any.
        processes: The processes that share the run.
        label_table: What a condition means, for the model file (``Conditions.describe``); None for an unconditional
            generator.

    Raises:
        UserInputError: If the batch cannot be cut into equal parts.
    """

    def __init__(
        self,
        config: TrainConfig,
        images: RealImages,
        processes: Processes,
        *,
        label_table: dict[str, Any] | None = None,
    ) -> None:
        self.config, self.images, self.processes = config, images, processes
        self.device = processes.device
        self.label_table = label_table
        label_sizes = tuple(len(column["classes"]) for column in (label_table or {"columns": []})["columns"])
        self.c_dim = sum(label_sizes)
        self.part_size = config.part_size(processes.world)
        self.state: TrainState = build(config, self.device, label_sizes)
        self.total = int(config.kimg * 1000)
        self.dtype = config.dtype(self.device)
        self._finite = torch.ones((), dtype=torch.bool, device=self.device)
        self._sampled: tuple[int, LatentPrior] | None = None

    @property
    def images_seen(self) -> int:
        """Real images shown so far."""
        return self.state.images_seen

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self.processes.is_main

    def barrier(self) -> None:
        """Waits for the other processes."""
        self.processes.barrier()

    # ---- one step ---------------------------------------------------------------------------------------------------

    def step(self) -> dict[str, Tensor]:
        """One step of discriminator and generator on ``config.batch_size`` images.

        Raises:
            FloatingPointError: When a loss is no longer finite; noticed within 16 steps on a GPU.
        """
        state, config = self.state, self.config
        for optimizer in (state.g_optimizer, state.d_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = config.rate_at(state.images_seen)
        first = self.processes.rank * config.accumulate
        parts = [(part, *self._real(part)) for part in range(first, first + config.accumulate)]
        figures: dict[str, Tensor] = {}
        kept: list[Generated] = []
        state.d_optimizer.zero_grad(set_to_none=True)
        for part, real, c in parts:
            generated = self._generate(real, c, part)
            # The generator's step uses the same images. With several parts their graphs would add up in memory, so
            # they are drawn again.
            kept = [generated] if len(parts) == 1 else []
            self._add(figures, self._discriminator_part(real, c, generated, part))
        self._apply(state.d_optimizer)
        self._adapt()
        state.g_optimizer.zero_grad(set_to_none=True)
        codes, lengths = [], []
        trained = [p for group in state.d_optimizer.param_groups for p in group["params"]]
        for parameter in trained:  # the discriminator only passes gradients on
            parameter.requires_grad_(False)
        for part, real, c in parts:
            generated = kept[0] if kept else self._generate(real, c, part)
            self._add(figures, self._generator_part(real, generated, part))
            if config.pl_weight > 0 and state.step % config.pl_interval == 0:
                lengths.append(self._path_length_part(figures, generated.c, part))
            if generated.codes is not None:
                codes.append(generated.codes)
        for parameter in trained:
            parameter.requires_grad_(True)
        self._apply(state.g_optimizer)
        if lengths:
            mean = torch.stack(lengths).mean()
            self.processes.average([mean])
            state.path_mean.lerp_(mean, config.pl_decay)
        if codes:
            self._remember(self.processes.gather(torch.cat(codes)))
        state.images_seen += config.batch_size
        state.step += 1
        self._update_averages()
        self._finite &= torch.stack([torch.isfinite(value) for value in figures.values()]).all()
        if self.device.type == "cpu" or state.step % CHECK_INTERVAL == 0:
            self.check_finite(figures)
        return figures

    def check_finite(self, figures: dict[str, Tensor] | None = None) -> None:
        """Raises FloatingPointError if a loss of a step so far was not finite."""
        if not bool(self._finite):
            values = {name: round(float(value), 4) for name, value in (figures or {}).items()}
            raise FloatingPointError(f"loss is not finite after {self.state.images_seen} images: {values}")

    def _rng(self, part: int, purpose: str) -> torch.Generator:
        return keyed_generator(self.device, self.config.seed, self.state.step, part, purpose)

    def _add(self, figures: dict[str, Tensor], more: dict[str, Tensor]) -> None:
        for name, value in more.items():
            figures[name] = figures.get(name, torch.zeros((), device=self.device)) + value / self.config.accumulate

    def _real(self, part: int) -> tuple[Tensor, Tensor | None]:
        position = self.state.images_seen + part * self.part_size
        real = self.images.batch(position, self.part_size).to(self.device)
        if self.c_dim == 0:
            return real, None
        return real, self.images.labels_at(position, self.part_size).to(self.device)

    def _generate(self, real: Tensor, c: Tensor | None, part: int) -> Generated:
        """Samples and reconstructions, as many as there are real images."""
        state, config = self.state, self.config
        rng = self._rng(part, "generate")
        num_rec = round(len(real) * config.reconstructed_share) if state.encoder is not None else 0
        num_samples = len(real) - num_rec
        if c is not None:  # reconstructions keep their photo's condition, samples get those of the other photos
            c = torch.cat([c[num_rec:], c[:num_rec]])
        w_plus = self._sample_latents(num_samples, None if c is None else c[:num_samples], rng, config.prior_share)
        offsets = codes = None
        if state.encoder is not None and num_rec > 0:
            base, offsets = state.encoder(real[:num_rec].to(self.dtype))
            codes = state.generator.w_avg.detach() + base[:, None] + offsets
            w_plus = torch.cat([w_plus, codes])
        images = state.generator.synthesis_network(w_plus, "random", self.dtype, rng)
        return Generated(images, w_plus, offsets, None if codes is None else codes.detach(), num_samples, c)

    def _sample_latents(self, count: int, c: Tensor | None, rng: torch.Generator, prior_share: float) -> Tensor:
        """``(count, L, D)``: first from z, some of them of two z mixed at a random row, then around recent codes."""
        state, config, spec = self.state, self.config, self.state.generator.latent_spec
        draw: dict[str, Any] = {"generator": rng, "device": self.device}
        num_prior = round(count * prior_share) if c is None and state.codes_full else 0
        batch = count - num_prior
        first, second = torch.randn(2, batch, config.z_dim, **draw)
        cut = torch.randint(1, spec.num_ws, (batch, 1), **draw)
        cut = torch.where(torch.rand(batch, 1, **draw) < config.style_mixing_p, cut, spec.num_ws)
        keep = torch.arange(spec.num_ws, device=self.device)[None] < cut
        mapping = state.generator.mapping
        condition = None if c is None else c[:batch]
        w_plus = torch.where(keep[:, :, None], mapping(first, condition), mapping(second, condition))
        if num_prior == 0:
            return w_plus
        # mean + sum_i e_i (code_i - mean) / sqrt(n), e_i ~ N(0, 1): the Gaussian with the codes' own covariance.
        mean = state.codes.mean(dim=0)
        weights = torch.randn(num_prior, len(state.codes), **draw) / len(state.codes) ** 0.5
        around = mean + weights @ (state.codes - mean)
        return torch.cat([w_plus, around.unflatten(1, spec.shape)])

    def _judge(self, images: Tensor, c: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        logits, maps = self.state.discriminator(images.to(self.dtype), c)
        return logits, maps

    def _discriminator_part(self, real: Tensor, c: Tensor | None, generated: Generated, part: int) -> dict[str, Tensor]:
        state, config = self.state, self.config
        rng, count = self._rng(part, "discriminator"), len(real)
        drawn = draw_augmentation(2 * count, state.augment_p, rng, self.device)
        shown = augment(torch.cat([real, generated.images.detach()]), drawn)
        # Two passes: the minibatch statistic must never see real and generated images together.
        real_logits, _ = self._judge(shown[:count], c)
        fake_logits, _ = self._judge(shown[count:], generated.c)
        loss = losses.discriminator_loss(real_logits, fake_logits, config.loss)
        sign = real_logits.detach().sign().mean()
        figures = {"d_loss": loss.detach(), "real_sign": sign, "augment_p": state.augment_p}
        state.signs += torch.stack([sign, torch.ones_like(sign)])
        if config.loss == "wgan-gp":
            mix = torch.rand(count, generator=rng, device=self.device)
            # The logits of pairs of images: labels of the real ones.
            penalty = losses.slope_penalty(lambda x: state.discriminator(x, c)[0], real, generated.images, mix)
            loss = loss + config.gp_weight * penalty
            figures["gp"] = penalty.detach()
        elif state.step % config.r1_interval == 0:
            # Half the batch: an unbiased estimate of the same penalty for half the double backward pass. Float32.
            half = slice(max(count // 2, 1))
            penalty = losses.r1_penalty(lambda x: state.discriminator(x, None if c is None else c[half])[0], real[half])
            loss = loss + 0.5 * config.effective_r1_gamma * config.r1_interval * penalty
            figures["r1"] = penalty.detach()
        (loss / config.accumulate).backward()
        return figures

    def _generator_part(self, real: Tensor, generated: Generated, part: int) -> dict[str, Tensor]:
        state, config, n = self.state, self.config, generated.num_samples
        drawn = draw_augmentation(len(real), state.augment_p, self._rng(part, "generator"), self.device)
        logits, maps = self._judge(augment(generated.images, drawn), generated.c)
        loss = losses.generator_loss(logits, config.loss)
        figures = {"g_loss": loss.detach()}
        if generated.offsets is not None:
            photos = real[: len(real) - n]
            with torch.no_grad():
                target_maps = state.discriminator.trunk(augment(photos, drawn[n:]).to(self.dtype))
            pixel = (generated.images[n:] - photos).abs().mean()
            feature = feature_distance([m[n:] for m in maps], target_maps).mean()
            size = generated.offsets.square().mean()
            loss = loss + config.pixel_weight * pixel + config.feature_weight * feature + config.offset_weight * size
            figures |= {"pixel": pixel.detach(), "feature": feature.detach(), "offset": size.detach()}
        if state.encoder is not None and state.step % config.latent_interval == 0 and n > 0:
            samples, wanted = generated.images[:n].detach(), generated.w_plus[:n].detach()
            codes = state.encoder.encode(samples.to(self.dtype), state.generator)
            spread = wanted[:, 0].var(dim=0, unbiased=False).mean() + 1e-4
            latent = ((codes - wanted).square().mean() / spread).clamp(max=MAX_LATENT_LOSS)
            loss = loss + config.latent_weight * latent
            figures["latent"] = latent.detach()
        (loss / config.accumulate).backward()
        return figures

    def _path_length_part(self, figures: dict[str, Tensor], c: Tensor | None, part: int) -> Tensor:
        """Path-length regularisation on half the batch (arXiv 1912.04958, section 3.2 and appendix B).

        Returns:
            Mean length, which moves the running mean once all parts are done.
        """
        state, config = self.state, self.config
        rng, count = self._rng(part, "path length"), max(self.part_size // 2, 1)
        latents = self._sample_latents(count, None if c is None else c[:count], rng, prior_share=0.0)
        images = state.generator.synthesis_network(latents, "random", None, rng)  # float32: it is derived twice
        noise = torch.randn(images.shape, generator=rng, device=self.device)
        lengths = losses.path_lengths(images, latents, noise)
        penalty = (lengths - state.path_mean).square().mean()
        (config.pl_weight * config.pl_interval * penalty / config.accumulate).backward()
        self._add(figures, {"path_length": penalty.detach()})
        return lengths.detach().mean()

    def _apply(self, optimizer: torch.optim.Adam) -> None:
        self.processes.average_gradients(p for group in optimizer.param_groups for p in group["params"])
        optimizer.step()

    # ---- what follows the gradients ---------------------------------------------------------------------------------

    def _adapt(self) -> None:
        """Every ``ada_interval`` steps, p moves towards where real images are recognised as often as wanted."""
        state, config = self.state, self.config
        if config.ada_target is None or (state.step + 1) % config.ada_interval:
            return
        self.processes.average([state.signs])
        images = config.batch_size * config.ada_interval
        sign = state.signs[0] / state.signs[1]
        state.augment_p = adapted(
            state.augment_p, sign, images, config.ada_target, config.ada_kimg, config.max_augment_p
        )
        state.signs.zero_()

    @torch.no_grad()
    def _remember(self, codes: Tensor) -> None:
        """Puts new codes over the oldest ones."""
        state = self.state
        rows = (state.num_codes + torch.arange(len(codes), device=self.device)) % len(state.codes)
        state.codes[rows] = codes.flatten(1).float()
        state.num_codes += len(codes)

    @torch.no_grad()
    def _update_averages(self) -> None:
        state, config = self.state, self.config
        z = torch.randn(config.batch_size, config.z_dim, generator=self._rng(0, "w_avg"), device=self.device)
        c = None
        if self.c_dim:
            c = self.images.labels_at(state.images_seen, config.batch_size).to(self.device)
        w = state.generator.mapping(z, c)[:, 0]
        state.generator.map_network.w_avg.lerp_(w.mean(dim=0), 1.0 - W_AVG_BETA)
        for averaged, current in state.averaged():
            update_average(averaged, current, config, state.images_seen)

    # ---- files and results ------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Writes a checkpoint: weights, averages, optimisers, adapted values and position; atomically.

        Raises:
            FloatingPointError: When losses or weights are not finite; a good checkpoint is never replaced by a broken
                one.
        """
        self.check_finite()
        # The loss may have been finite and its gradient not, or another process's loss may be lost.
        weights = [tensor for module in self.state.modules().values() for tensor in module.state_dict().values()]
        if not bool(torch.stack([torch.isfinite(tensor).all() for tensor in weights]).all()):
            raise FloatingPointError(f"weights are not finite after {self.state.images_seen} images")
        save(path, self.config, self.state, self.label_table)

    def load(self, path: Path) -> None:
        """Continues from a checkpoint.

        Raises:
            CheckpointError: When the file is damaged or belongs to another configuration.
        """
        load(path, self.config, self.state, self.device, self.label_table)
        self._sampled = None
        self._finite.fill_(True)

    @torch.no_grad()
    def samples(self, count: int, seed: int) -> Tensor:
        """``(count, 3, R, R)`` in [-1, 1], from where the shipped model draws: the prior, or z without one."""
        state, rng = self.state, keyed_generator(torch.device("cpu"), seed, "samples")
        if state.encoder_ema is not None and self.c_dim == 0:
            w_plus = self._prior_now().sample(count, rng).to(self.device)
        else:
            c = self.images.labels_at(seed * count, count).to(self.device) if self.c_dim else None
            w_plus = state.generator_ema.mapping(
                torch.randn(count, self.config.z_dim, generator=rng).to(self.device), c
            )
        return torch.cat([state.generator_ema.synthesis(part) for part in w_plus.split(64)])

    def _encode(self, images: Tensor) -> Tensor:
        if self.state.encoder_ema is None:
            raise ValueError("this run has no encoder")
        return self.state.encoder_ema.encode(images.to(self.device), self.state.generator_ema)

    def _prior_now(self) -> LatentPrior:
        """Prior of the averaged networks as they are, fitted once for all samples of a snapshot."""
        if self._sampled is None or self._sampled[0] != self.state.step:
            self._sampled = (self.state.step, fit_prior(self._encode, self.images, SAMPLED_PRIOR_IMAGES))
        return self._sampled[1]

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor | None:
        """``(B, 3, R, R)`` in [-1, 1] through averaged encoder and generator; None without an encoder."""
        if self.state.encoder_ema is None:
            return None
        return self.state.generator_ema.synthesis(self._encode(images))

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """What goes into a model file."""
        state = self.state
        head = {k: v for k, v in state.discriminator.state_dict().items() if not k.startswith("trunk.")}
        parts = {
            "generator": state.generator_ema.state_dict(),
            "features": state.discriminator.trunk.state_dict(),
            "discriminator": head,
        }
        if state.encoder_ema is not None:
            prior = fit_prior(self._encode, self.images)
            parts |= {"encoder": state.encoder_ema.state_dict(), "prior": prior.state_dict()}
        return parts

    def description(self) -> dict[str, Any]:
        """What a reader of the model file needs to build the networks."""
        labels = {"labels": self.label_table} if self.label_table else {}
        return self.state.description() | labels
