"""Where convolutions may run in bfloat16: steps of an inversion need few digits, and take two thirds of the time.

bfloat16 has float32's range and 8 bits of precision. A processor without instructions for it would be slower in it than
in float32, so it is used only where there are some.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_asked: ContextVar[bool] = ContextVar("ganaug_fast_convolutions", default=False)


@contextmanager
def fast_convolutions(wanted: bool = True) -> Iterator[None]:
    """Inside, generators and perceptual features may run their convolutions in bfloat16. What comes out is float32."""
    token = _asked.set(wanted)
    try:
        yield
    finally:
        _asked.reset(token)


def fast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 if that was asked for and is fast on the device; else None, for the dtype that things have."""
    return torch.bfloat16 if _asked.get() and multiplies_bfloat16(device.type) else None


@functools.cache
def multiplies_bfloat16(device_type: str) -> bool:
    """Whether a kind of device has instructions for bfloat16."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device_type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    # AVX512-BF16 (Intel from Cooper Lake on, AMD from Zen 4 on). PyTorch has no public name for this in all versions.
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())
