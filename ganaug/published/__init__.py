"""Published checkpoints of the field, opened without running their code.

Two steps. :func:`ganaug.published.container.open_tree` turns a file into a tree of plain values (see ``tree.py``) and
is the only place that meets untrusted bytes. A *format*, listed in ``formats.py``, then recognises the tree and gives
its tensors the names that this package's networks have. Nothing here builds a network.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class PublishedModel:
    """A foreign file in this package's terms.

    Attributes:
        description: As in this package's own files (:mod:`ganaug.checkpoints`): ``family`` (a key of ``GENERATORS``)
            and ``config`` of the generator; ``layout``, whose naming the file had; with an encoder, ``encoder`` (a key
            of ``ENCODERS``) and its sizes.
        parts: State dicts by name: ``generator``, ``encoder``. A generator without ``map_network.w_avg`` has no mean
            latent in its file; who opens it estimates one.
    """

    description: dict[str, Any]
    parts: dict[str, dict[str, Tensor]]
