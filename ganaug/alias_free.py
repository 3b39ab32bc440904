"""Numbers of alias-free synthesis (StyleGAN3, arXiv 2106.12423): rates, cutoffs, sizes and low-pass filters of layers.

Every feature map is a sampled continuous signal. A layer is known by its sampling rate s, its cutoff f_c and the half
width f_h of its transition band, in cycles per image width; sizes are in samples. No network is defined here.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# The square holds this many samples at most: what a damaged file claims must not decide how much memory is taken.
MAX_RESOLUTION = 4096


@dataclass(frozen=True)
class StyleGAN3Config:
    """Architecture of a StyleGAN3 generator: config T, or R with ``conv_kernel=1`` and ``use_radial_filters``.

    Defaults are those of section 3.2 and appendix F.

    Attributes:
        img_resolution: Height and width in pixels.
        z_dim: Size of the Gaussian input.
        w_dim: Size of one row of latents.
        mapping_layers: Fully connected layers of the mapping network.
        channels: Feature maps of each layer but the last, which makes RGB; the Fourier features have ``channels[0]``.
        c_dim: Numbers in a condition; 0 for an unconditional generator.
        num_critical: Layers at the end whose cutoff is half their sampling rate.
        first_cutoff: f_c of the Fourier features, cycles per image.
        first_stopband: Least f_t = f_c + f_h of the first layer.
        last_stopband_rel: Least f_t of the last layer, divided by its f_c.
        margin_size: Samples kept on each side outside of the image.
        conv_kernel: 3 (T) or 1 (R).
        filter_size: Taps of a filter per sample of the lower rate.
        lrelu_upsampling: Rate at which the nonlinearity is applied, relative to the layer's.
        use_radial_filters: Radially symmetric downsampling (R) where a layer is not critically sampled.
        conv_clamp: Clamp activations to +- this value, or None.
        output_scale: Factor of the image.
    """

    img_resolution: int = 256
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 2
    channels: tuple[int, ...] = (512,) * 14
    c_dim: int = 0
    num_critical: int = 2
    first_cutoff: float = 2.0
    first_stopband: float = 2.0**2.1
    last_stopband_rel: float = 2.0**0.3
    margin_size: int = 10
    conv_kernel: int = 3
    filter_size: int = 6
    lrelu_upsampling: int = 2
    use_radial_filters: bool = False
    conv_clamp: float | None = 256.0
    output_scale: float = 0.25

    def __post_init__(self) -> None:
        if not 1 <= len(self.channels) <= 64 or min(self.channels) < 1:
            raise ValueError(f"channels must be 1 to 64 positive numbers, got {self.channels}")
        limits = {
            "img_resolution": (4, MAX_RESOLUTION),
            "z_dim": (1, 1 << 16),
            "w_dim": (1, 1 << 16),
            "mapping_layers": (1, 64),
            "c_dim": (0, 1 << 20),
            "num_critical": (0, len(self.channels) - 1),
            "margin_size": (0, 256),
            "filter_size": (1, 64),
            "lrelu_upsampling": (1, 8),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be in [{low}, {high}], got {getattr(self, name)}")
        if self.conv_kernel not in (1, 3):
            raise ValueError(f"conv_kernel must be 1 or 3, got {self.conv_kernel}")
        if not 0 < self.first_cutoff < self.img_resolution / 2:
            raise ValueError(f"first_cutoff must be in (0, img_resolution / 2), got {self.first_cutoff}")
        if not self.first_cutoff < self.first_stopband < math.inf or not 1 < self.last_stopband_rel < math.inf:
            raise ValueError(
                f"stopbands must lie above cutoffs: first_stopband {self.first_stopband} above first_cutoff "
                f"{self.first_cutoff}, last_stopband_rel {self.last_stopband_rel} above 1"
            )
        if self.conv_clamp is not None and not self.conv_clamp > 0:
            raise ValueError(f"conv_clamp must be positive or None, got {self.conv_clamp}")

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "StyleGAN3Config":
        """Inverse of ``dataclasses.asdict``, after a trip through JSON."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
        return cls(**values)

    @classmethod
    def scaled(
        cls,
        img_resolution: int,
        *,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_layers: int = 14,
        num_critical: int = 2,
        first_cutoff: float = 2.0,
        **others: Any,
    ) -> "StyleGAN3Config":
        """With as many channels as the paper gives a cutoff (section 3.2): ``channel_base / (2 f_c)``, up to a limit.

        Args:
            img_resolution: Pixels.
            channel_base: 32768 for T; doubled, as is ``channel_max``, for R.
            channel_max: Limit.
            num_layers: Layers but the last.
            num_critical: See the class.
            first_cutoff: See the class.
            **others: Further attributes.
        """
        cutoffs = _geometric(first_cutoff, img_resolution / 2, num_layers, num_critical)[:-1]
        channels = np.rint(np.minimum(channel_base / 2 / cutoffs, channel_max))
        return cls(
            img_resolution,
            channels=tuple(int(c) for c in channels),
            num_critical=num_critical,
            first_cutoff=first_cutoff,
            **others,
        )


@dataclass(frozen=True)
class LayerSpec:
    """One layer: modulated convolution, upsampling, leaky ReLU, downsampling.

    Attributes:
        in_channels: Feature maps in.
        out_channels: Feature maps out.
        in_size: Height and width in, samples.
        out_size: Height and width out.
        in_rate: Samples per image width, in.
        out_rate: Samples per image width, out.
        rate: Samples per image width at the nonlinearity.
        in_cutoff: Cutoff in, cycles per image width.
        out_cutoff: Cutoff out.
        in_half_width: Half width of the transition band in.
        out_half_width: Half width of the transition band out.
        kernel: Size of the convolution.
        is_rgb: The last layer: no nonlinearity, no demodulation.
        radial: Whether the downsampling filter is radially symmetric.
        filter_size: Taps per sample of the lower rate.
    """

    in_channels: int
    out_channels: int
    in_size: int
    out_size: int
    in_rate: int
    out_rate: int
    rate: int
    in_cutoff: float
    out_cutoff: float
    in_half_width: float
    out_half_width: float
    kernel: int
    is_rgb: bool
    radial: bool
    filter_size: int

    @property
    def up(self) -> int:
        """Upsampling factor before the nonlinearity."""
        return self.rate // self.in_rate

    @property
    def down(self) -> int:
        """Downsampling factor after it."""
        return self.rate // self.out_rate

    @property
    def up_taps(self) -> int:
        """Length of the upsampling filter; 1 for none."""
        return self.filter_size * self.up if self.up > 1 else 1

    @property
    def down_taps(self) -> int:
        """Length of the downsampling filter along each axis; 1 for none."""
        return self.filter_size * self.down if self.down > 1 else 1

    @property
    def padding(self) -> tuple[int, int]:
        """Samples to add (crop, if negative) before and after the zero-stuffed signal, along each axis.

        The convolution pads by ``kernel - 1``. Where the total is odd, the sample positions are shifted so that
        resampling is symmetric about the image's centre (appendix C.3).
        """
        total = (self.out_size - 1) * self.down + 1
        total -= (self.in_size + self.kernel - 1) * self.up
        total += self.up_taps + self.down_taps - 2
        low = (total + self.up) // 2
        return low, total - low

    def up_filter(self) -> Tensor | None:
        """``(up_taps,)`` low-pass filter at the input's cutoff, None for the identity."""
        if self.up_taps == 1:
            return None
        return kaiser_lowpass(self.up_taps, self.in_cutoff, 2 * self.in_half_width, self.rate)

    def down_filter(self) -> Tensor | None:
        """``(down_taps,)``, or ``(down_taps, down_taps)`` if radial, at the output's cutoff; None for the identity."""
        if self.down_taps == 1:
            return None
        design = radial_lowpass if self.radial else kaiser_lowpass
        return design(self.down_taps, self.out_cutoff, 2 * self.out_half_width, self.rate)


def layer_specs(config: StyleGAN3Config) -> list[LayerSpec]:
    """Flexible layer specifications (section 3.2): cutoffs and stopbands grow geometrically, rates in powers of 2.

    Returns:
        One per layer, the last makes RGB. The first reads the Fourier features, which have its own rate and cutoff.
    """
    count = len(config.channels)
    last_cutoff = config.img_resolution / 2
    cutoffs = _geometric(config.first_cutoff, last_cutoff, count, config.num_critical)
    last_stopband = last_cutoff * config.last_stopband_rel
    stopbands = _geometric(config.first_stopband, last_stopband, count, config.num_critical)
    rates = np.exp2(np.ceil(np.log2(np.minimum(2 * stopbands, config.img_resolution)))).astype(int)
    half_widths = np.maximum(stopbands, rates / 2) - cutoffs
    sizes = rates + 2 * config.margin_size
    sizes[-2:] = config.img_resolution  # the last two layers need no margin any more
    channels = (*config.channels, 3)
    specs = []
    for i in range(count + 1):
        before, is_rgb = max(i - 1, 0), i == count
        specs.append(
            LayerSpec(
                in_channels=channels[before],
                out_channels=channels[i],
                in_size=int(sizes[before]),
                out_size=int(sizes[i]),
                in_rate=int(rates[before]),
                out_rate=int(rates[i]),
                rate=int(max(rates[before], rates[i])) * (1 if is_rgb else config.lrelu_upsampling),
                in_cutoff=float(cutoffs[before]),
                out_cutoff=float(cutoffs[i]),
                in_half_width=float(half_widths[before]),
                out_half_width=float(half_widths[i]),
                kernel=1 if is_rgb else config.conv_kernel,
                is_rgb=is_rgb,
                radial=config.use_radial_filters and i < count - config.num_critical,
                filter_size=1 if is_rgb else config.filter_size,
            )
        )
    return specs


def _geometric(
    first: float, last: float, num_layers: int, num_critical: int
) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """``num_layers + 1`` numbers from ``first`` to ``last``, which the last ``num_critical + 1`` of them share."""
    exponents = np.minimum(np.arange(num_layers + 1) / (num_layers - num_critical), 1)
    return np.asarray(first * (last / first) ** exponents)


def kaiser_lowpass(taps: int, cutoff: float, width: float, rate: float) -> Tensor:
    """Ideal low-pass filter under a Kaiser window (appendix C), of unit gain at frequency 0.

    Args:
        taps: Length.
        cutoff: Where the gain is about a half, in the unit of ``rate``.
        width: Of the transition band, in the unit of ``rate``.
        rate: Samples per unit.

    Returns:
        ``(taps,)`` float32.
    """
    positions = np.arange(taps) - (taps - 1) / 2
    filter_ = np.sinc(2 * cutoff / rate * positions) * np.kaiser(taps, _kaiser_beta(taps, width, rate))
    return torch.from_numpy(filter_ / filter_.sum()).float()


def radial_lowpass(taps: int, cutoff: float, width: float, rate: float) -> Tensor:
    """As :func:`kaiser_lowpass` in two dimensions: the disc's jinc under a separable Kaiser window (appendix C).

    Returns:
        ``(taps, taps)`` float32.
    """
    positions = (torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2) * (2 * math.pi * cutoff / rate)
    radius = torch.hypot(positions[:, None], positions[None])
    # J1(r) / r, which tends to 1/2.
    jinc = torch.where(radius > 0, torch.special.bessel_j1(radius) / radius, 0.5)
    window = torch.from_numpy(np.kaiser(taps, _kaiser_beta(taps, width, rate)))
    filter_ = jinc * window[:, None] * window
    return (filter_ / filter_.sum()).float()


def _kaiser_beta(taps: int, width: float, rate: float) -> float:
    """Shape of the Kaiser window whose transition band is ``width`` wide (Kaiser 1974; Oppenheim & Schafer, 7.5.3)."""
    attenuation = 2.285 * (taps - 1) * math.pi * width / (rate / 2) + 7.95  # dB
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21:
        return float(0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21))
    return 0.0
