"""LPIPS: how different two images look, by networks that were trained on ImageNet (arXiv 1801.03924).

Nothing is downloaded. The weights of torchvision's network are taken from a file that the user names, or from where
``torch.hub`` keeps them; LPIPS's own linear layers, which were fitted to human judgements, from a file of theirs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from ganaug.errors import CheckpointError, UserInputError
from ganaug.interfaces import resolve_device

# Network -> numbers of the layers in its ``features`` whose outputs are compared: the last ReLU of each stage
# (arXiv 1801.03924, section 3.1); of SqueezeNet the first ReLU and the fire modules that published layers belong to.
TAPS: dict[str, tuple[int, ...]] = {
    "alexnet": (1, 4, 7, 9, 11),
    "vgg16": (3, 8, 15, 22, 29),
    "squeezenet1_1": (1, 4, 7, 9, 10, 11, 12),
}

# Of ImageNet's photos in [0, 1], as torchvision's networks were trained with (its documentation of their weights).
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

EPSILON = 1e-10  # where no channel is active, a gradient of the length would be 0 / 0


class Lpips(nn.Module):
    """Frozen network and linear layers. Images keep their size: 64 pixels is about the least that makes sense.

    Args:
        backbone: A key of :data:`TAPS`.
        features: That network's ``features``.
        weights: ``(C_l,)``, not below 0, of each compared layer's channels.

    Raises:
        UserInputError: For an unknown network.
        CheckpointError: For weights that do not fit the network, or are negative.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: str, features: nn.Module, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.name, self.taps = f"lpips-{backbone}", _taps(backbone)
        self.layers = nn.ModuleList(list(features.children())[: self.taps[-1] + 1])
        # |sqrt(w) x - sqrt(w) y|^2 = w |x - y|^2: the weights are put into the maps, and distances stay plain.
        self.scales = nn.ParameterList(weight.float().sqrt()[:, None, None] for weight in weights)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None] * 2.0 - 1.0)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None] * 2.0)
        self.requires_grad_(False).eval()
        if any(not bool((weight >= 0).all()) for weight in weights):
            raise CheckpointError(f"{self.name}: weights of channels must not be negative")
        widths = [fmap.shape[1] for fmap in self._maps(torch.zeros(1, 3, 64, 64))]
        if widths != [len(weight) for weight in weights]:
            raise CheckpointError(
                f"{self.name}: linear layers for {[len(weight) for weight in weights]} channels do not fit a network "
                f"with {widths}; take the file of the same network"
            )

    def _maps(self, images: Tensor) -> list[Tensor]:
        x = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        maps = []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in self.taps:
                maps.append(x)
        return maps

    def forward(self, images: Tensor) -> list[Tensor]:
        """``(B, 3, H, W)`` in [-1, 1] -> maps ``(B, C_l, H_l, W_l)`` for :meth:`distance`, float32."""
        maps = []
        for x, scale in zip(self._maps(images.float()), self.scales, strict=True):
            maps.append(x * (x.square().sum(dim=1, keepdim=True) + EPSILON).rsqrt() * scale)
        return maps

    def distance(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """``(B,)`` from what :meth:`forward` gave for two batches (arXiv 1801.03924, equation 1); at least 0."""
        layers = [(x - y).square().sum(dim=1).mean(dim=(1, 2)) for x, y in zip(a, b, strict=True)]
        return torch.stack(layers).sum(dim=0)


def load_lpips(
    linear: str | Path, backbone: str = "vgg16", weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> Lpips:
    """LPIPS from files that are there already.

    Args:
        linear: The published linear layers of that network: ``lpips_vgg_v0.1.pth``, ``lpips_alex_v0.1.pth`` or
            ``lpips_squeeze_v0.1.pth``.
        backbone: ``"vgg16"``, ``"alexnet"`` or ``"squeezenet1_1"``.
        weights: torchvision's weights of that network; None: where ``torch.hub`` keeps them.
        device: Where to work.

    Raises:
        UserInputError: For an unknown network, or if its weights are not there.
        CheckpointError: For a damaged file or one of another network.
    """
    _taps(backbone)
    url = _url(backbone)
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2]) if weights is None else Path(weights)
    if not path.is_file():
        raise UserInputError(
            f"LPIPS needs torchvision's weights of {backbone}, and there is no file {path}; fetch {url} and give its "
            "path, or use the features of the bundled discriminator"
        )
    prefix = "features."
    state = {name.removeprefix(prefix): t for name, t in _load(path).items() if name.startswith(prefix)}
    with torch.device("meta"):  # VGG's classifier alone would be half a gigabyte of random numbers
        features = torchvision.models.get_model(backbone, weights=None).features
    try:
        features.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not hold the weights of {backbone}: {error}") from error
    tensors = _load(Path(linear))
    names = [f"lin{number}.model.1.weight" for number in range(len(TAPS[backbone]))]
    if sorted(tensors) != sorted(names):
        raise CheckpointError(
            f"{linear} does not hold LPIPS's linear layers of {backbone}: expected {len(names)} tensors from "
            f"{names[0]!r} to {names[-1]!r}, got {sorted(tensors)[:3]}"
        )
    return Lpips(backbone, features, [tensors[name].flatten() for name in names]).to(resolve_device(device))


def _taps(backbone: str) -> tuple[int, ...]:
    if backbone not in TAPS:
        raise UserInputError(f"unknown network {backbone!r}: expected one of {sorted(TAPS)}")
    return TAPS[backbone]


def _url(backbone: str) -> str:
    """Where torchvision's ImageNet weights are published; their file name is that in torch.hub's folder."""
    return str(next(iter(torchvision.models.get_model_weights(backbone))).url)


def _load(path: Path) -> Mapping[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file that is none makes of it
        raise CheckpointError(f"cannot read {path}: {type(error).__name__}") from error
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise CheckpointError(f"{path} does not hold tensors by name, but {type(state).__name__}")
    return state
