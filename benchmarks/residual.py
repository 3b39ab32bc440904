"""What `residual=` keeps of a photo, and what it spoils: the photo plus the change, against the generator's picture.

    python benchmarks/residual.py [--sheet FILE] [--data ../shared/data --out DIR [--cache fairface=FILE ...]]

Without photos: faces that the bundled generator drew, with something painted on that it cannot draw (writing,
earrings, a microphone, a plaster, a headband, spectacles), inverted by ``hybrid 50``. Each edit is served as the
generator's picture (``paste="aligned"``), as ``residual=0`` (what ``paste="paste"`` does, in the generator's framing)
and as ``residual=1``. ``examples/residual.png`` is such a sheet.

- ``kept``: share of the painted details that is still there, by least squares (1: all).
- ``ghost``: share of the photo's details that is left where the edit moved structure: of the result's details there, on
  those of the edited picture and of the photo, the second coefficient (0: none). What is kept is part of it.

With ``--data``, on photos of FairFace ``val`` and London, inverted as for benchmarks/edits.py (whose ``--out`` has
judges and inversions; or any caches of these photos, ``--cache``): ``identity`` (median cosine of MobileFaceNet to the
photo), ``moves`` (standard deviations of the attribute by the judges, from the picture without edit; drift where the
edit has a sign, else size), ``sharp`` (details against those of the photo) and ``ghost``. London also in the framing of
its own photos, in which the change fades out around the face.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import edit_measures as measures
import torch
import torch.nn.functional as F
from attributes import AttributeJudge, fairface, load_judge
from edit_faces import CPU, Faces, labels_of, load_faces, read_faces, render
from edits import MEANS, NAMED, draw, resolve, signs_of
from judge import Judge
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ganaug import LatentCache, load_generator
from ganaug.faces import paste as pasting
from ganaug.faces.align import to_model_range
from ganaug.faces.geometry import invert
from ganaug.faces.paste import aligned_to_item, paste, paste_aligned
from ganaug.faces.residual import reframed
from ganaug.faces.warp import warp
from ganaug.generators import load_prior
from ganaug.interfaces import Generator
from ganaug.inversion import build_inverter
from ganaug.sheet import contact_sheet
from ganaug.synthetic import save_synthetic

MODEL = "faces64"
ITEM = 144  # px of the painted photos
SHOWN = ("background", "age", "expression", "pose")  # from what it helps to where it fails
SHARES = (0.0, 1.0)
MOVED_AREA = 0.02  # of the chip: where an edit moves less structure, there is no place for ghosts

Draw = ImageDraw.ImageDraw


def writing(draw: Draw) -> None:
    font = ImageFont.load_default(size=26)
    draw.text((3, 2), "EXIT 7", fill=(20, 20, 20), font=font, stroke_width=2, stroke_fill=(240, 240, 60))
    draw.text((92, 6), "A-B", fill=(250, 250, 250), font=font, stroke_width=2, stroke_fill=(180, 20, 20))


def earrings(draw: Draw) -> None:
    for x in (12, 132):
        draw.ellipse((x - 9, 84, x + 9, 106), outline=(235, 200, 60), width=4)
        draw.ellipse((x - 3, 108, x + 3, 116), fill=(60, 160, 230))


def microphone(draw: Draw) -> None:
    draw.line((92, 128, 128, 144), fill=(30, 30, 30), width=10)
    draw.ellipse((72, 108, 100, 136), fill=(70, 70, 75), outline=(20, 20, 20), width=2)
    for shift in range(-8, 12, 5):
        draw.line((78, 122 + shift, 95, 122 + shift), fill=(170, 170, 175), width=1)


def plaster(draw: Draw) -> None:
    draw.rounded_rectangle((88, 74, 122, 88), 6, fill=(225, 175, 130), outline=(150, 95, 60))
    draw.rectangle((99, 75, 111, 87), fill=(240, 205, 165))
    for x, y in ((93, 78), (93, 84), (117, 78), (117, 84)):
        draw.point((x, y), fill=(120, 70, 40))


def headband(draw: Draw) -> None:
    for number in range(12):
        colour = ((200, 30, 60), (250, 250, 250), (30, 70, 170))[number % 3]
        draw.rectangle((number * 12, 8, number * 12 + 11, 22), fill=colour)


def spectacles(draw: Draw) -> None:
    for x in (46, 98):
        draw.ellipse((x - 20, 40, x + 20, 76), outline=(170, 20, 40), width=4)
    draw.arc((58, 46, 86, 66), 200, 340, fill=(170, 20, 40), width=4)
    draw.line((0, 50, 27, 54), fill=(170, 20, 40), width=4)
    draw.line((117, 54, 144, 50), fill=(170, 20, 40), width=4)


PAINTED = {f.__name__: f for f in (writing, earrings, microphone, plaster, headband, spectacles)}


def painted_faces(generator: Generator, count: int, seed: int = 8) -> tuple[Tensor, Tensor]:
    """Faces that belong to nobody, as photos ``(N, 3, ITEM, ITEM)`` in [0, 1]: with and without what is painted on."""
    w_plus = load_prior(MODEL).sample(count, torch.Generator().manual_seed(seed))
    clean = paste_aligned(render(generator, w_plus), (ITEM, ITEM))
    painted = []
    for number, face in enumerate((clean * 255).round().byte().permute(0, 2, 3, 1).numpy()):
        image = Image.fromarray(face)
        list(PAINTED.values())[number % len(PAINTED)](ImageDraw.Draw(image))
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        painted.append(pixels.view(ITEM, ITEM, 3).permute(2, 0, 1).float() / 255)
    return torch.stack(painted), clean


def inverted(painted: Tensor, generator: Generator) -> Faces:
    """The painted photos as faces like those of benchmarks/edits.py."""
    inverter = build_inverter("hybrid", generator, MODEL, CPU, 50)
    chips = F.interpolate(painted, (generator.img_resolution,) * 2, mode="bicubic", antialias=True).clamp(0, 1)
    found = inverter.invert(to_model_range(chips))
    anchor = found.w_plus if found.anchor is None else found.anchor
    matrices = aligned_to_item(generator.img_resolution, (ITEM, ITEM)).expand(len(painted), -1, -1)
    keys = [f"painted-{number}" for number in range(len(painted))]
    base = render(generator, found.w_plus)
    return Faces("painted", Path(), keys, [], Path(), found.w_plus, anchor, painted, matrices, base)


def served(faces: Faces, drawn: Tensor, framing: str) -> dict[str, Tensor]:
    """Way of serving -> ``(N, 3, S, S)``: in the generator's framing (``"aligned"``) or the photos' (``"paste"``)."""
    size = (faces.items.shape[2], faces.items.shape[3])
    place = faces.matrices
    items = faces.items
    found = {}
    if framing == "aligned":
        place = aligned_to_item(drawn.shape[2], size).expand(len(items), -1, -1)
        items = reframed(items, faces.matrices, place)
        found["bare"] = paste_aligned(drawn, size)
    return found | {f"{share:g}": paste(items, drawn, faces.base, place, share) for share in SHARES}


def chips(faces: Faces, images: Tensor, framing: str) -> Tensor:
    """``(N, 3, R, R)`` of what was served."""
    if framing == "paste":
        return faces.chips(images)
    size = faces.base.shape[3]
    place = aligned_to_item(size, (images.shape[2], images.shape[3])).expand(len(images), -1, -1)
    return warp(images, invert(place), (size, size), padding="border").clamp(0, 1)


def detail(images: Tensor) -> Tensor:
    """``(N, 1, R, R)``: what differs from its surroundings in luma."""
    luma = pasting._luma(images)
    return luma - pasting._blur(luma, pasting.DETAIL_BLUR)


def second_share(result: Tensor, first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """``(N,)``: the b of ``result = a * first + b * second``, by weighted least squares; all ``(N, 1, R, R)``.

    NaN where the weights are less than :data:`MOVED_AREA` of the chip.
    """
    total = lambda a, b: (weight * a * b).double().sum(dim=(1, 2, 3))  # noqa: E731
    ff, fs, ss = total(first, first), total(first, second), total(second, second)
    share = (ff * total(second, result) - fs * total(first, result)) / (ff * ss - fs.square())
    return torch.where(weight.mean(dim=(1, 2, 3)) > MOVED_AREA, share, math.nan)


def moved_area(faces: Faces, drawn: Tensor) -> Tensor:
    """``(N, 1, R, R)`` in [0, 1]: where an edit puts other structure."""
    return pasting._moved(drawn, faces.base) * pasting._changed(drawn - faces.base)


def painted_figures(faces: Faces, clean: Tensor, drawings: dict[str, Tensor]) -> str:
    """Table of what is kept of the painted things."""
    photos, before = chips(faces, faces.items, "aligned"), chips(faces, clean, "aligned")
    things = detail(photos) - detail(before)
    weight = (things.abs() > 0.02).float()  # 5 of 255: what bicubic shrinking leaves of nothing is less
    header = ["edit", *(f"{what}, {way}" for way in ("bare", "0", "1") for what in ("kept", "ghost"))]
    rows = []
    for name, drawn in drawings.items():
        row, area = [name], moved_area(faces, drawn)
        for images in served(faces, drawn, "aligned").values():
            seen = detail(chips(faces, images, "aligned"))
            row.append(f"{float(second_share(seen, detail(before), things, weight).nanmedian()):.2f}")
            row.append(f"{float(second_share(seen, detail(drawn), detail(photos), area).nanmedian()):.2f}")
        rows.append(row)
    return table(header, rows)


def photo_figures(
    faces: Faces, framing: str, generator: Generator, judge: AttributeJudge, spread: dict[str, Tensor], identity: Judge
) -> str:
    """Table of one set of photos in one framing."""
    photos = faces.chips(faces.items)
    who, scores = identity(photos), {"photo": judge(photos), "base": judge(faces.base)}
    same: Callable[[Tensor], float] = lambda images: float(F.cosine_similarity(identity(images), who).median())  # noqa: E731
    ways = (["bare"] if framing == "aligned" else []) + [f"{share:g}" for share in SHARES]
    # Where the change fades out, as it does in the photos' own framing, the photo is meant to be left.
    whats = ("identity", "moves", "sharp") + (("ghost",) if framing == "aligned" else ())
    header = ["edit", *(f"{what}, {way}" for what in whats for way in ways)]
    rows = []
    for edit in resolve([*NAMED, "coarse", "middle", "fine", "resample"], generator, None)[0]:
        params = draw(edit, faces)
        drawn = render(generator, faces.code + edit.apply(faces.anchor, params) - faces.anchor)
        signs, meant, area = signs_of(edit, params), MEANS.get(edit.name), moved_area(faces, drawn)
        columns: dict[str, list[str]] = {what: [] for what in whats}
        for way, images in served(faces, drawn, framing).items():
            seen = chips(faces, images, framing)
            columns["identity"].append(f"{same(seen):.3f}")
            moves = "-"
            if meant is not None:
                before = scores["base" if way == "bare" else "photo"][meant]
                moved = measures.standard_moves(before, judge(seen)[meant], spread[meant])
                moves = f"{measures.movement(moved, signs)['size' if signs is None else 'drift']:.2f}"
            columns["moves"].append(moves)
            energy = [detail(image).square().mean(dim=(1, 2, 3)) for image in (seen, photos)]
            columns["sharp"].append(f"{float((energy[0] / energy[1]).sqrt().median()):.2f}")
            if "ghost" in columns:
                ghost = second_share(detail(seen), detail(drawn), detail(photos), area).nanmedian()
                columns["ghost"].append("-" if ghost.isnan() else f"{float(ghost):.2f}")
        rows.append([edit.name, *(value for values in columns.values() for value in values)])
    title = f"{faces.name}, {len(faces.keys)} photos, framing {framing!r}; inversions: identity {same(faces.base):.3f}"
    return f"{title}\n\n{table(header, rows)}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sheet", type=Path, help="PNG of painted faces to write")
    parser.add_argument("--painted", type=int, default=36, help="painted faces (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="folder of the local data")
    parser.add_argument("--out", type=Path, help="folder of judges and inversions, as for benchmarks/edits.py")
    parser.add_argument("--cache", action="append", default=[], metavar="NAME=DIR", help="fairface=DIR or london=DIR")
    parser.add_argument("--faces", type=int, default=64)
    args = parser.parse_args()
    generator = load_generator(MODEL)
    painted, clean = painted_faces(generator, args.painted)
    faces = inverted(painted, generator)
    drawings = {}
    for edit in resolve([*NAMED, "fine", "resample"], generator, None)[0]:
        drawings[edit.name] = render(generator, faces.code + edit.apply(faces.anchor, draw(edit, faces)) - faces.anchor)
    print(f"{len(painted)} painted faces\n\n{painted_figures(faces, clean, drawings)}\n", flush=True)
    if args.sheet is not None:
        rows = [("photo,\npainted", faces.items), ("inversion", faces.base)]
        for name in SHOWN:
            for way, images in served(faces, drawings[name], "aligned").items():
                rows.append((f"{name}\n{'generator' if way == 'bare' else f'residual={way}'}", images))
        sheet = contact_sheet([(caption, images[: len(PAINTED)]) for caption, images in rows], 96)
        save_synthetic(sheet, args.sheet, {"generator": generator.fingerprint, "edits": list(SHOWN)})
    if args.data is None:
        return
    if args.out is None:
        raise SystemExit("--data needs --out, where judges and inversions are kept")
    judge, identity = load_judge(args.data, args.out), Judge(args.data)
    scores = judge(fairface(args.data, "val", args.out)[0].float() / 255)
    spread = {name: values.std(dim=0) for name, values in scores.items() if name != "points"}
    given = dict(entry.partition("=")[::2] for entry in args.cache)
    for name, framings in (("fairface", ("aligned",)), ("london", ("aligned", "paste"))):
        if name in given:
            keys = sorted(set(labels_of(name, args.data)) & set(LatentCache(given[name]).keys()))[: args.faces]
            real = read_faces(name, args.data, Path(given[name]), generator, keys)
        else:
            real = load_faces(name, args.data, args.out, generator, MODEL, args.faces, "hybrid", 50)
        for framing in framings:
            print(photo_figures(real, framing, generator, judge, spread, identity), "\n", flush=True)


if __name__ == "__main__":
    main()
