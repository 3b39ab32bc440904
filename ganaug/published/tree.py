"""What the reader of foreign files hands on: plain containers, tensors, arrays, and modules that cannot run.

A tree is made of ``dict``, ``list``, ``tuple``, ``set``, ``str``, ``bytes``, numbers, ``None``, :class:`torch.Tensor`,
:class:`numpy.ndarray`, ``argparse.Namespace`` (read by ``vars``) and :class:`InertModule`. Nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ganaug.errors import CheckpointError

# Networks nest a handful of levels (synthesis, block, layer, affine) and have some hundreds of modules. A file may say
# that a module is in many places, so places are counted.
MAX_DEPTH = 32
MAX_MODULES = 10_000


@dataclass(frozen=True)
class InertModule:
    """A pickled network without its code: what NVIDIA's persistent classes store of themselves, minus the source text.

    Attributes:
        class_name: Name of the class that wrote it, for example ``"SynthesisNetwork"``.
        state: Its attributes, with ``_parameters``, ``_buffers``, ``_modules``, ``_init_args`` and ``_init_kwargs``.
    """

    class_name: str
    state: Mapping[str, Any] = field(repr=False)

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """Keyword arguments that the module was made with; empty where none were stored."""
        return dict(self._stored("_init_kwargs"))

    @property
    def children(self) -> dict[str, "InertModule"]:
        """Modules directly inside."""
        return {name: child for name, child in self._stored("_modules").items() if isinstance(child, InertModule)}

    def _stored(self, kind: str) -> dict[str, Any]:
        value = self.state.get(kind)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise CheckpointError(f"damaged: {kind} of module {self.class_name[:60]!r} is a {type(value).__name__}")
        return value

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers of this module and of all inside it, under dotted names as in a state dict.

        Raises:
            CheckpointError: If modules nest deeper than networks do, hold themselves, or are too many.
        """
        found: dict[str, Tensor] = {}
        waiting: list[tuple[str, int, InertModule]] = [("", 0, self)]
        visited = 0
        while waiting:
            visited += 1
            if visited > MAX_MODULES:
                raise CheckpointError(f"more than {MAX_MODULES} modules inside one another")
            prefix, depth, module = waiting.pop()
            if depth > MAX_DEPTH:
                raise CheckpointError(f"modules nest more than {MAX_DEPTH} deep at {prefix[:60]!r}")
            for kind in ("_parameters", "_buffers"):
                for name, tensor in module._stored(kind).items():
                    if isinstance(tensor, Tensor):
                        found[f"{prefix}{name}"] = tensor
            waiting += [(f"{prefix}{name}.", depth + 1, child) for name, child in module.children.items()]
        return found
