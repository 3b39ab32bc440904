"""How a condition c enters a network: a learnt linear embedding, scaled to unit second moment."""

from torch import Tensor

from ganaug.layers import EqualLinear


def normalize_second_moment(x: Tensor) -> Tensor:
    """Scales each row of ``x (B, N)`` to a mean square of 1 (arXiv 1710.10196, section 4.2)."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def refuse_condition(c: Tensor | None) -> None:
    """For networks without a condition.

    Raises:
        ValueError: If there is one.
    """
    if c is not None:
        raise ValueError(f"this network is unconditional: c must be None, got a tensor of shape {tuple(c.shape)}")


def embed_condition(layer: EqualLinear, c: Tensor | None, batch: int) -> Tensor:
    """``c (B, c_dim)`` through its layer, scaled to a mean square of 1 per row (configuration of arXiv 2006.06676).

    One-hot labels pick one column of the layer's weight each, so several labels side by side give the sum of theirs.

    Args:
        layer: ``c_dim`` -> size of the embedding.
        c: Condition; numbers, booleans and integers will do.
        batch: Rows of what the condition goes with.

    Raises:
        ValueError: If ``c`` is missing, or has another shape than ``(batch, c_dim)``.
    """
    expected = (batch, layer.weight.shape[1])
    if c is None or tuple(c.shape) != expected:
        got = "none" if c is None else f"shape {tuple(c.shape)}"
        raise ValueError(f"this network is conditional: expected c of shape {expected}, got {got}")
    embedded: Tensor = layer(c.to(layer.weight.dtype))
    return normalize_second_moment(embedded)
