"""What a model file says of itself, for cards and explanations: nothing that is not in the file is said."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ganaug.checkpoints import Model, open_model
from ganaug.errors import CheckpointError
from ganaug.known_weights import known_by_digest

NOT_STATED = "not stated in the file"


def model_facts(source: str | Path | Model) -> dict[str, Any]:
    """Facts of a model file; its networks are not built.

    Args:
        source: A name or a file, see :func:`ganaug.checkpoints.open_model`.

    Returns:
        JSON-able: ``name``, ``family``, ``licence``, ``trained_on`` and what else the description has of
        ``img_resolution``, ``images_seen``, ``threshold``, ``template``, ``privacy``, ``tuned_from``. Of a file that
        is gone or damaged ``name`` and ``missing``, the reason.
    """
    try:
        model = open_model(source)
    except CheckpointError as error:
        return {"name": Path(str(source)).name, "missing": str(error)}
    described = model.description
    training, config = _mapping(described.get("training")), _mapping(described.get("config"))
    known = known_by_digest(_said(_mapping(described.get("source")).get("sha256")) or "")
    optional = {
        "img_resolution": config.get("img_resolution"),
        "images_seen": training.get("images_seen"),
        "threshold": described.get("threshold"),
        "template": described.get("template"),
        "privacy": described.get("privacy"),
        "tuned_from": _mapping(described.get("tuned_from")).get("name"),
    }
    return {
        "name": model.path.name.removesuffix(".safetensors"),
        "family": _said(described.get("family")) or NOT_STATED,
        "licence": _said(described.get("licence")) or (NOT_STATED if known is None else known.licence),
        "trained_on": _said(training.get("data")) or NOT_STATED,
        **{name: value for name, value in optional.items() if value is not None},
    }


def _said(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
