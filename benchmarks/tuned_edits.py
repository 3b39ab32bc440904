"""Do edits still edit after tuning? Attributes of edited faces, from caches of the same photos.

    python benchmarks/tuned_edits.py --data ../shared/data --out DIR --cache PLAIN.lmdb --tuned TUNED.lmdb [...]
        [--faces 64] [--photos fairface|london]

``--cache`` was made without tuning; each ``--tuned`` is any other cache of the same photos: records with deltas
(``--inverter pivotal``), of a tuned generator (``ganaug tune``), or of more steps. Every cache is drawn by the
generator that it names, or by ``--generator`` and ``--tuned-generator`` where that has moved. ``DIR`` has the judges of
benchmarks/edits.py (they are trained there first).

The faces that all caches have get every named edit with the strengths and partners that a policy draws, the same in all
caches, and are drawn as ``paste="aligned"`` serves them.

``moves``: how far the edited face moves from the face without edit, in standard deviations of the attribute over
FairFace ``val``: along the sign of the edit where it has one, else its size; of edits without an attribute, the root
mean square change of the pixels in the ellipses of their part. ``share``: the mean movement against the plain cache,
with the 95 % interval of 2,000 bootstrap samples of the faces; the aim is 80 % or more. ``identity``: median cosine of
MobileFaceNet between the edited face and the photo.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edit_measures as measures
import numpy as np
import torch
import torch.nn.functional as F
from attributes import AttributeJudge, fairface, load_judge
from edit_faces import ellipse_masks, labels_of, read_faces
from edits import MEANS, NAMED, SEED, resolve, signs_of
from judge import Judge
from torch import Tensor
from torch.utils.data import Dataset

from ganaug import GANAugmentedDataset, LatentCache, load_generator
from ganaug.interfaces import Edit, Generator
from ganaug.preview import only
from ganaug.provenance import BatchRecipe
from ganaug.sheet import contact_sheet
from ganaug.stage import DeviceStage

CPU = torch.device("cpu")
BOOTSTRAPS, INTERVAL = 2000, (0.025, 0.975)
AIM = 0.8


class Chips(Dataset[tuple[Tensor, int]]):
    """Pictures ``(3, R, R)`` in [0, 1] as a dataset, the places of its samples as their labels."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], index


class Drawn:
    """The faces of one cache, drawn as the loader draws them.

    Args:
        cache: Its path.
        generator: Its generator; None for the one that it names.
        keys: Which faces.
        names: Edits that may be asked for.
        photos: ``(N, 3, R, R)`` in [0, 1], the photos' chips.
    """

    def __init__(
        self, cache: Path, generator: Generator | None, keys: list[str], names: list[str], photos: Tensor
    ) -> None:
        self.keys, self.photos = keys, photos
        self.train = GANAugmentedDataset(
            Chips(photos),
            cache,
            ratio=1.0,
            edits=names,
            classical=None,
            seed=SEED,
            key=keys.__getitem__,
            generator=generator,
            paste="aligned",
            gate=None,
        )
        self.stage = DeviceStage(self.train, CPU)
        self.edits = {edit.name: edit for edit in self.train.policy.edits}
        self.base = self._draw(self._recipe())

    def edited(self, name: str) -> tuple[Tensor, Tensor | None]:
        """Pictures ``(N, 3, R, R)`` with an edit; and ``(N,)`` which way it goes, see ``signs_of``."""
        edit = self.edits[name]
        recipe = self._recipe(edit)
        return self._draw(recipe), signs_of(edit, recipe.edit_params[name])

    def _recipe(self, edit: Edit | None = None) -> BatchRecipe:
        return only(self.train, np.arange(len(self.keys)), self.keys, edit)

    def _draw(self, recipe: BatchRecipe) -> Tensor:
        latents = self.train.latents_for(recipe)
        rows = np.flatnonzero(recipe.is_generated)
        if len(rows) < len(self.keys):
            raise SystemExit(f"{self.train.cache.path}: {len(self.keys) - len(rows)} records cannot be used")
        return self.stage.augmenter.generate(self.photos, recipe, rows, latents)


@dataclass
class Judges:
    """Who looks at the pictures.

    Attributes:
        attributes: Of attributes.
        spread: Attribute -> ``(K,)`` standard deviation of its scores over ``val``.
        identity: MobileFaceNet.
        who: ``(N, 128)``, its embeddings of the photos.
        parts: Edit -> ``(N, R, R)`` bool, where its part is.
    """

    attributes: AttributeJudge
    spread: dict[str, Tensor]
    identity: Judge
    who: Tensor
    parts: dict[str, Tensor]

    def likeness(self, images: Tensor) -> float:
        return float(F.cosine_similarity(self.identity(images), self.who).median())

    def movement(self, name: str, base: Tensor, edited: Tensor, signs: Tensor | None) -> Tensor:
        """``(N,)``: how far each face moves; NaN where its part has no pixels."""
        meant = MEANS.get(name)
        if meant is None:
            inside = self.parts.get(name, torch.ones(base.shape[0], *base.shape[2:], dtype=torch.bool))
            return measures.change_in_and_out(base, edited, inside)[0].sqrt()
        scores = [self.attributes(images)[meant] for images in (base, edited)]
        moves = measures.standard_moves(*scores, self.spread[meant])
        return measures.sizes(moves) if signs is None else moves[:, 0] * signs


def share_of(tuned: Tensor, plain: Tensor) -> dict[str, float]:
    """Mean movement ``(N,)`` against the plain one, and its bootstrap interval: faces are drawn, each with both.

    Example:
        >>> share_of(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))
        {'share': 0.5, 'low': 0.5, 'high': 0.5}
    """
    known = torch.isfinite(tuned) & torch.isfinite(plain)
    tuned, plain = tuned[known].double(), plain[known].double()
    rows = torch.randint(len(plain), (BOOTSTRAPS, len(plain)), generator=torch.Generator().manual_seed(0))
    shares = tuned[rows].mean(dim=1) / plain[rows].mean(dim=1)
    low, high = torch.quantile(shares, torch.tensor(INTERVAL, dtype=torch.float64)).tolist()
    return {"share": float(tuned.mean() / plain.mean()), "low": low, "high": high}


def figures_of(plain: Drawn, tuned: dict[str, Drawn], names: list[str], judges: Judges) -> dict[str, Any]:
    """Edit -> movement and identity in the plain cache, and of each tuned one also its share."""
    found: dict[str, Any] = {}
    for name in names:
        pictures, signs = plain.edited(name)
        moves = judges.movement(name, plain.base, pictures, signs)
        found[name] = {"plain": {"moves": float(moves.nanmean()), "identity": judges.likeness(pictures)}}
        for label, drawn in tuned.items():
            pictures, signs = drawn.edited(name)
            theirs = judges.movement(name, drawn.base, pictures, signs)
            identity = judges.likeness(pictures)
            found[name][label] = {"moves": float(theirs.nanmean()), "identity": identity, **share_of(theirs, moves)}
    return found


def table(figures: dict[str, Any], labels: list[str]) -> str:
    """Markdown."""
    header = ["edit", "moves, plain", "identity, plain"]
    header += [f"{what}, {label}" for label in labels for what in ("share", "95 %", "identity")]
    base = ["no edit", "-", f"{figures['inversions']['plain']:.3f}"]
    base += [cell for label in labels for cell in ("-", "-", f"{figures['inversions'][label]:.3f}")]
    rows = [header, ["---"] * len(header), base]
    for name, found in figures["edits"].items():
        row = [name, f"{found['plain']['moves']:.3f}", f"{found['plain']['identity']:.3f}"]
        for label in labels:
            one = found[label]
            row += [f"{one['share']:.2f}", f"{one['low']:.2f} to {one['high']:.2f}", f"{one['identity']:.3f}"]
        rows.append(row)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    for label in labels:
        shares = {name: found[label]["share"] for name, found in figures["edits"].items()}
        least = min(shares, key=lambda name: shares[name])
        few = [name for name, share in shares.items() if share < AIM]
        lines.append(
            f"\n{label}: {np.mean(list(shares.values())):.2f} on average, least {shares[least]:.2f} ({least}); "
            f"below {AIM}: {', '.join(few) or 'none'}"
        )
    return "\n".join(lines)


def write_sheet(plain: Drawn, tuned: dict[str, Drawn], names: list[str], path: Path, count: int = 8) -> None:
    """Photos, inversions and each edit, one row for each cache. Real faces: it stays in DIR."""
    every = {"plain": plain, **tuned}
    rows = [("photo", plain.photos[:count]), *((label, drawn.base[:count]) for label, drawn in every.items())]
    for name in names:
        rows += [(f"{name}\n{label}", drawn.edited(name)[0][:count]) for label, drawn in every.items()]
    contact_sheet(rows, 112, caption_width=8 * max(12, *map(len, every))).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of judges; figures and sheet are written there")
    parser.add_argument("--cache", type=Path, required=True, help="cache without tuning")
    parser.add_argument("--tuned", type=Path, action="append", required=True, help="cache with it; may be repeated")
    parser.add_argument("--generator", help="of --cache (default: the one that it names)")
    parser.add_argument("--tuned-generator", action="append", default=[], help="of each --tuned, in order; or 'same'")
    parser.add_argument("--photos", choices=("fairface", "london"), default="fairface")
    parser.add_argument("--faces", type=int, default=64)
    parser.add_argument("--edits", default=",".join(NAMED), help="names, separated by commas")
    args = parser.parse_args()
    started = time.process_time()
    args.out.mkdir(parents=True, exist_ok=True)

    common = set(labels_of(args.photos, args.data))
    for path in (args.cache, *args.tuned):
        common &= set(LatentCache(path).keys())
    keys = sorted(common)[: args.faces]
    if not keys:
        raise SystemExit(f"no photo of {args.photos} has a record in all of the caches")
    generator = load_generator(args.generator or LatentCache(args.cache).header.generator)
    names = [edit.name for edit in resolve(args.edits.split(","), generator, None)[0]]
    faces = read_faces(args.photos, args.data, args.cache, generator, keys)
    photos = faces.chips(faces.items)

    plain = Drawn(args.cache, generator, keys, names, photos)
    others = [None if name == "same" else load_generator(name) for name in args.tuned_generator]
    others += [None] * (len(args.tuned) - len(others))
    tuned = {}
    for path, other in zip(args.tuned, others, strict=True):
        label = path.stem if path.stem not in tuned and path.stem != "faces" else f"{path.parent.name}/{path.stem}"
        tuned[label] = Drawn(path, other, keys, names, photos)

    judge, identity = load_judge(args.data, args.out), Judge(args.data)
    spread = {name: scores.std(dim=0) for name, scores in judge(fairface(args.data, "val", args.out)[0] / 255).items()}
    parts = ellipse_masks(judge(photos)["points"], photos.shape[3])
    judges = Judges(judge, spread, identity, identity(photos), parts)
    figures: dict[str, Any] = {"faces": len(keys), "plain": str(args.cache), "tuned": [str(p) for p in args.tuned]}
    figures["inversions"] = {"plain": judges.likeness(plain.base)}
    figures["inversions"] |= {label: judges.likeness(drawn.base) for label, drawn in tuned.items()}
    figures["edits"] = figures_of(plain, tuned, names, judges)
    figures["cpu_seconds"] = round(time.process_time() - started)
    text = table(figures, list(tuned))
    print(f"{len(keys)} photos of {args.photos}, identity to the photo is the median cosine of MobileFaceNet\n\n{text}")
    (args.out / "tuned-edits.json").write_text(json.dumps(figures, indent=2) + "\n")
    (args.out / "tuned-edits.md").write_text(text + "\n")
    write_sheet(plain, tuned, names, args.out / "tuned-edits.png")
    print(f"\n{figures['cpu_seconds']} s of CPU; figures and pictures are in {args.out}")


if __name__ == "__main__":
    main()
