"""Networks whose features metrics compare, each with the name that stands beside every figure.

Nothing is downloaded. Published figures come from one Inception network (arXiv 1706.08500): without its weights a
figure of another network may guide, but must not be set beside a published one.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ganaug import checkpoints
from ganaug.embedders import EMBEDDERS, load_embedder
from ganaug.errors import CheckpointError, UserInputError
from ganaug.faces.align import to_unit_range
from ganaug.features import PooledFeatures, load_perceptual_features
from ganaug.interfaces import resolve_device
from ganaug.known_weights import digest

# The network of the first FID figures, converted from TensorFlow; torch-fidelity, which torchmetrics uses, and
# pytorch-fid publish the same bytes under these names. Both names end in the first digits of the sha256, as
# torch.hub wants it.
INCEPTION_FILES = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILES[0]}"

Both = tuple[Tensor, Tensor | None]


class Extractor:
    """Images to features.

    Args:
        name: Of the network; written beside every figure.
        run: Images ``(B, 3, H, W)`` float32 in [-1, 1] on ``device`` -> features ``(B, D)`` and logits ``(B, C)`` of
            its classes, or None for a network without classes.
        device: Where the network works; images are brought there.

    Attributes:
        comparable: Whether its figures may be set beside published ones: of Inception alone.

    Example:
        >>> extractor = Extractor("mean-colour", lambda images: (images.mean(dim=(2, 3)), None))
        >>> extractor(torch.zeros(2, 3, 8, 8)).shape, extractor.logits(torch.zeros(2, 3, 8, 8))
        (torch.Size([2, 3]), None)
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Tensor], Both],
        device: str | torch.device = "cpu",
        *,
        comparable: bool = False,
    ) -> None:
        self.name, self.device, self.comparable = name, torch.device(device), comparable
        self._run = run

    @torch.no_grad()
    def both(self, images: Tensor) -> Both:
        """Features and logits from one pass; see :meth:`__call__` and :meth:`logits`."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise UserInputError(
                f"expected float images (B, 3, H, W) in [-1, 1], got {images.dtype} of shape {tuple(images.shape)}"
            )
        features, logits = self._run(images.to(self.device, torch.float32).clamp(-1.0, 1.0))
        return features.float(), None if logits is None else logits.float()

    def __call__(self, images: Tensor) -> Tensor:
        """Features of images, clamped to what a picture file can hold.

        Args:
            images: ``(B, 3, H, W)`` float in [-1, 1], any size and device.

        Returns:
            ``(B, D)`` float32 on :attr:`device`.

        Raises:
            UserInputError: For another shape or type.
        """
        return self.both(images)[0]

    def logits(self, images: Tensor) -> Tensor | None:
        """``(B, 3, H, W)`` -> ``(B, C)`` float32 for :class:`ganaug.metrics.InceptionScore`; None without classes."""
        return self.both(images)[1]


def load_extractor(
    name: str | Path | None = None,
    model: str | Path | checkpoints.Model | None = None,
    device: str | torch.device = "cpu",
) -> Extractor:
    """A network by name, from files that are on the disk.

    Args:
        name: None: Inception if its weights and torch-fidelity are here, else the perceptual features of ``model``,
            or of ``"faces64"`` if that has none.
            ``"inception"``: Inception or an error. ``"perceptual"``: the features of ``model``. A key of
            :data:`ganaug.embedders.EMBEDDERS`: that embedder. A path: Inception's weights (``.pth``), or a model file
            of an embedder or with perceptual features.
        model: Where perceptual features come from: a bundled name, a path or an open model; None: ``"faces64"``.
        device: Where to work.

    Raises:
        UserInputError: For Inception without its weights or without torch-fidelity.
        CheckpointError: For a missing, damaged or unknown file.
    """
    on = resolve_device(device)
    if name is None:
        found = find_inception()
        if found is not None and _has_torch_fidelity():
            return _inception(found, on)
        opened = checkpoints.open_model("faces64" if model is None else model)
        # Published generators come without a discriminator.
        return _perceptual(opened if "features" in opened.parts else None, on)
    if name == "inception":
        found = find_inception()
        if found is None:
            raise UserInputError(
                f"extractor 'inception': no file {INCEPTION_FILES[0]} in {_hub()}; nothing is downloaded by itself: "
                f"fetch {INCEPTION_URL} (96 MB) to there, give its path, or use 'perceptual'"
            )
        return _inception(found, on)
    if name == "perceptual":
        return _perceptual(model, on)
    if str(name) in EMBEDDERS:
        return _embedder(name, on)
    if Path(name).suffix == ".pth":
        return _inception(Path(name), on)
    opened = checkpoints.open_model(name)
    return _embedder(name, on) if "embedder" in opened.parts else _perceptual(opened, on)


def find_inception() -> Path | None:
    """Inception's weights where ``torch.hub`` keeps them, or None."""
    return next((path for file in INCEPTION_FILES if (path := _hub() / file).is_file()), None)


def _hub() -> Path:
    return Path(torch.hub.get_dir(), "checkpoints")


def _has_torch_fidelity() -> bool:
    try:
        import torch_fidelity.feature_extractor_inceptionv3  # noqa: F401
    except ImportError:
        return False
    return True


def _inception(path: Path, device: torch.device) -> Extractor:
    """torch-fidelity's port, which resizes as the first TensorFlow graph did; the last pooled maps, 2048 numbers."""
    if not path.is_file():
        raise CheckpointError(f"there is no file {path} with Inception's weights; get it from {INCEPTION_URL}")
    if not _has_torch_fidelity():
        raise UserInputError("extractor 'inception' needs torch-fidelity: pip install 'ganaug[eval]'")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # Before anything is read: torch-fidelity unpickles the file without `weights_only`.
    found = digest(path)
    if found != INCEPTION_SHA256:
        raise CheckpointError(
            f"{path} is not Inception's file of {INCEPTION_URL}: sha256 {found[:12]}..., expected "
            f"{INCEPTION_SHA256[:12]}...; fetch it again"
        )
    try:
        network: nn.Module = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(path))
    except Exception as error:  # whatever a file that does not fit makes of it
        raise CheckpointError(f"{path} does not hold Inception's weights: {type(error).__name__}") from error
    network = network.eval().requires_grad_(False).to(device)

    def run(images: Tensor) -> Both:
        # It wants what a picture file holds: uint8, rounded.
        features, logits = network((to_unit_range(images) * 255.0).round().to(torch.uint8))
        return features, logits

    return Extractor("inception-2015-12-05", run, device, comparable=True)


def _perceptual(model: str | Path | checkpoints.Model | None, device: torch.device) -> Extractor:
    opened = checkpoints.open_model("faces64" if model is None else model)
    name = f"discriminator-{opened.path.stem}"
    network = PooledFeatures(load_perceptual_features(opened, device), name)
    return Extractor(name, lambda images: (network(images), None), device)


def _embedder(name: str | Path, device: torch.device) -> Extractor:
    network = load_embedder(name, device)
    label = str(name) if str(name) in EMBEDDERS else Path(name).stem
    return Extractor(f"embedder-{label}", lambda images: (network(images), None), device)
