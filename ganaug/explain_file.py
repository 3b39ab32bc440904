"""How one exported picture came about: what it says of itself, and whether its recipe gives these pixels."""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganaug.batches import find_images
from ganaug.content_credentials import has_credentials, read_credentials
from ganaug.dataset import GANAugmentedDataset
from ganaug.errors import UserInputError
from ganaug.explain import Explanation, Pixels, recipe_facts
from ganaug.export import as_uint8
from ganaug.provenance import Recipe
from ganaug.stage import replay
from ganaug.synthetic import mark_of, open_picture

# A convolution of another batch size rounds differently. Of 100 faces of FairFace, exported in batches of 32 and made
# again one by one on the same core, 16 were identical; of the others 0.02 % of the values at most differed, by one grey
# level. Ten times that share passes.
ROUNDING_LEVELS, ROUNDING_SHARE = 1, 0.002


def explain_file(
    path: str | Path, recipes: str | Path | None = None, trust: str | Path | None = None
) -> tuple[Explanation, Recipe | None]:
    """What a picture says of itself: its mark, its Content Credentials, and its line in the list of an export.

    Args:
        path: The picture.
        recipes: ``recipes.jsonl`` of the export, or a file of :func:`ganaug.provenance.write_recipes`.
        trust: See :func:`ganaug.content_credentials.read_credentials`.

    Returns:
        The explanation, and the recipe if any of the three has one: the mark's, else the list's, else the signed one.

    Raises:
        ImageError: If the file is no picture.
        UserInputError: If ``recipes`` or ``trust`` cannot be read.
    """
    path = Path(path)
    image = open_picture(path)
    mark, pixels = mark_of(image), np.asarray(image.convert("RGB"))
    facts: dict[str, Any] = {
        "file": str(path),
        "sha256": sha256(path.read_bytes()).hexdigest(),
        "pixels": [pixels.shape[1], pixels.shape[0]],
        "mark": mark,
        "credentials": None,
    }
    if has_credentials(path):
        try:
            facts["credentials"] = read_credentials(path, trust)
        except UserInputError as error:
            if trust is not None:
                raise
            facts["credentials"] = {"not_verified": str(error)}
    found: dict[str, Recipe] = {}
    for name, values in (("mark", mark), ("signed", facts["credentials"])):
        if values and "recipe" in values:
            found[name] = _recipe(values["recipe"], f"{path}: its recipe ({name})")
    if recipes is not None:
        listed = _listed(Path(recipes), path, found.get("mark"))
        facts["listed"] = {"in": str(recipes), "line": None if listed is None else listed[0]}
        if listed is not None:
            found["list"] = listed[1]
    if found:
        facts["recipe_from"] = list(found)
        facts["recipes_agree"] = len({json.dumps(recipe.to_dict(), sort_keys=True) for recipe in found.values()}) == 1
    recipe = next((found[name] for name in ("mark", "list", "signed") if name in found), None)
    if recipe is not None:
        facts["variant"] = recipe_facts(recipe)
    fingerprint = str((mark or {}).get("generator", ""))
    return Explanation(facts, {"file": pixels}, fingerprint), recipe


def compare_replay(
    train: GANAugmentedDataset, recipe: Recipe, pixels: Pixels, device: str | torch.device = "cpu"
) -> tuple[dict[str, Any], Pixels]:
    """Makes a picture again from its recipe and compares.

    Args:
        train: Wrapped dataset as it was when the picture was made.
        recipe: Of the picture.
        pixels: ``(H, W, 3)`` uint8, the picture.
        device: Where to make it.

    Returns:
        JSON-able ``agrees`` (``"identical"``, ``"but for rounding"`` or ``"no"``), ``max_difference`` in grey levels
        and ``share_that_differs`` of the values; and the replayed picture.

    Raises:
        UserInputError: If the dataset has no such photo or no such edit, or makes pictures of another size.
    """
    try:
        batch = replay(train, recipe, device)
    except ValueError as error:  # UserInputError is one too
        raise UserInputError(f"the recipe cannot be replayed: {error}") from error
    except (KeyError, OverflowError) as error:  # parameters that the edit does not have, or out of all range
        raise UserInputError(f"the recipe cannot be replayed: {error!r}") from error
    made = as_uint8(train, batch[find_images(batch)])[0]
    if made.shape != pixels.shape:
        raise UserInputError(f"the picture has {_size(pixels)} px, the dataset makes {_size(made)} px: say --size")
    difference = np.abs(made.astype(np.int16) - pixels)
    largest, share = int(difference.max()), float((difference > 0).mean())
    close = largest <= ROUNDING_LEVELS and share <= ROUNDING_SHARE
    agrees = "identical" if largest == 0 else "but for rounding" if close else "no"
    return {"agrees": agrees, "max_difference": largest, "share_that_differs": round(share, 6)}, made


def _listed(recipes: Path, path: Path, marked: Recipe | None) -> tuple[int, Recipe] | None:
    """Number of the line, from 1, and recipe of a picture: by its file, else the line that is as its mark says."""
    try:
        lines = recipes.read_text(errors="surrogateescape").splitlines()
    except OSError as error:
        raise UserInputError(f"{recipes}: cannot read recipes: {error.strerror or error}") from error
    equal, here = None, _below(recipes.parent, path)
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):  # a line that a kill has torn
            continue
        if not isinstance(values, dict) or "key" not in values:
            raise UserInputError(f"{recipes}, line {number}: no recipe of ganaug")
        if here is not None and values.get("file") == here:
            return number, _recipe(values, f"{recipes}, line {number}")
        if equal is None and marked is not None and values["key"] == marked.key:
            recipe = _recipe(values, f"{recipes}, line {number}")
            equal = (number, recipe) if recipe == marked else None
    return equal


def _below(folder: Path, path: Path) -> str | None:
    """What an export calls a file that lies in its folder; None elsewhere."""
    try:
        return path.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        return None


def _recipe(values: Mapping[str, Any], where: str) -> Recipe:
    try:
        return Recipe.from_dict(values)
    except UserInputError as error:
        raise UserInputError(f"{where}: {error}") from error


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"
