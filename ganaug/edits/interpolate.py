"""Part of the way to another person: every row of the latents moves toward a partner's."""

from ganaug.edits.parts import UNKNOWN_TOUCHES
from ganaug.edits.style_mixing import StyleMixing


class Interpolate(StyleMixing):
    """Moves all rows of the latents along the straight line to those of a partner.

    At strength 1 the result *is* the partner, so whatever tells two people apart changes on the way: identity, age,
    gender, pose, background. Mixing in W is linear (StyleGAN, arXiv 1812.04948, section 4.1: W need not follow the
    sphere that Z lies on, so a straight line stays among faces).

    Args:
        name: Name of the edit.
        touches: Attributes that may change; default: all that are known.
        strength: Range of the share of the way. The default stays on this side of the middle, from where the face would
            be closer to the partner than to the photo.

    Example:
        >>> import torch
        >>> params = {"partner": torch.ones(1, 2, 3), "strength": torch.tensor([0.25])}
        >>> Interpolate().apply(torch.zeros(1, 2, 3), params)[0, :, 0].tolist()
        [0.25, 0.25]
    """

    def __init__(
        self,
        name: str = "interpolate",
        touches: set[str] | frozenset[str] = UNKNOWN_TOUCHES,
        strength: tuple[float, float] = (0.1, 0.45),
    ) -> None:
        super().__init__(name, None, touches, strength)
