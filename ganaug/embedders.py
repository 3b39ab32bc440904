"""Identity embedders: images to unit vectors whose cosine says how likely two pictures show one person.

``identity64`` ships with the package: a small residual network at 64 pixels, 17 million multiply-adds, trained without
names (``ganaug train-embedder``, model card ``assets/identity64.md``). ``facenet`` is the far better and slower network
of facenet-pytorch, for those who have it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganaug import checkpoints
from ganaug.faces.templates import TEMPLATES
from ganaug.interfaces import CheckpointError, UserInputError, resolve_device


@dataclass(frozen=True)
class EmbedderArchitecture:
    """Shape of a :class:`FaceEmbedder`.

    Attributes:
        img_resolution: Side of the images it works on; others are resized to it.
        channels: Feature maps at a half, a quarter, ... of that side.
        embedding_dim: D.
        attributes: Attribute -> its classes, for the heads; empty for none.
        values: Attribute -> middle of each class, where the classes are ranges of a quantity ("20-29").

    Raises:
        ValueError: If the numbers fit no network.
    """

    img_resolution: int = 64
    channels: Sequence[int] = (16, 32, 64, 112)
    embedding_dim: int = 128
    attributes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Lists and floats come from JSON, and then from anywhere.
        sizes = (self.img_resolution, self.embedding_dim, *self.channels)
        if not self.channels or not all(isinstance(size, int) and 0 < size <= 4096 for size in sizes):
            raise ValueError(f"sizes must be whole numbers from 1 to 4096, got {sizes}")
        if self.img_resolution % 2 ** len(self.channels):
            raise ValueError(f"{self.img_resolution} px cannot be halved {len(self.channels)} times")
        for name, middles in self.values.items():
            if len(middles) != len(self.attributes[name]):
                raise ValueError(f"{len(middles)} values for the {len(self.attributes[name])} classes of {name!r}")

    @property
    def final_side(self) -> int:
        """Side of the last feature maps."""
        return self.img_resolution // 2 ** len(self.channels)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers only."""
        return asdict(self)


class ResidualBlock(nn.Module):
    """``relu(x + b(relu(a(x))))`` (arXiv 1512.03385, section 3.3), batch norms folded into the convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, channels, 3, padding=1)
        self.b = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> the same shape."""
        return F.relu(x + self.b(F.relu(self.a(x))))


class FaceEmbedder(nn.Module):
    """Photo to unit vector, with optional heads that tell attributes.

    Convolutions that halve the side, with a residual block after each but the first, then one linear layer over the
    last maps with their positions: in aligned faces a place has a meaning. Convolutions are plain, with bias; training
    has batch norms after them and folds them in (:mod:`ganaug.training.embedder_network`).

    Args:
        architecture: Shape of the network.
        template: Framing of the faces it was trained on, a key of ``ganaug.faces.templates.TEMPLATES``; None if not
            known.
        threshold: Cosine below which two faces count as two people.

    Attributes:
        embedding_dim: D.
        img_resolution: Side that images are resized to.
        attribute_classes: Attribute -> names of its classes, for the columns of :meth:`attributes`.

    Example:
        >>> embedder = FaceEmbedder(EmbedderArchitecture(img_resolution=16, channels=(4, 8)))
        >>> embedder(torch.zeros(2, 3, 20, 20)).norm(dim=1).allclose(torch.ones(2))
        True
    """

    def __init__(
        self,
        architecture: EmbedderArchitecture = EmbedderArchitecture(),
        template: str | None = "fairface",
        threshold: float = 0.0,
    ) -> None:
        super().__init__()
        self.architecture, self.template, self.threshold = architecture, template, float(threshold)
        self.embedding_dim, self.img_resolution = architecture.embedding_dim, architecture.img_resolution
        self.attribute_classes = {name: tuple(classes) for name, classes in architecture.attributes.items()}
        channels = architecture.channels
        self.downs = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise((3, *channels))
        )
        self.blocks = nn.ModuleList(ResidualBlock(count) for count in channels[1:])
        self.fc = nn.Linear(channels[-1] * architecture.final_side**2, self.embedding_dim)
        num_logits = sum(map(len, self.attribute_classes.values()))
        self.heads = nn.Linear(self.embedding_dim, num_logits) if num_logits else None

    def features(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` in [-1, 1], any size -> ``(B, D)`` float32, before they are scaled to unit length.

        Raises:
            UserInputError: For another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise UserInputError(f"expected images (B, 3, H, W) in [-1, 1], got shape {tuple(images.shape)}")
        x = resized(images.float(), self.architecture.img_resolution).contiguous(memory_format=torch.channels_last)
        x = F.relu(self.downs[0](x))
        for down, block in zip(list(self.downs)[1:], self.blocks, strict=True):
            x = block(F.relu(down(x)))
        return self.fc(x.flatten(1)).float()

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` in [-1, 1], any size -> ``(B, D)`` float32 of unit length."""
        return F.normalize(self.features(images))

    def logits(self, features: Tensor) -> Tensor:
        """``(B, D)`` of :meth:`features` -> ``(B, number of classes of all attributes)``.

        Raises:
            UserInputError: If the network was trained without attributes.
        """
        if self.heads is None:
            raise UserInputError("this embedder was trained without attributes, so it cannot tell any")
        return self.heads(F.relu(features))

    def attributes(self, images: Tensor) -> dict[str, Tensor]:
        """What the heads say of faces.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1], any size.

        Returns:
            Attribute -> ``(B, classes)`` probabilities, in the order of ``attribute_classes``; of a quantity cut into
            bins (age) ``(B,)``, its expected value, in its own unit.

        Raises:
            UserInputError: If the network was trained without attributes.
        """
        told, start = {}, 0
        logits = self.logits(self.features(images))
        for name, classes in self.attribute_classes.items():
            probabilities = logits[:, start : start + len(classes)].softmax(dim=1)
            start += len(classes)
            middles = self.architecture.values.get(name)
            told[name] = probabilities if middles is None else probabilities @ probabilities.new_tensor(middles)
        return told


class AttributeClassifier(nn.Module):
    """One head of an embedder as a classifier, as :class:`ganaug.gate.LabelGate` wants it.

    Args:
        embedder: With heads.
        attribute: One of ``embedder.attribute_classes``.

    Raises:
        UserInputError: If there is no such head.
    """

    def __init__(self, embedder: FaceEmbedder, attribute: str) -> None:
        super().__init__()
        heads = embedder.attribute_classes
        if attribute not in heads:
            raise UserInputError(f"the embedder has no head for {attribute!r}; it has {', '.join(heads) or 'none'}")
        start = sum(len(heads[name]) for name in list(heads)[: list(heads).index(attribute)])
        self.embedder, self.attribute, self.classes = embedder, attribute, heads[attribute]
        self.template, self.img_resolution = embedder.template, embedder.img_resolution
        self.columns = slice(start, start + len(self.classes))
        self.train(embedder.training)

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` in [-1, 1], any size -> logits ``(B, len(classes))``."""
        return self.embedder.logits(self.embedder.features(images))[:, self.columns]


def resized(images: Tensor, side: int) -> Tensor:
    """``(B, 3, H, W)`` float -> ``(B, 3, side, side)``, antialiased; images of that size are left alone."""
    if tuple(images.shape[2:]) == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)


class Facenet(nn.Module):
    """facenet-pytorch's InceptionResnetV1, trained on VGGFace2 (arXiv 1710.08092), as an identity embedder.

    Framing: that package cuts the box that its MTCNN finds and pulls it to 160 x 160 pixels; template ``"mtcnn"`` is
    where eyes, nose and mouth lie in such chips in the mean. Threshold: FaceNet's paper accepts pairs of LFW up to a
    squared distance of 1.242 (arXiv 1503.03832, section 5.6), a cosine of 1 - 1.242 / 2. It is of another network of
    that kind: who relies on it should measure it on photos like hers and give the gate a threshold of her own.

    Args:
        network: ``(B, 3, 160, 160)`` -> ``(B, D)``.
        embedding_dim: D.

    Attributes:
        img_resolution: As of :class:`FaceEmbedder`; also ``template`` and ``threshold``.
    """

    img_resolution = 160
    template = "mtcnn"
    threshold = 1.0 - 1.242 / 2.0

    def __init__(self, network: nn.Module, embedding_dim: int = 512) -> None:
        super().__init__()
        self.network, self.embedding_dim = network, embedding_dim

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` in [-1, 1], any size -> ``(B, D)`` of unit length."""
        # fixed_image_standardization of that package: (v - 127.5) / 128 for v from 0 to 255.
        return F.normalize(self.network(resized(images.float(), self.img_resolution) * (127.5 / 128.0)).float())


def _facenet() -> Facenet:
    try:
        from facenet_pytorch import InceptionResnetV1
    except ImportError as error:
        raise UserInputError(
            "embedder 'facenet' needs facenet-pytorch: pip install 'ganaug[faces]', or use 'identity64'"
        ) from error
    try:
        network = InceptionResnetV1(pretrained="vggface2")
    except Exception as error:  # whatever its download raises: requests, urllib, a disk that is full, a file cut short
        raise UserInputError(
            "embedder 'facenet': facenet-pytorch could not get its weights (107 MB, from github.com, kept in "
            f"$TORCH_HOME/checkpoints): {type(error).__name__}: {error}; go online once, or use 'identity64'"
        ) from error
    return Facenet(network)


def _own(name_or_path: str | Path) -> FaceEmbedder:
    model = checkpoints.open_model(name_or_path)
    if "embedder" not in model.parts:
        raise CheckpointError(f"{model.path} holds no embedder, but {', '.join(sorted(model.parts))}")
    described = model.description
    with model.building():
        if described["family"] != "face_embedder":
            raise ValueError(f"family {described['family']!r}, expected 'face_embedder'")
        template = described["template"]
        if template is not None and template not in TEMPLATES:
            raise ValueError(f"unknown template {template!r}")
        architecture = EmbedderArchitecture(**described["config"])
        embedder = FaceEmbedder(architecture, template, described["threshold"])
        if not -1.0 <= embedder.threshold <= 1.0:
            raise ValueError(f"threshold {embedder.threshold} is no cosine")
    model.load_into(embedder, "embedder")
    return embedder


# Name -> embedder; its weights are on the CPU. Any other name is a model file with an embedder.
EMBEDDERS: dict[str, Callable[[], FaceEmbedder | Facenet]] = {
    "identity64": lambda: _own("identity64"),
    "facenet": _facenet,
}


def load_embedder(
    name_or_path: str | Path = "identity64", device: str | torch.device = "cpu"
) -> FaceEmbedder | Facenet:
    """An identity embedder, in eval mode, without gradients on its weights; they flow to its images.

    Args:
        name_or_path: A key of :data:`EMBEDDERS`, or a model file of ``ganaug train-embedder``.
        device: Where it works.

    Raises:
        UserInputError: If ``facenet`` was asked for and it or its weights cannot be had.
        CheckpointError: For a missing or damaged file, or one without an embedder.
    """
    on = resolve_device(device)
    build = EMBEDDERS.get(str(name_or_path))
    embedder = _own(name_or_path) if build is None else build()
    embedder.eval().requires_grad_(False)
    return cast(Any, embedder).to(device=on, memory_format=torch.channels_last)
