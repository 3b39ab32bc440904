"""Base of the metrics that compare every image with every other."""

from torch import Tensor

from ganaug.metrics.metric import TwoSets
from ganaug.metrics.states import Rows


class StoredFeatures(TwoSets[Rows]):
    """Keeps both sets, where they were computed: 4 bytes a number for float32 features."""

    def _fresh(self) -> dict[str, Rows]:
        return {"real": Rows(), "generated": Rows()}

    def _features(self, at_least: int) -> tuple[Tensor, Tensor]:
        """Both sides, real first, ``(N, D)`` float64: products of float32 features lose small differences that count.

        Raises:
            UserInputError: With fewer than ``at_least`` images on a side.
        """
        real, made = self._at_least(at_least)
        return real.joined().double(), made.joined().to(real.device).double()
