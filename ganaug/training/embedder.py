"""Training an identity embedder without names: a person should be found again among people who look alike.

Every face of a batch is compared with all others (InfoNCE, arXiv 2002.05709, equation 1; with several positives as in
arXiv 2004.11362, equation 2). A face that a generator drew between two people is a positive of both, by its shares: the
same light and skin with another person's features must lie elsewhere, and cosines must fall on the way there.
"""

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.embedders import EmbedderArchitecture, FaceEmbedder
from ganaug.errors import CheckpointError, UserInputError
from ganaug.training.checkpoint import read_checkpoint, write_checkpoint
from ganaug.training.embedder_batches import PeopleBatches
from ganaug.training.embedder_config import EmbedderConfig
from ganaug.training.embedder_network import EmbedderNetwork
from ganaug.training.parallel import Processes

CPU = torch.device("cpu")


def shared_contrastive_loss(features: Tensor, shares: Tensor, temperature: float) -> Tensor:
    """Cross-entropy between who should be alike and who is.

    For a face i, all others j compete by ``cos(i, j) / temperature``; the wanted distribution over them is
    ``shares_i . shares_j``, scaled to sum 1. With shares of 0 and 1 it is L_out of supervised contrastive learning
    (arXiv 2004.11362, equation 2), and with one other view per face InfoNCE. A face like which there is none is left
    out.

    Args:
        features: ``(V, D)``, any length.
        shares: ``(V, P)`` in [0, 1], how much of each person a face shows.
        temperature: Above 0.

    Returns:
        Mean over the faces, a scalar.
    """
    cosines = F.normalize(features) @ F.normalize(features).t()
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    log_likelihood = (cosines / temperature).masked_fill(itself, -math.inf).log_softmax(dim=1)
    wanted = (shares @ shares.t()).masked_fill(itself, 0.0)
    total = wanted.sum(dim=1)
    # 0 * -inf is NaN: the diagonal is not summed.
    sums = (wanted * log_likelihood.masked_fill(itself, 0.0)).sum(dim=1)
    compared = total > 0
    return -(sums / total.clamp(min=1e-8) * compared).sum() / compared.sum().clamp(min=1)


class EmbedderTrainer:
    """Fits an embedder, fulfilling :class:`ganaug.training.protocol.Trainable`; in one process.

    Args:
        config: Hyperparameters.
        batches: Where the faces come from.
        processes: Where to train.

    Raises:
        UserInputError: Under ``torchrun``: faces are compared within one process.

    Attributes:
        network: What is trained.
        images_seen: Photos shown so far.
    """

    def __init__(self, config: EmbedderConfig, batches: PeopleBatches, processes: Processes) -> None:
        if processes.world > 1:
            raise UserInputError("an embedder is trained by one process; start it without torchrun")
        self.config, self.batches = config, batches
        self.device, self.images_seen, self.total = processes.device, 0, int(config.kimg * 1000)
        self.attributes = batches.labels.attributes
        architecture = EmbedderArchitecture(
            config.resolution,
            config.channels,
            config.embedding_dim,
            {attribute.name: attribute.classes for attribute in self.attributes},
            {attribute.name: attribute.values for attribute in self.attributes if attribute.values is not None},
        )
        with torch.random.fork_rng(devices=[]):  # the global generator is left alone
            torch.default_generator.manual_seed(config.seed)
            network = EmbedderNetwork(architecture)
        self.network: EmbedderNetwork = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return True

    def barrier(self) -> None:
        """Nobody to wait for."""

    def _rate(self) -> float:
        config = self.config
        start = min((self.images_seen + config.batch_size) / max(config.warmup_kimg * 1000, 1.0), 1.0)
        return config.learning_rate * start * 0.5 * (1.0 + math.cos(math.pi * min(self.images_seen / self.total, 1.0)))

    def step(self) -> dict[str, float | Tensor]:
        """One optimiser step over ``batch_size`` photos in two views each, and the mixed faces.

        Returns:
            ``contrast``, ``attribute`` (where any is learnt) and ``found``: the share of views whose nearest face shows
            the same person.

        Raises:
            FloatingPointError: When the loss is not finite; the weights are then still those of the step before.
        """
        config = self.config
        batch = self.batches.batch(self.images_seen // config.batch_size)
        images = batch.images.to(self.device, memory_format=torch.channels_last)
        shares = batch.shares.to(self.device)
        self.network.train()
        features, logits = self.network(images)
        loss = contrast = shared_contrastive_loss(features, shares, config.temperature)
        figures = {"contrast": contrast.detach()}
        if logits is not None:
            classes = torch.from_numpy(self.batches.labels.classes[batch.rows]).to(self.device)
            attribute = self._attribute_loss(logits[: len(batch.rows)], classes)
            loss = loss + config.attribute_weight * attribute
            figures["attribute"] = attribute.detach()
        if not math.isfinite(float(loss.detach())):
            raise FloatingPointError(f"loss is not finite after {self.images_seen} images: {float(loss.detach())}")
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.images_seen += config.batch_size
        figures["found"] = _found(features.detach()[: len(batch.rows)], shares[: len(batch.rows)])
        return {**figures}

    def _attribute_loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Sum over attributes of the mean cross-entropy where the class is known."""
        losses, start = [], 0
        for column, attribute in enumerate(self.attributes):
            own = logits[:, start : start + len(attribute.classes)]
            start += len(attribute.classes)
            known = (classes[:, column] >= 0).sum().clamp(min=1)
            losses.append(F.cross_entropy(own, classes[:, column], ignore_index=-1, reduction="sum") / known)
        return torch.stack(losses).sum()

    def save(self, path: Path) -> None:
        """Writes everything that :meth:`load` needs into one file, atomically."""
        payload = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "images_seen": self.images_seen,
        }
        write_checkpoint(path, self.config, payload)

    def load(self, path: Path) -> None:
        """Continues from a file that :meth:`save` wrote.

        Raises:
            CheckpointError: When the file is damaged or of another configuration.
        """
        payload = read_checkpoint(path, self.config)
        self.network.load_state_dict(payload["network"])
        self.optimizer.load_state_dict(payload["optimizer"])
        self.images_seen = payload["images_seen"]

    def start_from(self, path: Path) -> None:
        """Takes the network of another run's checkpoint; the optimiser starts anew.

        Raises:
            CheckpointError: When the file is damaged, or its network has another shape or other attributes.
        """
        try:
            self.network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["network"])
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
        except Exception as error:  # torch's message advises to execute what is in the file: not repeated here
            raise CheckpointError(
                f"{path}: no checkpoint of an embedder with this resolution, these channels and these attributes"
            ) from error

    def samples(self, count: int, seed: int) -> Tensor:
        """Faces as the network gets them, ``(count, 3, R, R)``, for the picture of a snapshot."""
        images = torch.cat([self.batches.batch(seed + k).images for k in range(-(-count // self.config.batch_size))])
        return images[:count].to(self.device)

    def reconstruct(self, images: Tensor) -> None:
        """Nothing is reconstructed."""

    def embedder(self, threshold: float = 0.0) -> FaceEmbedder:
        """The network in the form that ships, on the trainer's device."""
        return self.network.folded(self.config.template, threshold).to(self.device)

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """State dict for the model file."""
        return {"embedder": self.embedder().state_dict()}

    def description(self) -> dict[str, Any]:
        """What the model file says about itself."""
        return {
            "family": "face_embedder",
            "config": self.network.architecture.to_dict(),
            "template": self.config.template,
        }


def _found(features: Tensor, shares: Tensor) -> Tensor:
    cosines = F.normalize(features) @ F.normalize(features).t()
    nearest = cosines.fill_diagonal_(-math.inf).argmax(dim=1)
    return (shares * shares[nearest]).sum(dim=1).mean()
