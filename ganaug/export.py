"""Variants as files: for those who train with something else, or want to keep what was made."""

import csv
import hashlib
import io
import json
import os
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from ganaug.batches import find_images
from ganaug.content_credentials import ContentSigner, source_type, variant_manifest
from ganaug.dataset import GANAugmentedDataset
from ganaug.faces.sources import list_attributes
from ganaug.interfaces import CacheError, UserInputError
from ganaug.provenance import Recipe
from ganaug.synthetic import save_synthetic

IMAGES, MANIFEST, RECIPES, STATE = "images", "manifest.csv", "recipes.jsonl", "export.json"
FORMAT = "ganaug-export-1"
COLUMNS = ("file", "key", "epoch", "variant", "label", "edits", "scale", "identity")
NUM_WRITERS = 4  # threads: zlib works without the interpreter's lock


def export_variants(
    train: GANAugmentedDataset,
    out: str | Path,
    variants_per_image: int = 1,
    batch_size: int = 32,
    device: str | torch.device = "cpu",
    num_workers: int = 0,
    progress: bool = True,
    signer: ContentSigner | None = None,
) -> dict[str, Any]:
    """Writes the variants of a dataset as PNG files; killed and run again, it continues.

    What is written of epoch N is what a training loop sees then. Real images are not written: at a ratio below 1 a face
    has fewer files than ``variants_per_image``, and so it has where a gate rejects a variant.

    ``out`` then holds ``images/KEY.vN.png``, each with the text chunk ``ganaug:synthetic`` (generator and recipe);
    ``recipes.jsonl``, a line of :meth:`Recipe.to_dict` with ``file`` for each; ``manifest.csv``, a row for each; and
    ``export.json``, its settings and how far it has come. A dataset with extra variants (``extra=``) has those of
    their own number as ``KEY.vN.M.png``.

    Args:
        train: Wrapped dataset. Its classical augmentation and degradation are applied: say None for neither.
        out: Folder; made if it is not there.
        variants_per_image: Number of epochs.
        batch_size: Faces at a time. Part of the exact result: a convolution of another batch size rounds differently.
        device: Where to make variants.
        num_workers: Processes that read images.
        progress: Show a progress bar.
        signer: Signs every file, see :mod:`ganaug.content_credentials`; pixels and marks stay as they are without.

    Returns:
        Figures: images written in all and by this call, what became of the other draws, seconds.

    Raises:
        UserInputError: If ``out`` holds an export with other settings, or an argument is out of range.
        CacheError: If no sample has latents.
    """
    if variants_per_image < 1:
        raise UserInputError(f"variants_per_image must be at least 1, got {variants_per_image}")
    if not train.coverage:
        raise CacheError(f"no sample of the dataset has latents in {train.cache.path}")
    started = time.monotonic()
    loader = train.loader(batch_size, num_workers=num_workers, device=device, return_info=True)
    files = _Files(Path(out), _settings(train, variants_per_image, batch_size, signer))
    loader.load_state_dict(files.position or loader.state_dict())
    labels = _labels(train)
    before, total = files.counts["generated"], variants_per_image * len(loader)
    bar = tqdm(total=total, initial=files.batches, unit="batch", desc="exporting", disable=None if progress else True)
    with bar, ThreadPoolExecutor(NUM_WRITERS) as pool:
        while int(loader.state_dict()["epoch"]) < variants_per_image:
            for batch in loader:
                recipes: list[Recipe] = (batch if isinstance(batch, dict) else batch[-1])["recipe"]
                made = [_rounded(recipe) for recipe in recipes if recipe.is_generated]
                at = [row for row, recipe in enumerate(recipes) if recipe.is_generated]
                faces = map(Image.fromarray, as_uint8(train, batch[find_images(batch)][at]))
                names = [file_name(recipe) for recipe in made]
                marks = [{"generator": train.header.fingerprint, "recipe": recipe.to_dict()} for recipe in made]
                seals = _seals(train, made, names, signer)
                list(pool.map(save_synthetic, faces, [files.out / name for name in names], marks, seals))
                files.add(names, made, [labels.get(recipe.key, "") for recipe in made])
                files.commit(Counter(recipe.source.name.lower() for recipe in recipes), loader.state_dict())
                bar.update()
    return {**files.counts, "written_now": files.counts["generated"] - before, "seconds": _since(started)}


def file_name(recipe: Recipe) -> str:
    """Where a variant lies under the export's folder.

    The sample's key is kept, folders and suffix included, so that no two samples share a file. What could leave the
    folder or be refused by a file system is written as in an address (RFC 3986).

    Example:
        >>> from ganaug.provenance import Recipe, Source
        >>> file_name(Recipe("ann/00.jpg", epoch=2, seed=0, source=Source.GENERATED))
        'images/ann/00.jpg.v2.png'
        >>> file_name(Recipe("../a b?.png", epoch=0, seed=0, source=Source.GENERATED, variant=3))
        'images/%2E%2E/a b%3F.png.v0.3.png'
    """
    parts = [_safe(part) for part in recipe.key.split("/") if part]
    number = f"v{recipe.epoch}.{recipe.variant}" if recipe.variant else f"v{recipe.epoch}"
    return "/".join([IMAGES, *parts]) + f".{number}.png"


def _safe(part: str) -> str:
    """One name of a path, without what has a meaning in one."""
    if not part.strip("."):
        return part.replace(".", "%2E")
    return urllib.parse.quote(part.encode(errors="surrogateescape"), safe=" #+,=@()~")


class _Files:
    """What an export has written so far. A batch counts when ``export.json`` says so; what lies beyond is cut off."""

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self.out, self.settings = out, settings
        self.position: dict[str, Any] | None = None
        self.batches = 0
        self.counts: Counter[str] = Counter(generated=0)
        self.sizes = {RECIPES: 0, MANIFEST: 0}
        out.mkdir(parents=True, exist_ok=True)
        if (out / STATE).exists():
            self._continue()
        elif any(path.suffix != ".tmp" for path in out.iterdir()):
            raise UserInputError(f"{out} is not empty and holds no export to continue: give a new folder")
        else:
            self.commit(Counter(), None)
        for name, size in self.sizes.items():
            with open(out / name, "ab") as file:
                file.truncate(size)
        if not self.sizes[MANIFEST]:
            self._append(MANIFEST, _csv_lines([COLUMNS]))

    def _continue(self) -> None:
        try:
            state = json.loads((self.out / STATE).read_text())
            theirs, self.position, self.batches = state["settings"], state["position"], int(state["batches"])
            self.counts.update({str(name): int(count) for name, count in state["counts"].items()})
            self.sizes = {name: int(state["sizes"][name]) for name in self.sizes}
            known = state["format"] == FORMAT
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserInputError(f"{self.out / STATE}: damaged, {error!r}; export to a new folder") from error
        mine = json.loads(json.dumps(self.settings))
        names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
        if not known or names:
            told = "; ".join(f"{name} {theirs.get(name)!r} there, {mine.get(name)!r} now" for name in names)
            raise UserInputError(f"{self.out} holds an export with other settings ({told}): give a new folder")
        short = [name for name, size in self.sizes.items() if _size(self.out / name) < size]
        if short:
            raise UserInputError(f"{self.out / short[0]} was cut off or is gone: export to a new folder")

    def add(self, names: Sequence[str], recipes: Sequence[Recipe], labels: Sequence[str]) -> None:
        """Lists files that lie on the disk."""
        lines = [json.dumps({"file": name, **recipe.to_dict()}) for name, recipe in zip(names, recipes, strict=True)]
        self._append(RECIPES, "".join(f"{line}\n" for line in lines))
        rows = []
        for name, recipe, label in zip(names, recipes, labels, strict=True):
            edits = ";".join(edit.name for edit in recipe.edits)
            identity = "" if recipe.identity is None else recipe.identity
            rows.append((name, recipe.key, recipe.epoch, recipe.variant, label, edits, recipe.scale, identity))
        self._append(MANIFEST, _csv_lines(rows))

    def commit(self, sources: Counter[str], position: dict[str, Any] | None) -> None:
        """Counts a batch and says so on the disk."""
        self.counts.update(sources)
        self.batches += position is not None
        self.position = position
        state = {
            "format": FORMAT,
            "settings": self.settings,
            "position": position,
            "batches": self.batches,
            "counts": self.counts,
            "sizes": self.sizes,
        }
        temporary = self.out / f".{STATE}.tmp"
        temporary.write_text(json.dumps(state, indent=2) + "\n")
        os.replace(temporary, self.out / STATE)

    def _append(self, name: str, text: str) -> None:
        data = text.encode(errors="surrogateescape")  # the name of a photo need not be UTF-8
        with open(self.out / name, "ab") as file:
            file.write(data)
        self.sizes[name] += len(data)


def _seals(
    train: GANAugmentedDataset, made: Sequence[Recipe], names: Sequence[str], signer: ContentSigner | None
) -> list[Callable[[bytes], bytes] | None]:
    """For each variant what signs its file."""
    if signer is None:
        return [None] * len(made)
    keys = sorted({key for recipe in made for key in [recipe.key, *(edit.partner for edit in recipe.edits)] if key})
    found = train.cache.get_many(keys).source_hashes
    hashes = {key: bytes(row).hex() for key, row in zip(keys, found, strict=True)}
    generator = {"name": Path(train.header.generator).name, "fingerprint": train.header.fingerprint}
    kind = source_type(train.paste, train.residual, train.background is not None)
    manifests = [
        {**variant_manifest(recipe, generator, hashes, kind), "title": name.rpartition("/")[2]}
        for recipe, name in zip(made, names, strict=True)
    ]
    return [partial(signer, manifest=manifest) for manifest in manifests]


def _settings(
    train: GANAugmentedDataset, variants_per_image: int, batch_size: int, signer: ContentSigner | None = None
) -> dict[str, Any]:
    """What decides the files. The policy itself may hold functions; of it, the first draws are compared."""
    policy, count = train.policy, min(batch_size, len(train))
    draws = [r.to_dict() for e in range(min(variants_per_image, 2)) for r in train.draw(range(count), e).rows()]
    return {
        "generator": train.header.fingerprint,
        "samples": len(train),
        "keys": _digest([item.key for item in train.items]),
        "seed": policy.seed,
        "ratio": _plain(policy.ratio),
        "edits": [edit.name for edit in policy.edits],
        "preserve": list(policy.preserve),
        "paste": train.paste,
        **({} if train.residual is None else {"residual": train.residual}),  # so that older exports can go on
        **({"min_quality": train.min_quality} if train.min_quality else {}),
        **({} if signer is None else {"signed_by": signer.fingerprint}),
        "variants_per_image": variants_per_image,
        "batch_size": batch_size,
        "first_draws": _digest(draws),
    }


def _plain(ratio: Any) -> Any:
    """A ratio as JSON can hold it."""
    if isinstance(ratio, Mapping):
        return {name: _plain(value) for name, value in ratio.items()}
    return "a function" if callable(ratio) else ratio


def _rounded(recipe: Recipe) -> Recipe:
    """With an identity score of four digits: the others depend on what else the network looked at in that call."""
    return recipe if recipe.identity is None else replace(recipe, identity=round(recipe.identity, 4))


def _labels(train: GANAugmentedDataset) -> dict[str, str]:
    """Key -> label, where the dataset keeps labels."""
    labels = list_attributes(train.dataset).get("label", [])
    return {item.key: label for item, label in zip(train.items, labels, strict=False)}


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def as_uint8(train: GANAugmentedDataset, images: torch.Tensor) -> NDArray[np.uint8]:
    """Images as the loader serves them -> ``(K, H, W, 3)``."""
    if images.dtype != torch.uint8:
        if train.normalization is not None:
            images = train.normalization.to(images.device).to_unit(images)
        images = (images.float().clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu().numpy())


def _csv_lines(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)
