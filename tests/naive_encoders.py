"""pSp, e4e and ReStyle as their papers draw them, on the tensors of a published file: one photo and one row at a time.

Also makes such files out of thin air, at any width.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """What a file holds. The defaults are those of e4e for FFHQ at 1024 px."""

    encoder_type: str = "Encoder4Editing"
    channels: tuple[int, ...] = (64, 64, 128, 256, 512)
    blocks: tuple[int, ...] = (3, 4, 14, 3)
    reduction: int = 16
    input_nc: int = 3
    depth: int = 4  # convolutions of a coarse head
    rows: int = 18
    w_dim: int = 512

    @property
    def resnet(self) -> bool:
        return self.encoder_type.startswith("ResNet")

    @property
    def has_pyramid(self) -> bool:
        return "Gradual" in self.encoder_type or self.encoder_type == "Encoder4Editing"

    def units(self) -> Iterator[tuple[int, int, int, int]]:
        """For each block of the body: stage, channels in, channels out, stride."""
        before = self.channels[0]
        for stage, (count, width) in enumerate(zip(self.blocks, self.channels[1:], strict=True)):
            for i in range(count):
                halves = i == 0 and not (self.resnet and stage == 0)
                yield stage, before, width, 2 if halves else 1
                before = width

    def head_depth(self, row: int) -> int:
        """Convolutions of a row's head: a map of twice the size takes one more."""
        return self.depth + (int(row > 2) + int(row > 6) if self.has_pyramid else 0)


def shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Every tensor of the encoder."""
    found: dict[str, tuple[int, ...]] = {}

    def norm(name: str, width: int) -> None:
        found.update({f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")})
        found[f"{name}.num_batches_tracked"] = ()

    first, last = layout.channels[0], layout.channels[-1]
    stem, stem_norm, stem_slope = ("conv1", "bn1", "relu") if layout.resnet else [f"input_layer.{i}" for i in range(3)]
    size = 7 if layout.resnet else 3
    found[f"{stem}.weight"] = (first, layout.input_nc, size, size)
    norm(stem_norm, first)
    found[f"{stem_slope}.weight"] = (first,)
    for i, (_, into, out, _) in enumerate(layout.units()):
        body = f"body.{i}"
        if layout.resnet:
            found[f"{body}.conv1.weight"], found[f"{body}.conv2.weight"] = (out, into, 3, 3), (out, out, 3, 3)
            norm(f"{body}.bn1", out)
            norm(f"{body}.bn2", out)
        else:
            norm(f"{body}.res_layer.0", into)
            found[f"{body}.res_layer.1.weight"] = (out, into, 3, 3)
            found[f"{body}.res_layer.2.weight"] = (out,)
            found[f"{body}.res_layer.3.weight"] = (out, out, 3, 3)
            norm(f"{body}.res_layer.4", out)
            if layout.reduction:
                hidden = out // layout.reduction
                found[f"{body}.res_layer.5.fc1.weight"] = (hidden, out, 1, 1)
                found[f"{body}.res_layer.5.fc2.weight"] = (out, hidden, 1, 1)
        if into != out:
            past = f"{body}.downsample" if layout.resnet else f"{body}.shortcut_layer"
            found[f"{past}.0.weight"] = (out, into, 1, 1)
            norm(f"{past}.1", out)
    d = layout.w_dim
    if layout.encoder_type in ("BackboneEncoderUsingLastLayerIntoW", "WEncoder"):
        found |= {"linear.weight": (d, last), "linear.bias": (d,)}
    elif layout.encoder_type == "BackboneEncoderUsingLastLayerIntoWPlus":
        norm("output_layer_2.0", last)
        found |= {"output_layer_2.3.weight": (d, last * 49), "output_layer_2.3.bias": (d,)}
        found |= {"linear.weight": (layout.rows * d, d), "linear.bias": (layout.rows * d,)}
    else:
        for row in range(layout.rows):
            for i in range(layout.head_depth(row)):
                found[f"styles.{row}.convs.{2 * i}.weight"] = (d, d if i else last, 3, 3)
                found[f"styles.{row}.convs.{2 * i}.bias"] = (d,)
            found |= {f"styles.{row}.linear.weight": (d, d), f"styles.{row}.linear.bias": (d,)}
        if layout.has_pyramid:
            found |= {"latlayer1.weight": (last, layout.channels[3], 1, 1), "latlayer1.bias": (last,)}
            found |= {"latlayer2.weight": (last, layout.channels[2], 1, 1), "latlayer2.bias": (last,)}
    return found


def random_state(layout: Layout, seed: int = 0) -> State:
    """Weights under which every part of the network matters."""
    rng = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes(layout).items():
        drawn = torch.randn(shape, generator=rng)
        if name.endswith("running_var"):
            drawn = drawn.square() + 0.5
        elif name.endswith("num_batches_tracked"):
            drawn = torch.tensor(1234)
        elif len(shape) == 4:
            drawn = drawn / math.sqrt(shape[1] * shape[2] * shape[3])
        elif (name.endswith("2.weight") and len(shape) == 1) or name.startswith("relu"):
            drawn = drawn.abs() * 0.3  # PReLU
        elif len(shape) == 1:
            drawn = 1.0 + 0.3 * drawn if name.endswith("weight") else 0.3 * drawn
        elif name.startswith("output_layer_2"):
            drawn = drawn / math.sqrt(shape[1])
        state[name] = drawn
    return state


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias, arXiv 1502.03167, algorithm 2."""
    mean, variance, weight, bias = (
        state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x > 0, x, x * slope[:, None, None])


def _ir_block(state: State, name: str, x: Tensor, stride: int) -> Tensor:
    y = _norm(state, f"{name}.res_layer.0", x)
    y = _prelu(F.conv2d(y, state[f"{name}.res_layer.1.weight"], padding=1), state[f"{name}.res_layer.2.weight"])
    y = _norm(state, f"{name}.res_layer.4", F.conv2d(y, state[f"{name}.res_layer.3.weight"], None, stride, 1))
    if f"{name}.res_layer.5.fc1.weight" in state:
        pooled = y.mean(dim=(2, 3), keepdim=True)
        hidden = F.conv2d(pooled, state[f"{name}.res_layer.5.fc1.weight"]).clamp(min=0)
        y = y * torch.sigmoid(F.conv2d(hidden, state[f"{name}.res_layer.5.fc2.weight"]))
    if f"{name}.shortcut_layer.0.weight" in state:
        past = F.conv2d(x, state[f"{name}.shortcut_layer.0.weight"], stride=stride)
        return y + _norm(state, f"{name}.shortcut_layer.1", past)
    return y + F.max_pool2d(x, 1, stride)


def _resnet_block(state: State, name: str, x: Tensor, stride: int) -> Tensor:
    y = _norm(state, f"{name}.bn1", F.conv2d(x, state[f"{name}.conv1.weight"], None, stride, 1)).clamp(min=0)
    y = _norm(state, f"{name}.bn2", F.conv2d(y, state[f"{name}.conv2.weight"], padding=1))
    if f"{name}.downsample.0.weight" in state:
        x = _norm(state, f"{name}.downsample.1", F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride))
    return (x + y).clamp(min=0)


def _enlarged(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, pixel by pixel; the corners of both maps are at the same place."""
    out = x.new_zeros(*x.shape[:2], height, width)
    for i in range(height):
        for j in range(width):
            y, z = i * (x.shape[2] - 1) / (height - 1), j * (x.shape[3] - 1) / (width - 1)
            top, left = min(int(y), x.shape[2] - 2), min(int(z), x.shape[3] - 2)
            for row, share in ((top, 1 - (y - top)), (top + 1, y - top)):
                for column, part in ((left, 1 - (z - left)), (left + 1, z - left)):
                    out[:, :, i, j] += share * part * x[:, :, row, column]
    return out


def _equal_linear(state: State, name: str, x: Tensor) -> Tensor:
    """The He constant is applied at run time (arXiv 1710.10196, section 4.1)."""
    weight = state[f"{name}.weight"]
    return x @ weight.T / math.sqrt(weight.shape[1]) + state[f"{name}.bias"]


def _style(state: State, layout: Layout, row: int, x: Tensor) -> Tensor:
    for i in range(layout.head_depth(row)):
        x = F.conv2d(x, state[f"styles.{row}.convs.{2 * i}.weight"], state[f"styles.{row}.convs.{2 * i}.bias"], 2, 1)
        x = torch.where(x > 0, x, 0.01 * x)
    return _equal_linear(state, f"styles.{row}.linear", x.flatten(1))


def naive_rows(layout: Layout, state: State, seen: Tensor) -> Tensor:
    """``(1, input_nc, S, S)`` -> ``(1, rows, w_dim)``, before anything is added."""
    if layout.resnet:
        x = _prelu(_norm(state, "bn1", F.conv2d(seen, state["conv1.weight"], None, 2, 3)), state["relu.weight"])
    else:
        x = _norm(state, "input_layer.1", F.conv2d(seen, state["input_layer.0.weight"], padding=1))
        x = _prelu(x, state["input_layer.2.weight"])
    ends = {}
    for i, (stage, _, _, stride) in enumerate(layout.units()):
        x = (_resnet_block if layout.resnet else _ir_block)(state, f"body.{i}", x, stride)
        ends[stage] = x
    if layout.encoder_type in ("BackboneEncoderUsingLastLayerIntoW", "WEncoder"):
        return _equal_linear(state, "linear", x.mean(dim=(2, 3)))[:, None].repeat(1, layout.rows, 1)
    if layout.encoder_type == "BackboneEncoderUsingLastLayerIntoWPlus":
        flat = F.adaptive_avg_pool2d(_norm(state, "output_layer_2.0", x), (7, 7)).reshape(1, -1)
        flat = flat @ state["output_layer_2.3.weight"].T + state["output_layer_2.3.bias"]
        return _equal_linear(state, "linear", flat).reshape(1, layout.rows, layout.w_dim)
    maps = [x, x, x]
    if layout.has_pyramid:
        for level, (lateral, stage) in enumerate((("latlayer1", 2), ("latlayer2", 1)), start=1):
            finer = F.conv2d(ends[stage], state[f"{lateral}.weight"], state[f"{lateral}.bias"])
            maps[level] = _enlarged(maps[level - 1], *finer.shape[2:]) + finer
    rows = []
    for row in range(layout.rows):
        found = _style(state, layout, row, maps[0 if row < 3 else 1 if row < 7 else 2])
        is_offset = row > 0 and layout.encoder_type in (
            "Encoder4Editing",
            "ProgressiveBackboneEncoder",
            "ResNetProgressiveBackboneEncoder",
        )
        rows.append(rows[0] + found if is_offset else found)
    return torch.stack(rows, dim=1)


def naive_encode(
    layout: Layout, state: State, image: Tensor, start: Tensor, synthesis: Any = None, iterations: int = 1
) -> Tensor:
    """``image (1, 3, S, S)`` at the encoder's size -> ``(1, rows, w_dim)``; ``start (rows, w_dim)``."""
    code = start[None].clone()
    if layout.input_nc == 3:
        return code + naive_rows(layout, state, image)
    for _ in range(iterations):
        made = F.adaptive_avg_pool2d(synthesis(code), image.shape[2:])
        code = code + naive_rows(layout, state, torch.cat([image, made], dim=1))
    return code


def published_file(layout: Layout, encoder: State, decoder: State, latent_avg: Tensor | None, **options: Any) -> Any:
    """What the projects' training loops hand to ``torch.save``."""
    state = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
    state |= {f"decoder.{name}": tensor for name, tensor in decoder.items()}
    opts = {"encoder_type": layout.encoder_type, "dataset_type": "ffhq_encode", "device": "cuda:0"}
    opts |= {"start_from_latent_avg": latent_avg is not None, "learning_rate": 0.0001, "optim_name": "ranger"}
    contents = {"state_dict": state, "opts": opts | options}
    return contents if latent_avg is None else {**contents, "latent_avg": latent_avg}
