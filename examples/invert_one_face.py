"""Invert one face from Python, as faithfully as asked, and edit what was found.

    python examples/invert_one_face.py FACE OUT.png

``hybrid`` finds a code in the encoder's neighbourhood. ``pivotal`` finds a code and a small change of the generator's
weights for this face alone. An edit moves the anchor, which lies where the generator was trained, and the move is added
to the code; the weights stay those of the face. Without arguments it draws a face from the bundled generator.
"""

import sys
import tempfile
from pathlib import Path

import torch

import ganaug
from ganaug.demo import draw_faces
from ganaug.edits import build_edits
from ganaug.faces.align import Alignment, align, to_model_range, to_unit_range
from ganaug.faces.images import read_image
from ganaug.generators.deltas import DeltaLayout
from ganaug.interfaces import NUM_EDIT_UNIFORMS
from ganaug.inversion import build_inverter
from ganaug.sheet import contact_sheet


def main(photo: Path, out: Path, steps: int | None = None) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = ganaug.load_generator("faces64", device)
    # For a whole photo: Alignment("points", size, ...) with points from ganaug.faces.detect. This one is cut already.
    chip, _ = align(read_image(photo)[0], Alignment(size=generator.img_resolution))
    image = to_model_range(torch.from_numpy(chip.copy()).permute(2, 0, 1)[None]).to(device)  # (1, 3, 64, 64) in [-1, 1]
    (edit,) = build_edits(["lighting"], generator)
    params = edit.sample_params(torch.full((1, NUM_EDIT_UNIFORMS), 0.7, device=device))

    rows = [("photo", to_unit_range(image))]
    for name in ("encoder", "hybrid", "pivotal"):
        inverter = build_inverter(name, generator, "faces64", device, steps)
        found = inverter.invert(image)
        delta = None
        if found.delta is not None:  # what was tuned for this face; faces of one batch may each have their own
            delta = DeltaLayout.of(inverter.delta, generator).bind(found.delta)
        anchor = found.w_plus if found.anchor is None else found.anchor
        moved = found.w_plus + edit.apply(anchor, params) - anchor
        with torch.no_grad():
            images = [generator.synthesis(codes, delta=delta) for codes in (found.w_plus, moved)]
        rows.append((name, to_unit_range(torch.cat(images))))
        print(f"{name}: {found.quality['psnr'].item():.1f} dB, SSIM {found.quality['ssim'].item():.2f}")
    contact_sheet(rows, face_size=128).save(out)
    print(f"wrote {out}: each inversion, and with other light")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            draw_faces("faces64", Path(scratch), count=1, seed=1)
            main(Path(scratch) / "face-000.png", Path(scratch) / "sheet.png", steps=10)
