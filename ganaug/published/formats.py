"""The layouts of the field's checkpoints that are known, and the one function that reads any of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ganaug.errors import CheckpointError
from ganaug.known_weights import digest
from ganaug.published import PublishedModel, encoders, mmagic, rosinality, semantic, stylegan2, stylegan3
from ganaug.published.container import open_tree
from ganaug.published.tree import InertModule

Read = Callable[[Any], PublishedModel | None]

# Layout -> function of a tree: the model, or None if the tree is of another layout. A tree that is of this layout, but
# cannot be served, raises CheckpointError with the reason (without the file's name, which is added here).
FORMATS: dict[str, Read] = {
    "stylegan2": stylegan2.read,
    "stylegan3": stylegan3.read,
    "semantic": semantic.read,
    "encoders": encoders.read,
    "rosinality": rosinality.read,
    "mmagic": mmagic.read,
}


def read_model(path: Path) -> PublishedModel:
    """Opens a foreign checkpoint: a generator, with its encoder where the file holds one.

    Raises:
        CheckpointError: For a file that is damaged, hostile, too big for what it says it is, or of no known layout;
            the message names the file and the reason.
    """
    tree = open_tree(path)
    for read in FORMATS.values():
        try:
            model = read(tree)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        if model is not None:
            source = {"file": path.name, "sha256": digest(path)}
            return PublishedModel({**model.description, "source": source}, model.parts)
    raise CheckpointError(f"{path}: {_summary(tree)} is no known generator; known layouts: {', '.join(FORMATS)}")


def _summary(tree: Any) -> str:
    """What a tree looks like from above, in a few words."""
    if isinstance(tree, dict):
        names = [str(name)[:40] for name in list(tree)[:6]]
        return f"a dict with {', '.join(names) or 'nothing'}{', ...' if len(tree) > 6 else ''}"
    if isinstance(tree, InertModule):
        return f"a pickled {tree.class_name[:60]}"
    return f"a {type(tree).__name__}"
