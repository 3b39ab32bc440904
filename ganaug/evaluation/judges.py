"""Who looks at photos and variants: an identity embedder with its heads, and readings of codes."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ganaug.edits.table import table_of
from ganaug.edits.target import Gauge
from ganaug.embedders import FaceEmbedder
from ganaug.gate import IdentityGate
from ganaug.gatekeeper import Gatekeeper
from ganaug.interfaces import Edit, Embedder, Generator
from ganaug.strength_sheets import gauge_of


@dataclass(frozen=True)
class Reading:
    """One figure that is read off faces.

    Attributes:
        attribute: What it tells: ``"age"``.
        by: ``"code"``: a calibrated direction, off latents; ``"picture"``: a head of the embedder.
        unit: ``"years"``, ``"probability"`` (of the class, where one is named) or ``"own"``, the direction's.
    """

    attribute: str
    by: str
    unit: str

    @property
    def name(self) -> str:
        """For tables: ``"age (picture)"``."""
        return f"{self.attribute} ({self.by})"


class Seen(NamedTuple):
    """What a judge says of K faces.

    Attributes:
        embeddings: ``(K, D)`` of unit length.
        told: Attribute -> ``(K,)`` amounts or ``(K, C)`` probabilities; empty for an embedder without heads.
    """

    embeddings: Tensor
    told: dict[str, Tensor]


class Judge:
    """An identity embedder that sees what the gate would see.

    Args:
        embedder: On the device where variants are made.
        chip_size: Side of the generator's pictures in pixels.
        chip_template: Their framing, or None where nobody knows it.

    Attributes:
        threshold: Cosine from which two faces count as one person.
        classes: Attribute -> names of its classes, of the heads that tell classes.
    """

    def __init__(self, embedder: Embedder, chip_size: int, chip_template: str | None) -> None:
        gate = IdentityGate(embedder)
        self.embedder, self.threshold, self.chip_size = embedder, gate.threshold, chip_size
        self._keeper = Gatekeeper([gate], chip_size, chip_template)
        has_heads = isinstance(embedder, FaceEmbedder) and embedder.heads is not None
        self._heads = embedder if has_heads and isinstance(embedder, FaceEmbedder) else None
        values = {} if self._heads is None else self._heads.architecture.values
        told = {} if self._heads is None else self._heads.attribute_classes
        self.classes = {name: classes for name, classes in told.items() if name not in values}
        self.amounts = [name for name in told if name in values]

    @property
    def readings(self) -> list[Reading]:
        """What :meth:`look` tells as one number a face: amounts, and the second of two classes."""
        amounts = [Reading(name, "picture", "years" if name == "age" else "own") for name in self.amounts]
        pairs = [f"{name}={classes[1]}" for name, classes in self.classes.items() if len(classes) == 2]
        return amounts + [Reading(name, "picture", "probability") for name in pairs]

    @torch.no_grad()
    def look(self, items: Tensor, places: Tensor) -> Seen:
        """Looks at faces.

        Args:
            items: ``(K, 3, H, W)`` in [0, 1].
            places: ``(K, 2, 3)`` on the CPU, chip to item pixels.
        """
        seen = self._keeper.frame(0, items, places)
        told = {} if self._heads is None else self._heads.attributes(seen)
        return Seen(self._keeper.gates[0].features(seen), told)

    def look_at_chips(self, pictures: Tensor) -> Seen:
        """The same of pictures ``(K, 3, R, R)`` in [-1, 1] in the generator's framing."""
        return self.look((pictures + 1.0) / 2.0, torch.eye(2, 3).expand(len(pictures), -1, -1))

    def numbers(self, seen: Seen) -> Tensor:
        """``(K, len(readings))``."""
        columns = [seen.told[name] for name in self.amounts]
        columns += [seen.told[name][:, 1] for name, classes in self.classes.items() if len(classes) == 2]
        return torch.stack(columns, dim=1) if columns else seen.embeddings.new_zeros(len(seen.embeddings), 0)


class CodeReader:
    """Calibrated directions of a generator's edit table and of edits, as readings of latents.

    Args:
        generator: Whose table.
        edits: More directions; their readings are added.
    """

    def __init__(self, generator: Generator, edits: list[Edit]) -> None:
        found = [gauge_of(edit) for edit in [*table_of(generator).edits.values(), *edits]]
        self.gauges: dict[str, Gauge] = dict(pair for pair in found if pair is not None)

    @property
    def readings(self) -> list[Reading]:
        """One for each direction."""
        return [Reading(name, "code", _unit(name, gauge)) for name, gauge in self.gauges.items()]

    def numbers(self, codes: Tensor) -> Tensor:
        """``codes (K, L, D)`` -> ``(K, len(readings))``."""
        columns = [gauge(codes) for gauge in self.gauges.values()]
        return torch.stack(columns, dim=1) if columns else codes.new_zeros(len(codes), 0)


def _unit(name: str, gauge: Gauge) -> str:
    if gauge.link == "logistic":
        return "probability"
    return "years" if name == "age" else "own"
