"""Low-rank changes of a StyleGAN2 generator's weights, other ones for every image of a batch.

Pivotal tuning (arXiv 2106.05744) gives a photo a generator of its own: 127 MB for a 1024 px face. Here each 3x3
convolution ``W (O, I, 3, 3)`` gets ``W + A B`` with ``A (O, r)`` and ``B (r, I, 3, 3)`` (arXiv 2106.09685, section 4.1,
has this for matrices): a few tens of kilobytes, small enough for a record of the cache.

No convolution is grouped by image. A convolution is linear in its weights, so the shared one stays as it is and
``A B`` adds to its result: ``B`` is a product of matrices that gives ``9 r`` maps per image, ``fold`` of torch
adds up the nine taps of each (with stride 2 it is the transposed convolution of upsampling layers), the FIR filter sees
``r`` maps, and ``A`` is a second product of matrices.

Convention: the change acts on the modulated input, and demodulation divides by the norm of the *unchanged* weights
(arXiv 1912.04958, equation 3), which all images share. With ``delta = 0`` the images are those without.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.errors import UserInputError

KIND = "low_rank"

# Numbers are stored in units in which Adam, with one learning rate, moves all of them usefully; then all are of the
# order 0.01 to 10, which float16 holds with 11 bits. Set by trials on FairFace val.
TORGB_UNIT = 0.3  # of a weight of toRGB, whose own have unit variance
BIAS_UNIT = 0.1  # of what is added to a picture in [-1, 1]
NOISE_UNIT = 0.1  # of activations of unit variance


class LayerShape(NamedTuple):
    """What a layout has to know of one layer: channels out and in, side of its output in pixels, side of its kernel."""

    out_channels: int
    in_channels: int
    resolution: int
    kernel: int


@dataclass(frozen=True)
class LayerDelta:
    """The change of one layer, for ``B`` images; what is None stays as it is.

    Attributes:
        out: ``A (B, O, r)``.
        taps: ``B (B, 9 r, I)``: rows ``9 k + t`` belong to rank k. Tap t is the one of ``conv_transpose2d``; of an
            ordinary convolution it is tap ``8 - t``.
        noise: ``(B, 1, H, W)``, added to the stored noise map times its strength.
        weight: ``(B, O, I)``, added to the weight of toRGB.
        bias: ``(B, O)``, added to the bias of toRGB.
    """

    out: Tensor | None = None
    taps: Tensor | None = None
    noise: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None

    def add_to(self, y: Tensor, x: Tensor, fir: Tensor | None) -> Tensor:
        """Adds ``A B`` of the modulated input to what the shared weights made of it.

        Args:
            y: ``(B, O, H', W')``, before demodulation.
            x: ``(B, I, H, W)``, modulated.
            fir: ``(4, 4)`` filter of an upsampling layer; None for others.
        """
        if self.out is None or self.taps is None:
            return y
        batch, channels, height, width = x.shape
        rank = self.out.shape[2]
        # A and B may both grow; the mean over B's inputs keeps A B of the size of A.
        out = (self.out * (9 * channels) ** -0.5).to(x.dtype)
        pixels = x.permute(0, 2, 3, 1).reshape(batch, height * width, channels)  # a view of channels_last
        maps = torch.bmm(self.taps.to(x.dtype), pixels.transpose(1, 2))
        if fir is None:
            low = F.fold(maps, (height, width), 3, padding=1)
        else:
            low = F.fold(maps, (2 * height + 1, 2 * width + 1), 3, stride=2)
            low = F.conv2d(low, fir.to(x.dtype).expand(rank, 1, 4, 4), padding=1, groups=rank)
        rows = y.permute(0, 2, 3, 1).reshape(batch, -1, y.shape[1])
        rows = torch.baddbmm(rows, low.flatten(2).transpose(1, 2), out.transpose(1, 2))
        return rows.reshape(batch, *y.shape[2:], -1).permute(0, 3, 1, 2)


Delta = Mapping[str, LayerDelta]  # name of a layer -> its change


@runtime_checkable
class DeltaNetwork(Protocol):
    """A synthesis network that can draw with deltas."""

    def delta_shapes(self) -> dict[str, LayerShape]:
        """Name -> shape of every layer that can be changed, in order."""
        ...


# By default. Ranks by the side of the output, for "conv0" and "conv1" of a block: high where channels are few and
# a rank costs little. Noise maps at the resolutions where one is small and says much. Set by trials with the bundled
# 64 px generator on 16 photos of FairFace val: without maps, and 40 % more numbers in ranks, the error is 38 % higher;
# with more maps, at 64 px, it is 11 % lower, but glasses move by 0.57 of what they move untuned, instead of 0.72.
RANKS = {4: (0, 1), 8: (1, 1), 16: (2, 2), 32: (4, 4), 64: (8, 3)}
RANKS_ABOVE = (4, 4)
NOISE_SIDES = (16, 32)  # pixels


@dataclass(frozen=True)
class DeltaLayout:
    """Where the numbers of a delta ``(B, P)`` belong; as JSON it stands in the header of a cache.

    Attributes:
        ranks: Name of a convolution -> its rank, 0 for none.
        torgb: Whether weights and biases of toRGB change (their rank could not be above 3: all of them).
        noise: Convolutions that get noise maps of their own; with all ranks 0 and ``torgb=False`` these are the
            optimised noise maps of arXiv 1912.04958, appendix D.
        shapes: Of the layers.
    """

    ranks: Mapping[str, int]
    torgb: bool
    noise: tuple[str, ...]
    shapes: Mapping[str, LayerShape] = field(repr=False)

    def __post_init__(self) -> None:
        convolutions = [name for name, shape in self.shapes.items() if shape.kernel == 3]
        unknown = [name for name in (*self.ranks, *self.noise) if name not in convolutions]
        if unknown:
            raise UserInputError(
                f"the generator has no layer {unknown[0]!r}: expected some of {', '.join(convolutions)}"
            )
        wrong = [f"{name}: {rank!r}" for name, rank in self.ranks.items() if not isinstance(rank, int) or rank < 0]
        if wrong:
            raise UserInputError(f"ranks must be whole numbers from 0 up, got {wrong[0]}")
        if not self.size:
            raise UserInputError("a delta without ranks, toRGB and noise maps changes nothing: give at least one")

    @classmethod
    def build(
        cls,
        generator: Any,
        ranks: Mapping[str, int] | int | None = None,
        *,
        torgb: bool = True,
        noise: bool | Sequence[str] | None = None,
    ) -> "DeltaLayout":
        """A layout for a generator.

        Args:
            generator: StyleGAN2, or another with the same synthesis network.
            ranks: One rank for all convolutions, or each its own by name; None: ``RANKS``.
            torgb: Change toRGB, too.
            noise: Noise maps for all convolutions, none, or those named; None: those of ``NOISE_SIDES``.

        Raises:
            UserInputError: If the generator cannot draw with deltas, or has no such layer.
        """
        shapes = _shapes_of(generator)
        names = [name for name, shape in shapes.items() if shape.kernel == 3]
        if ranks is None:
            ranks = {n: RANKS.get(shapes[n].resolution, RANKS_ABOVE)[n.endswith("conv1")] for n in names}
        elif isinstance(ranks, int):
            ranks = dict.fromkeys(names, ranks)
        if noise is None:
            noise = [n for n in names if shapes[n].resolution in NOISE_SIDES]
        chosen = names if noise is True else () if noise is False else noise
        return cls({name: rank for name, rank in ranks.items() if rank}, torgb, tuple(chosen), shapes)

    @classmethod
    def of(cls, described: Mapping[str, Any], generator: Any) -> "DeltaLayout":
        """Inverse of :meth:`to_dict`, for the generator that is to draw.

        Raises:
            UserInputError: If the generator cannot draw with such deltas; says why.
        """
        if described.get("kind") != KIND:
            raise UserInputError(f"records hold deltas of kind {described.get('kind')!r}: this ganaug knows {KIND!r}")
        try:
            ranks, noise = dict(described["ranks"]), tuple(described["noise"])
            layout = cls(ranks, bool(described["torgb"]), noise, _shapes_of(generator))
        except (KeyError, TypeError, ValueError) as error:
            raise UserInputError(
                f"the layout of deltas lacks a field or has one of the wrong kind: {error!r}"
            ) from error
        if layout.size != described.get("size"):
            raise UserInputError(
                f"records hold deltas of {described.get('size')!r} numbers, but the layers of this generator take "
                f"{layout.size}"
            )
        return layout

    def to_dict(self) -> dict[str, Any]:
        """Plain containers only, so that it can be stored as JSON; ``size`` is P."""
        described = {"ranks": dict(self.ranks), "torgb": self.torgb, "noise": list(self.noise)}
        return {"kind": KIND, "size": self.size, **described}

    @property
    def size(self) -> int:
        """P, numbers per image."""
        return sum(math.prod(shape) for _, _, shape in self._entries())

    def start(self, seed: int = 0) -> Tensor:
        """``(P,)`` float32 to begin an optimisation at: it changes nothing, and every number gets a gradient soon.

        ``A``, toRGB and noise are 0; ``B`` is drawn from N(0, 1), the same for all images (arXiv 2106.09685,
        section 4.1).
        """
        rng = torch.Generator().manual_seed(seed)
        parts = [(part, math.prod(shape)) for _, part, shape in self._entries()]
        return torch.cat([torch.randn(n, generator=rng) if part == "taps" else torch.zeros(n) for part, n in parts])

    def bind(self, numbers: Tensor) -> Delta:
        """``(B, P)`` of any float dtype -> the change of each layer, as ``synthesis(..., delta=)`` takes it.

        Raises:
            ValueError: For another number of numbers.
        """
        entries = self._entries()
        if numbers.ndim != 2 or numbers.shape[1] != self.size:
            raise ValueError(f"expected deltas of shape (B, {self.size}), got {tuple(numbers.shape)}")
        units = {"weight": TORGB_UNIT, "bias": BIAS_UNIT, "noise": NOISE_UNIT}
        found: dict[str, dict[str, Tensor]] = {}
        pieces = numbers.float().split([math.prod(shape) for *_, shape in entries], dim=1)
        for (name, part, shape), piece in zip(entries, pieces, strict=True):
            values = piece.reshape(len(numbers), *shape)
            found.setdefault(name, {})[part] = values * units[part] if part in units else values
        return {name: LayerDelta(**parts) for name, parts in found.items()}

    def _entries(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Layer, attribute of :class:`LayerDelta`, and shape, in the order of the numbers."""
        entries: list[tuple[str, str, tuple[int, ...]]] = []
        for name, shape in self.shapes.items():
            rank = self.ranks.get(name, 0)
            if rank:
                entries.append((name, "out", (shape.out_channels, rank)))
                entries.append((name, "taps", (9 * rank, shape.in_channels)))
            if name in self.noise:
                entries.append((name, "noise", (1, shape.resolution, shape.resolution)))
            if self.torgb and shape.kernel == 1:
                entries.append((name, "weight", (shape.out_channels, shape.in_channels)))
                entries.append((name, "bias", (shape.out_channels,)))
        return entries


def _shapes_of(generator: Any) -> dict[str, LayerShape]:
    network = getattr(generator, "synthesis_network", None)
    if not isinstance(network, DeltaNetwork):
        family = getattr(generator, "family", type(generator).__name__)
        raise UserInputError(
            f"a generator of family {family!r} cannot draw with deltas per image: only those with StyleGAN2's "
            "synthesis network can. Use the inverter 'hybrid' with it"
        )
    return network.delta_shapes()
