"""Builds and measures the edit table of the bundled generator: ``ganaug/assets/faces64.edits.safetensors``.

    python benchmarks/edit_table.py --data ../shared/data --out DIR [--write FILE] [--sheet FOLDER] [--measure-only]

Fitted to FairFace ``train`` (labels, points, 448 faces labelled by eye for glasses), to the pairs of the London set and
to the generator's own pictures; measured on codes of FairFace ``val`` that nothing was fitted to. Codes are those of
the encoder. Kept under DIR: codes (5 minutes of one core, once) and the Jacobians of 16 faces (4 minutes, once). The
rest takes two minutes.

Global edits are directions in whitened coordinates (``edit_readings.py``), made orthogonal to the readings of all that
they must not touch. Local ones are the moves of single rows of :mod:`ganaug.edits.regions`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attributes import RACES, fairface, london
from edit_readings import LUMA, SIZE, glasses_labels, labels_of, london_pairs, pixel_scores, readings, ridge
from numpy.typing import NDArray
from torch import Tensor

from ganaug import load_generator
from ganaug.checkpoints import ASSETS
from ganaug.edits.directions import Direction
from ganaug.edits.names import NAMED_TOUCHES
from ganaug.edits.regions import REGIONS, RegionEnergy, RowBasis, localisation, region_core, region_mask
from ganaug.edits.scores import least_squares, logistic_scale
from ganaug.edits.span import Span
from ganaug.edits.stored import load_directions, write_directions
from ganaug.edits.target import Gauge
from ganaug.edits.whitening import Whitening, freed, orthonormal
from ganaug.embedders import load_embedder
from ganaug.faces.align import to_model_range, to_unit_range
from ganaug.interfaces import NUM_EDIT_UNIFORMS, Edit, Generator
from ganaug.inversion import build_inverter
from ganaug.sheet import contact_sheet

MODEL = "faces64"
PICTURES = 6000  # faces whose pictures are measured: 128 weights from 6,000 numbers are right to two percent
ROW_CODES, JACOBIAN_FACES = 4000, 16
CORRECTED_FACES = 64
MEASURED = 160  # faces of val
SOURCE = (
    "FairFace train (Karkkainen and Joo, WACV 2021, CC BY 4.0) with labels of its authors, five points and glasses by "
    "this project; Face Research Lab London Set (DeBruine and Jones, CC BY 4.0); the generator's own pictures"
)

# What no edit may move that does not name it. "mouth width" stands in for smiles, of which FairFace has no labels.
RACE = tuple(f"race {race}" for race in RACES)
PERSON = ("gender", "age", "yaw", "pitch", "smile", "glasses", *RACE)
LIGHT = ("brightness", "side", "height", "warmth")

# Name -> reading, what it is freed of, and strength in standard deviations of the codes of photos; by eye: from what is
# seen on most faces to what leaves faces whole.
DIRECTIONS: dict[str, tuple[str, tuple[str, ...], tuple[float, float]]] = {
    "age": ("age", (*PERSON, *LIGHT, "mouth width"), (2.0, 3.5)),
    "gender": ("gender", (*PERSON, *LIGHT, "mouth width"), (2.0, 3.5)),
    "expression": ("smile", (*PERSON, *LIGHT), (2.25, 4.0)),
    "pose": ("yaw", (*PERSON, *LIGHT), (1.5, 2.75)),
    "glasses": ("glasses", (*PERSON, *LIGHT), (4.5, 7.0)),
}
GLASSES_PENALTY = 12.0  # five draws thicker frames, and changes as much around the mask as a quarter of that inside
LIGHTING_STRENGTH = (1.5, 2.75)
# Name -> number of axes, penalty on change outside, and strength in standard deviations of the rows of codes. Nobody's
# hair ends where the ellipse does: it needs more of a margin.
LOCAL: dict[str, tuple[int, float, tuple[float, float]]] = {
    "hair": (6, 25.0, (4.0, 6.0)),
    "background": (7, 10.0, (3.0, 5.0)),
    "eyes": (4, 10.0, (2.5, 4.5)),
    "brows": (3, 10.0, (3.0, 5.0)),
    "nose": (4, 10.0, (3.0, 5.5)),
    "mouth": (4, 10.0, (2.5, 4.5)),
}
# Colours of a part: red, green and blue that rise and fall. Dark red lips and pale ones; dark lids and light ones.
LIPS, LIDS, TAN = (-0.1, -1.0, -0.8), (-0.33, -0.33, -0.33), (1.0, -0.2, -1.0)
MAKEUP_STRENGTH, SKIN_STRENGTH, COLOUR_PENALTY, DARKER = (2.5, 5.0), (2.5, 4.5), 50.0, 0.6
UNSUPPORTED = {"ears": "the chips that this generator was trained on end beside the cheeks and show no ears"}
DEFAULTS = ("lighting", "expression", "hair", "background", "pose", "makeup")


def encoded(name: str, chips: Tensor, generator: Generator, out: Path) -> NDArray[np.float32]:
    """``(N, L, D)`` of chips ``(N, 3, 64, 64)`` uint8, kept under ``out``."""
    cached = out / f"codes-{name}.npy"
    if not cached.exists():
        inverter = build_inverter("encoder", generator, MODEL, torch.device("cpu"), 1)
        parts = [inverter.invert(part.float() / 127.5 - 1).w_plus for part in chips.split(64)]
        np.save(cached, torch.cat(parts).numpy())
    return np.load(cached)  # type: ignore[no-any-return]


@torch.no_grad()
def render(generator: Generator, codes: Tensor) -> Tensor:
    """``(N, L, D)`` -> ``(N, 3, R, R)`` in [0, 1]."""
    return torch.cat([to_unit_range(generator.synthesis(part)) for part in codes.split(32)])


def jacobians(generator: Generator, codes: Tensor, out: Path) -> RegionEnergy:
    """Of 16 random faces, kept under ``out``."""
    cached = out / "jacobians.pt"
    masks, cores = ({name: cut(name, SIZE) for name in REGIONS} for cut in (region_mask, region_core))
    basis = RowBasis.of(codes[:ROW_CODES])
    if not cached.exists():
        chosen = torch.randperm(len(codes), generator=torch.Generator().manual_seed(5))[:JACOBIAN_FACES]
        energy = RegionEnergy.measure(generator, codes[chosen], basis, masks, cores)
        torch.save({"inside": energy.inside, "outside": energy.outside, "mean": energy.mean}, cached)
    return RegionEnergy(basis, **torch.load(cached, weights_only=True))


def fitted(read: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Name of an edit -> unit vector along its reading, orthogonal to those of all that it must not touch."""
    found = {}
    for name, (reading, others, _) in DIRECTIONS.items():
        basis = orthonormal(np.stack([read[other] for other in others if other != reading], axis=1))
        found[name] = freed(read[reading], basis)
    return found


def corrected(
    vectors: dict[str, NDArray[np.float64]],
    read: dict[str, NDArray[np.float64]],
    whitening: Whitening,
    generator: Generator,
    codes: Tensor,
) -> dict[str, NDArray[np.float64]]:
    """Directions mixed so that in the *pictures* each moves its own attribute only, of those that have directions.

    What a move does to a picture is not quite what the codes of photos say. The pictures are encoded again and read:
    ``B[i, j]`` is how far direction i moves reading j. The rows of ``B^-1`` say which mixtures move one each.
    """
    names, inverter = list(vectors), build_inverter("encoder", generator, MODEL, torch.device("cpu"), 1)
    response = np.zeros((len(names), len(names)))
    for i, name in enumerate(names):
        size = min(sum(DIRECTIONS[name][2]) / 2, 3.0)
        move = size * whitening.move(vectors[name])
        seen = []
        for sign in (1, -1):
            pictures = to_model_range(render(generator, codes + sign * move))
            again = torch.cat([inverter.invert(part).w_plus for part in pictures.split(32)])
            seen.append(whitening.coordinates(again.numpy()).mean(axis=0))
        for j, other in enumerate(names):
            response[i, j] = (seen[0] - seen[1]) @ read[DIRECTIONS[other][0]] / (2 * size)
    mixed = np.linalg.solve(response / np.diag(response), np.stack([vectors[name] for name in names]))
    return {name: row / np.linalg.norm(row) for name, row in zip(names, mixed, strict=True)}


def direction(
    name: str, vector: NDArray[np.float64], whitening: Whitening, gauge: Gauge, energy: RegionEnergy
) -> Direction:
    """A direction of a table, for glasses the local part of it."""
    reading, others, strength = DIRECTIONS[name]
    measured: dict[str, Any] = {"mechanism": "direction", "free_of": [other for other in others if other != reading]}
    move = whitening.move(vector)
    if name == "glasses":
        move = energy.localised(name, move, GLASSES_PENALTY)
        measured["mechanism"] = "local part of a direction"
    rows = range(whitening.shape[0])
    return Direction(
        name, move, float(move.norm()), rows, NAMED_TOUCHES[name], strength, measured, gauge, name == "glasses"
    )


def lighting(read: dict[str, NDArray[np.float64]], whitening: Whitening) -> Span:
    """Each axis changes one measure of the light, and none of the others."""
    axes = []
    for name in LIGHT:
        basis = orthonormal(np.stack([read[other] for other in (*PERSON, *LIGHT) if other != name], axis=1))
        axes.append(whitening.move(freed(read[name], basis)))
    measured = {"mechanism": "span of directions", "axes": list(LIGHT), "free_of": list(PERSON)}
    return Span("lighting", torch.stack(axes), NAMED_TOUCHES["lighting"], LIGHTING_STRENGTH, measured)


def local_spans(energy: RegionEnergy) -> list[Span]:
    """Moves of single rows that stay in a part of the face."""
    spans = []
    for name, (count, penalty, strength) in LOCAL.items():
        measured = {"mechanism": "local moves of rows"}
        spans.append(Span(name, energy.axes(name, count, penalty), NAMED_TOUCHES[name], strength, measured))

    def painted(part: str, colour: tuple[float, float, float]) -> Tensor:
        mask = region_mask(part, SIZE)
        return energy.towards(part, mask * torch.tensor(colour)[:, None, None], COLOUR_PENALTY)

    measured = {"mechanism": "local colour"}
    makeup = torch.stack([painted("mouth", LIPS), painted("eyes", LIDS)])
    spans.append(Span("makeup", makeup, NAMED_TOUCHES["makeup"], MAKEUP_STRENGTH, measured))
    # Browner and darker, or paler and lighter: alone, the colour of skin hardly leaves that of the rest as it is.
    dark = energy.axes("skin", 1)
    luma = torch.einsum("nchw,c,hw->n", energy.mean, LUMA, region_mask("skin", SIZE))
    dark = dark * -torch.sign(energy.basis.weights_of(dark[0]) @ luma)
    skin = (painted("skin", TAN)[None] + DARKER * dark) / (1 + DARKER**2) ** 0.5
    spans.append(Span("skin", skin, NAMED_TOUCHES["skin"], SKIN_STRENGTH, measured))
    return spans


def calibrations(
    z: NDArray[np.float64], labels: dict[str, Any], glasses: dict[int, float], pairs: Any, whitening: Whitening
) -> dict[str, Gauge]:
    """What reads the score of an edit's attribute off latents; see :class:`ganaug.edits.target.Gauge`."""
    found = {}
    rows = sorted(glasses)
    worn = np.array([glasses[row] for row in rows])
    neutral, smiling = pairs
    smile = (smiling - neutral).mean(axis=0)
    cases = {
        "age": (z, labels["age"], ridge(z, labels["age"], 100.0), False),
        "gender": (z, labels["gender"], ridge(z, labels["gender"], 100.0), True),
        "pose": (z, labels["yaw"], ridge(z, labels["yaw"], 100.0), False),
        "glasses": (z[rows], worn, ridge(z[rows], worn, 100.0), True),
        "expression": (np.concatenate([neutral, smiling]), np.repeat([0.0, 1.0], len(neutral)), smile, True),
    }
    for name, (coordinates, target, vector, is_class) in cases.items():
        slope, intercept = (logistic_scale if is_class else least_squares)(coordinates @ vector, target)
        weights, bias = whitening.reading(slope * vector)
        ends = None if is_class else (float(target.min()), float(target.max()))
        found[name] = Gauge(weights, bias + intercept, "logistic" if is_class else "identity", ends)
    return found


def build(data: Path, out: Path, generator: Generator) -> list[Direction | Span]:
    """All edits of the table, without figures of :func:`measure`."""
    out.mkdir(parents=True, exist_ok=True)
    chips, rows = fairface(data, "train", out)
    names = [row["file"].removeprefix("train/") for row in rows]
    codes = encoded("train", chips, generator, out)
    whitening = Whitening.of(generator)
    z = whitening.coordinates(codes)
    labels = labels_of(data, "train", names)
    scores = pixel_scores(render(generator, torch.from_numpy(codes[:PICTURES])))
    place = {name: i for i, name in enumerate(names)}
    glasses = {place[name]: value for name, value in glasses_labels().items()}
    neutral, smiling = london_pairs(data, encoded("london", london(data, out)[0], generator, out), whitening)
    read = readings(z, labels, {k: v.double().numpy() for k, v in scores.items()}, glasses, smiling - neutral)
    gauges = calibrations(z, labels, glasses, (neutral, smiling), whitening)
    seen = held_out(data, out, generator, gauges)
    energy = jacobians(generator, torch.from_numpy(codes), out)
    some = torch.from_numpy(codes[:: len(codes) // CORRECTED_FACES][:CORRECTED_FACES])
    vectors = corrected(fitted(read), read, whitening, generator, some)
    edits: list[Direction | Span] = []
    for name, vector in vectors.items():
        edits.append(direction(name, vector, whitening, gauges[name], energy))
        edits[-1].measured |= seen.get(name, {})
    return [*edits, lighting(read, whitening), *local_spans(energy)]


def held_out(data: Path, out: Path, generator: Generator, gauges: dict[str, Gauge]) -> dict[str, dict[str, Any]]:
    """How well calibrations read the labels of FairFace ``val``."""
    chips, rows = fairface(data, "val", out)
    codes = torch.from_numpy(encoded("val", chips, generator, out))
    labels = labels_of(data, "val", [row["file"].removeprefix("val/") for row in rows])
    correct = ((gauges["gender"](codes) > 0.5).numpy() == (labels["gender"] > 0.5)).mean()
    figures: dict[str, dict[str, Any]] = {"gender": {"val_accuracy": round(float(correct), 3)}}
    for name, column in (("age", "age"), ("pose", "yaw")):
        score = gauges[name](codes).numpy()
        figures[name] = {"val_correlation": round(float(np.corrcoef(score, labels[column])[0, 1]), 3)}
    return figures


def drawn(edit: Edit, codes: Tensor, seed: int = 0) -> Tensor:
    """Codes after an edit whose parameters are drawn from a seed."""
    uniforms = torch.rand(len(codes), NUM_EDIT_UNIFORMS, generator=torch.Generator().manual_seed(seed)).double()
    return edit.apply(codes, edit.sample_params(uniforms))


def region_of(name: str) -> Tensor | None:
    """The mask that a named edit should stay in; None for one that may change the whole picture."""
    if name == "makeup":
        return (region_mask("mouth", SIZE) + region_mask("eyes", SIZE)).clamp(max=1.0)
    return region_mask(name, SIZE) if name in REGIONS else None


@torch.no_grad()
def measure(edit: Direction | Span, generator: Generator, codes: Tensor, prior: Tensor) -> dict[str, Any]:
    """Figures of an edit as it is drawn, on codes of photos and on samples of the prior."""
    edited = drawn(edit, codes)
    before, after = render(generator, codes), render(generator, edited)
    embedder = load_embedder("identity64", "cpu")
    pairs = [torch.cat([embedder(to_model_range(part)) for part in x.split(64)]) for x in (before, after)]
    cosine = (pairs[0] * pairs[1]).sum(dim=1)
    found: dict[str, Any] = {
        "change": round(float((after - before).square().mean().sqrt()), 4),
        "identity_median": round(float(cosine.median()), 3),
        "identity_kept": round(float((cosine >= embedder.threshold).float().mean()), 3),
    }
    mask = region_of(edit.name)
    if mask is not None:
        inside, outside = localisation(generator, codes, edited, mask)
        found["inside"], found["outside_over_inside"] = round(inside**0.5, 4), round(outside / inside, 3)
        inside, outside = localisation(generator, prior, drawn(edit, prior), mask)
        found["outside_over_inside_prior"] = round(outside / inside, 3)
    return found


def sheet(edit: Direction | Span, generator: Generator, codes: Tensor, path: Path) -> None:
    """The faces, and six draws of the edit, enlarged twice."""
    rows = [codes, *(drawn(edit, codes, seed) for seed in range(6))]
    pictures = [render(generator, row).repeat_interleave(2, 2).repeat_interleave(2, 3) for row in rows]
    contact_sheet([("", row) for row in pictures], 2 * SIZE, caption_width=0).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for codes and Jacobians")
    parser.add_argument("--write", type=Path, help="where to write the table")
    parser.add_argument("--sheet", type=Path, help="folder for a sheet of each edit")
    parser.add_argument("--measure-only", action="store_true", help="of the bundled table; nothing is written")
    args = parser.parse_args()
    generator = load_generator(MODEL)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.measure_only:
        edits = load_directions(ASSETS / f"{MODEL}.edits.safetensors", generator)
    else:
        edits = build(args.data, args.out, generator)
    val = torch.from_numpy(encoded("val", fairface(args.data, "val", args.out)[0], generator, args.out))
    codes = val[3 :: len(val) // MEASURED][:MEASURED]
    prior = generator.prior.sample(MEASURED, torch.Generator().manual_seed(0))  # type: ignore[attr-defined]
    for edit in edits:
        edit.measured |= measure(edit, generator, codes, prior)
        print(json.dumps({"name": edit.name, **edit.measured}), flush=True)
        if args.sheet:
            args.sheet.mkdir(parents=True, exist_ok=True)
            sheet(edit, generator, codes[:: MEASURED // 12][:12], args.sheet / f"{edit.name}.png")
    if args.write:
        source = {"method": "benchmarks/edit_table.py", "data": SOURCE, "defaults": list(DEFAULTS)}
        write_directions(args.write, edits, generator, source, UNSUPPORTED)


if __name__ == "__main__":
    main()
