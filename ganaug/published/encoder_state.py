"""What the encoders of pSp, e4e and ReStyle are made of, in the names of ``ganaug.inversion.feature_pyramid``.

The architecture is read off the tensors' shapes, and every tensor is used or known to be of no use. Batch normalisation
is folded: it is an affine map once training is over.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ganaug.errors import CheckpointError

BATCH_NORM_EPS = 1e-5  # torch's default, which all these projects keep
POOLED = 7  # "last layer into W+" flattens 7x7 pixels
STRIDE = 16  # pixels of the photo per pixel of the backbone's last map
INPUT_SIZE = 256  # what the projects train with; taken from the weights where those tell
COARSE_ROWS, MIDDLE_ROWS = 3, 4  # rows read from the smallest map, from the next (arXiv 2008.00951, figure 2)


class Tensors:
    """The encoder's tensors, each to be taken once; what is left over in the end is an error."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.left = dict(tensors)

    def __contains__(self, name: str) -> bool:
        return name in self.left

    def take(self, name: str, *shape: int | None) -> Tensor:
        """The tensor as float32; ``None`` in ``shape`` is any size.

        Raises:
            CheckpointError: If it is not there, no array of numbers, or of another shape.
        """
        tensor = self.left.pop(name, None)
        wanted = f"({', '.join('any' if n is None else str(n) for n in shape)})"
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise CheckpointError(f"the encoder has no weights {name!r} of shape {wanted}")
        if len(tensor.shape) != len(shape) or any(n not in (None, m) for n, m in zip(shape, tensor.shape, strict=True)):
            raise CheckpointError(f"the encoder's {name!r} has shape {tuple(tensor.shape)}, expected {wanted}")
        return tensor.detach().float()

    def batch_norm(self, name: str, channels: int) -> tuple[Tensor, Tensor]:
        """Scale and shift ``(channels,)`` that a batch normalisation comes down to after training."""
        weight, bias, mean, variance = (
            self.take(f"{name}.{part}", channels).double() for part in ("weight", "bias", "running_mean", "running_var")
        )
        self.left.pop(f"{name}.num_batches_tracked", None)  # counts training steps
        scale = weight * (variance + BATCH_NORM_EPS).rsqrt()
        return scale.float(), (bias - mean * scale).float()

    def convolution(self, name: str, norm: str, *shape: int | None) -> dict[str, Tensor]:
        """A convolution without bias and the batch normalisation behind it, as a convolution with a bias."""
        weight = self.take(f"{name}.weight", *shape)
        scale, shift = self.batch_norm(norm, weight.shape[0])
        return {"weight": weight * scale[:, None, None, None], "bias": shift}

    def dense(self, name: str, *shape: int | None) -> dict[str, Tensor]:
        """Weight of that shape and its bias."""
        weight = self.take(f"{name}.weight", *shape)
        return {"weight": weight, "bias": self.take(f"{name}.bias", weight.shape[0])}


def encoder_state(
    tensors: Mapping[str, Tensor], head: str, num_ws: int, w_dim: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the state dict of an encoder.

    Args:
        tensors: Its tensors under their names in the file, without prefix.
        head: How it reads rows, see :class:`ganaug.inversion.feature_pyramid.PyramidConfig`.
        num_ws: Rows that its generator takes.
        w_dim: Numbers in a row.

    Returns:
        ``PyramidConfig`` as a JSON-able dict, but for ``offsets`` and ``iterations``, which no shape tells; and tensors
        (float32) for ``FeaturePyramidEncoder.load_state_dict``, but for ``latent_avg``.

    Raises:
        CheckpointError: For tensors that are missing, unknown, or of a shape that does not fit the others.
    """
    found = Tensors(tensors)
    config, weights = _resnet(found) if "conv1.weight" in found else _ir(found)
    if len(config["blocks"]) != 4:
        raise CheckpointError(f"its backbone has {len(config['blocks'])} stages of different widths, expected 4")
    config |= {"num_ws": num_ws, "w_dim": w_dim, "head": head, "input_size": INPUT_SIZE}
    width = config["channels"][-1]
    if head == "w":
        weights |= _named("head.linear", found.dense("linear", w_dim, width))
    elif head == "w_plus":
        weights |= _flat_head(found, width, num_ws, w_dim)
    else:
        config["input_size"] = _style_heads(found, weights, head, config["channels"], num_ws, w_dim)
    if found.left:
        raise CheckpointError(
            f"its encoder holds {len(found.left)} weights that the encoder_type of its options has not, "
            f"such as {min(found.left)[:60]!r}"
        )
    return config, weights


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _ir(tensors: Tensors) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """ArcFace's backbone: a stage starts where the channels change, the first with the first block."""
    stem = tensors.convolution("input_layer.0", "input_layer.1", None, None, 3, 3)
    width, input_nc = stem["weight"].shape[:2]
    weights = {**_named("backbone.stem", stem), "backbone.slope": tensors.take("input_layer.2.weight", width)}
    channels, reduction, number = [width], 0, 0
    blocks: list[int] = []
    while f"body.{number}.res_layer.1.weight" in tensors:
        block = f"body.{number}.res_layer"
        conv1 = tensors.take(f"{block}.1.weight", None, width, 3, 3)
        out = conv1.shape[0]
        if number == 0 or out != width:
            channels, blocks = [*channels, out], [*blocks, 0]
        target = f"backbone.stages.{len(blocks) - 1}.{blocks[-1]}"
        weights[f"{target}.scale"], weights[f"{target}.shift"] = tensors.batch_norm(f"{block}.0", width)
        weights[f"{target}.conv1.weight"] = conv1
        weights[f"{target}.slope"] = tensors.take(f"{block}.2.weight", out)
        weights |= _named(f"{target}.conv2", tensors.convolution(f"{block}.3", f"{block}.4", out, out, 3, 3))
        if number == 0 and f"{block}.5.fc1.weight" in tensors:
            reduction = out // max(1, len(tensors.left[f"{block}.5.fc1.weight"]))
        if reduction:
            hidden = out // reduction
            weights[f"{target}.squeeze.weight"] = tensors.take(f"{block}.5.fc1.weight", hidden, out, 1, 1).flatten(1)
            weights[f"{target}.excite.weight"] = tensors.take(f"{block}.5.fc2.weight", out, hidden, 1, 1).flatten(1)
        if out != width:
            shortcut = f"body.{number}.shortcut_layer"
            weights |= _named(
                f"{target}.shortcut", tensors.convolution(f"{shortcut}.0", f"{shortcut}.1", out, width, 1, 1)
            )
        width, number = out, number + 1
        blocks[-1] += 1
    config = {"backbone": "ir", "input_nc": input_nc, "channels": channels, "blocks": blocks, "reduction": reduction}
    return config, weights


def _resnet(tensors: Tensors) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """ResNet-34, whose stages start as those of :func:`_ir` do."""
    stem = tensors.convolution("conv1", "bn1", None, None, 7, 7)
    width, input_nc = stem["weight"].shape[:2]
    weights = {**_named("backbone.stem", stem), "backbone.slope": tensors.take("relu.weight", width)}
    channels, number = [width], 0
    blocks: list[int] = []
    while f"body.{number}.conv1.weight" in tensors:
        block = f"body.{number}"
        conv1 = tensors.convolution(f"{block}.conv1", f"{block}.bn1", None, width, 3, 3)
        out = conv1["weight"].shape[0]
        if number == 0 or out != width:
            channels, blocks = [*channels, out], [*blocks, 0]
        target = f"backbone.stages.{len(blocks) - 1}.{blocks[-1]}"
        weights |= _named(f"{target}.conv1", conv1)
        weights |= _named(f"{target}.conv2", tensors.convolution(f"{block}.conv2", f"{block}.bn2", out, out, 3, 3))
        if out != width:
            shortcut = f"{block}.downsample"
            weights |= _named(
                f"{target}.shortcut", tensors.convolution(f"{shortcut}.0", f"{shortcut}.1", out, width, 1, 1)
            )
        width, number = out, number + 1
        blocks[-1] += 1
    config = {"backbone": "resnet", "input_nc": input_nc, "channels": channels, "blocks": blocks, "reduction": 0}
    return config, weights


def _style_heads(
    tensors: Tensors, weights: dict[str, Tensor], head: str, channels: list[int], num_ws: int, w_dim: int
) -> int:
    """Fills in one head per row; returns the input size, which the number of convolutions tells."""
    width, depth = channels[-1], 0
    while f"styles.0.convs.{2 * depth}.weight" in tensors:  # an activation stands between two
        depth += 1
    if depth < 1:
        raise CheckpointError("the encoder has no weights 'styles.0.convs.0.weight'")
    if head == "pyramid":
        for i, finer in enumerate(channels[-2:-4:-1]):
            weights |= _named(f"head.laterals.{i}", tensors.dense(f"latlayer{i + 1}", width, finer, 1, 1))
    for row in range(num_ws):
        level = int(row >= COARSE_ROWS) + int(row >= COARSE_ROWS + MIDDLE_ROWS) if head == "pyramid" else 0
        for i in range(depth + level):
            into = w_dim if i else width
            conv = tensors.dense(f"styles.{row}.convs.{2 * i}", w_dim, into, 3, 3)
            weights |= _named(f"head.styles.{row}.convs.{i}", conv)
        weights |= _named(f"head.styles.{row}.linear", tensors.dense(f"styles.{row}.linear", w_dim, w_dim))
    # Early files have 18 rows whatever the generator takes; it never reads the others.
    for name in [name for name in tensors.left if name.startswith("styles.")]:
        row_name = name.split(".")[1]
        if row_name.isdecimal() and num_ws <= int(row_name) < 18:
            del tensors.left[name]
    return STRIDE * 2**depth


def _flat_head(tensors: Tensors, width: int, num_ws: int, w_dim: int) -> dict[str, Tensor]:
    """Batch normalisation before a mean over pixels and a linear layer, folded into that layer."""
    flat = tensors.dense("output_layer_2.3", None, width * POOLED**2)
    scale, shift = (x.double() for x in tensors.batch_norm("output_layer_2.0", width))
    taps = flat["weight"].double().unflatten(1, (width, POOLED**2))
    hidden = len(taps)
    bias = flat["bias"].double() + taps.sum(dim=2) @ shift
    rows = tensors.dense("linear", None, hidden)
    if len(rows["weight"]) < num_ws * w_dim:
        raise CheckpointError(f"its encoder gives {len(rows['weight'])} numbers, its generator takes {num_ws * w_dim}")
    return {
        "head.flat.weight": (taps * scale[:, None]).flatten(1).float(),
        "head.flat.bias": bias.float(),
        **_named("head.linear", {name: tensor[: num_ws * w_dim].clone() for name, tensor in rows.items()}),
    }
