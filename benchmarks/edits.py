"""Do edits change what they are named after, and nothing else? By judges that no edit was made with.

    python benchmarks/edits.py --data ../shared/data --out DIR [--quick] [--parts edits,gate,label,sheets]
        [--edits NAMES] [--directions FILE] [--model NAME|FILE]

Faces: the first 256 of FairFace ``val``, and 64 photos of the 32 people of the London set that the smile judge was not
fitted to; inverted by ``hybrid 50``. Every edit is drawn as a policy draws it, with the strengths that it ships with.

- ``edits``: attributes (``attributes.py``), pixels inside and outside of the part, identity (MobileFaceNet, against the
  inversion), in the generator's chips; and once more after pasting into the photos, against the photos.
- ``gate``: the loader with ``preserve=["identity"]``: what is accepted, of whom, and how alike it is; and without.
- ``label``: the loader with ``preserve=["label"]`` for gender, race and age group (to 19, to 39, older) on the first
  1,000 of ``val`` inverted by ``encoder``, since labels are read off the codes of the dataset itself: verdicts that
  flip; without; and, for gender and race, with the gate that a label of that name or ``preserve=["gender"]`` brings.
- ``sheets``: a picture of each edit from weak to strong.

Movement is in standard deviations of a score over ``val``; "other" is the attribute that moves most of those that the
edit neither means nor says that it touches. Its size is the mean distance, to which the judge's noise adds; its drift
is how far all faces move together.

Everything is kept under DIR: judges (8 minutes of one core, once), inversions (4 minutes, once), ``edits.json`` and
``edits.md``. The rest takes about 12 minutes; ``--quick`` under 5 for everything.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import edit_measures as measures
import torch
import torch.nn.functional as F
from attributes import EPOCHS, AttributeJudge, accuracy, detail_accuracy, fairface, load_judge
from edit_faces import Faces, Parser, ellipse_masks, load_faces, parsed_masks, render
from edit_sheets import write_sheets
from edit_tables import edit_table, gate_tables, judge_table, label_table, verdicts
from judge import Judge
from served import gate_figures, label_figures
from torch import Tensor

from ganaug import load_generator, rng
from ganaug.edits import Direction, build_edits
from ganaug.edits.stored import load_directions
from ganaug.faces.align import to_model_range
from ganaug.faces.paste import paste
from ganaug.interfaces import NUM_EDIT_UNIFORMS, Edit, Generator, UserInputError

NAMED = (
    *("hair", "lighting", "expression", "age", "gender", "pose", "glasses", "skin", "background", "makeup"),
    *("eyes", "brows", "nose", "mouth", "ears"),
)
# What an edit is to move: scores of the judge; of the others, pixels of the part.
MEANS = {name: name for name in ("lighting", "expression", "age", "gender", "pose", "skin", "glasses")}
SEED = 6
PARTS = ("edits", "gate", "label", "sheets")


def resolve(names: list[str], generator: Generator, directions: str | None) -> tuple[list[Edit], dict[str, str]]:
    """Edits by name, from a directions file if one is given and has it; and why the others are not there."""
    found = {} if directions is None else {edit.name: edit for edit in load_directions(directions, generator)}
    built: list[Edit] = []
    missing = {}
    for name in names:
        try:
            built += [found[name]] if name in found else build_edits([name], generator)
        except UserInputError as error:
            missing[name] = str(error)
    return built, missing


def draw(edit: Edit, faces: Faces, epoch: int = 0) -> dict[str, Tensor]:
    """Parameters as :class:`ganaug.policy.AugmentationPolicy` draws them; partners are the next face but seven."""
    hashes = [rng.hash_text(key) for key in faces.keys]
    numbers = rng.uniforms(SEED, epoch, hashes, f"edit {edit.name}", NUM_EDIT_UNIFORMS)
    params = edit.sample_params(torch.from_numpy(numbers))
    return {**params, "partner": faces.anchor.roll(7, 0)} if edit.needs_partner else params


def signs_of(edit: Edit, params: dict[str, Tensor]) -> Tensor | None:
    """``(N,)`` +1 or -1: which way each face is to go, for edits that have one; by convention + is older, female,
    smiling, with glasses, and the nose to the right.
    """
    one_way = edit.name in ("age", "gender", "expression", "pose", "glasses") and isinstance(edit, Direction)
    return params["strength"].sign() if one_way and "strength" in params else None


class Bench:
    """Judges and faces.

    Args:
        generator: The generator.
        judge: Of attributes.
        identity: MobileFaceNet, on chips in [0, 1].
        embedder: The bundled embedder, or None where there is none yet.
        spread: Attribute -> ``(K,)`` standard deviation of its scores over ``val``.
        parser: Of parts.
    """

    def __init__(
        self,
        generator: Generator,
        judge: AttributeJudge,
        identity: Judge,
        embedder: Any,
        spread: dict[str, Tensor],
        parser: Parser,
    ) -> None:
        self.generator, self.judge, self.identity = generator, judge, identity
        self.embedder, self.spread, self.parser = embedder, spread, parser

    def figures(self, edit: Edit, faces: Faces, known: dict[str, Any]) -> dict[str, Any]:
        """All figures of an edit on a set of faces: ``chips`` and ``pasted``."""
        params = draw(edit, faces)
        codes = faces.code + edit.apply(faces.anchor, params) - faces.anchor
        drawn = render(self.generator, codes)
        items = paste(faces.items, drawn, faces.base, faces.matrices)
        signs = signs_of(edit, params)
        return {
            "chips": self.compare(edit, signs, known["base"], drawn, known["masks"]),
            "pasted": self.compare(edit, signs, known["photos"], faces.chips(items), known["masks"]),
        }

    def known_of(self, faces: Faces) -> dict[str, Any]:
        """What is the same for all edits: scores and embeddings before, and masks."""
        photos = faces.chips(faces.items)
        found = {name: self.look(images) for name, images in (("base", faces.base), ("photos", photos))}
        points = found["photos"]["scores"]["points"]
        classes = torch.cat([self.parser(part) for part in photos.split(32)])
        masks = {"ellipses": ellipse_masks(points, photos.shape[3]), "parsed": parsed_masks(classes)}
        return {**found, "masks": masks}

    def look(self, images: Tensor) -> dict[str, Any]:
        """Scores and embeddings of chips ``(N, 3, R, R)`` in [0, 1]."""
        seen = {"images": images, "scores": self.judge(images), "identity": self.identity(images)}
        if self.embedder is not None:
            with torch.no_grad():
                seen["embedder"] = torch.cat([self.embedder(to_model_range(part)) for part in images.split(64)])
        return seen

    def compare(
        self, edit: Edit, signs: Tensor | None, before: dict[str, Any], images: Tensor, masks: dict[str, Any]
    ) -> dict[str, Any]:
        """Before and after an edit."""
        after = self.look(images)
        moves = {
            name: measures.standard_moves(before["scores"][name], after["scores"][name], std)
            for name, std in self.spread.items()
        }
        meant = MEANS.get(edit.name)
        moved = {name: measures.movement(move, signs) for name, move in moves.items()}
        found: dict[str, Any] = {"moved": moved}
        if meant is not None:
            found["share"] = measures.share_moved(moves[meant], signs)
            for kind in ("size", "drift"):
                directed = signs is not None
                found[f"other, {kind}"] = measures.worst_other(moved, meant, sorted(edit.touches), kind, directed)
        for way, parts in masks.items():
            if edit.name in parts and meant is None:
                change = measures.change_in_and_out(before["images"], after["images"], parts[edit.name])
                found[f"local, {way}"] = measures.localisation(*change)
                found[f"inside, {way}"] = float(change[0].nanmean().sqrt())
        found["change"] = float((after["images"] - before["images"]).square().mean().sqrt())
        found["identity"] = measures.likeness(F.cosine_similarity(before["identity"], after["identity"]))
        if self.embedder is not None:
            cosines = F.cosine_similarity(before["embedder"], after["embedder"])
            found["embedder"] = measures.likeness(cosines, float(self.embedder.threshold))
        return found


def describe(edit: Edit) -> dict[str, Any]:
    """What an edit says of itself."""
    strength = getattr(edit, "strength", None)
    return {
        "kind": type(edit).__name__,
        "touches": sorted(edit.touches),
        "strength": None if strength is None else [round(float(value), 3) for value in strength],
    }


def load_bundled_embedder() -> Any:
    try:
        from ganaug.embedders import load_embedder
    except ImportError:
        return None
    return load_embedder("identity64", "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for judges, inversions, figures and sheets")
    parser.add_argument("--model", default="faces64")
    parser.add_argument("--quick", action="store_true", help="48 faces by hybrid 20, judges of 3 epochs, one epoch")
    parser.add_argument("--faces", type=int, help="of FairFace, instead of 256; of London a quarter as many")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--edits", default=",".join(NAMED), help="names, separated by commas")
    parser.add_argument("--directions", help="directions file whose names may be used")
    args = parser.parse_args()
    started = time.process_time()
    parts = args.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        raise SystemExit(f"unknown parts {sorted(unknown)}: expected some of {', '.join(PARTS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)

    epochs = 3.0 if args.quick and not (args.out / f"judges-{EPOCHS:g}.pt").exists() else EPOCHS
    judge, generator = load_judge(args.data, args.out, epochs), load_generator(args.model)
    steps, counts, rounds = (20, (48, 16), 1) if args.quick else (50, (256, 64), 3)
    if args.faces is not None:
        counts = (args.faces, max(args.faces // 4, 2))
    sets = [
        load_faces(name, args.data, args.out, generator, args.model, count, "hybrid", steps)
        for name, count in zip(("fairface", "london"), counts, strict=True)
    ]
    edits, missing = resolve(args.edits.split(","), generator, args.directions)
    figures: dict[str, Any] = {"model": args.model, "fingerprint": generator.fingerprint, "missing": missing}
    figures |= {"faces": {faces.name: len(faces.keys) for faces in sets}, "inverter": f"hybrid {steps}"}
    figures["described"] = {edit.name: describe(edit) for edit in edits}

    chips, labels = fairface(args.data, "val", args.out)
    scores = judge(chips.float() / 255)
    spread = {name: values.std(dim=0) for name, values in scores.items() if name != "points"}
    fair, embedder = sets[0], load_bundled_embedder()
    bench = Bench(generator, judge, Judge(args.data), embedder, spread, Parser(args.data))
    known = {faces.name: bench.known_of(faces) for faces in sets}
    figures["judges"] = {
        "val, all photos": accuracy(scores, labels),
        f"val, first {len(fair.keys)} photos": accuracy(known["fairface"]["photos"]["scores"], fair.labels),
        "the same, inversions": accuracy(known["fairface"]["base"]["scores"], fair.labels),
        "details": detail_accuracy(judge, args.data, args.out),
    }
    markdown = [judge_table(figures["judges"])]

    def add(text: str) -> None:
        """Prints, and writes what there is so far: a run that is stopped keeps its figures."""
        print(text, "\n", flush=True)
        markdown.append(text)
        figures["cpu_seconds"] = round(time.process_time() - started)
        (args.out / "edits.json").write_text(json.dumps(figures, indent=2) + "\n")
        (args.out / "edits.md").write_text("\n\n".join(markdown) + "\n")

    print(markdown[0], flush=True)
    if missing:
        add("Not there:\n\n" + "\n".join(f"- {name}: {why}" for name, why in missing.items()))
    if "sheets" in parts:
        write_sheets(edits, fair.first(8), generator, draw, args.out / "sheets")
    if "edits" in parts:
        figures["edits"] = {}
        for faces in sets:
            figures["edits"][faces.name] = {}
            for edit in edits:
                figures["edits"][faces.name][edit.name] = bench.figures(edit, faces, known[faces.name])
                print(f"{edit.name} on {faces.name}: {time.process_time() - started:.0f} s", flush=True)
            for way in ("chips", "pasted"):
                add(edit_table(figures, faces.name, way, len(faces.keys)))
        add(verdicts(figures))
    if "gate" in parts:
        figures["gate"] = gate_figures(fair, generator, edits, bench.identity, rounds)
        add(gate_tables(figures["gate"]))
    if "label" in parts:
        count = 200 if args.quick else 1000
        many = load_faces("fairface", args.data, args.out, generator, args.model, count, "encoder", 1)
        figures["label"] = label_figures(many, generator, edits, judge)
        add(label_table(figures["label"]))
    print(f"{round(time.process_time() - started)} s of CPU; figures and pictures are in {args.out}")


if __name__ == "__main__":
    main()
