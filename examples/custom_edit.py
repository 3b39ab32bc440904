"""An edit of your own: move a face towards the generator's mean face in some rows, which softens what is special.

    python examples/custom_edit.py

Any object with these members is an edit: a name, what it touches, whether it needs a partner face, parameters from
uniform numbers, and a pure function of latents.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from precompute_folder import main as precompute_folder
from torch import Tensor

import ganaug
from ganaug.demo import FaceFolder, draw_faces
from ganaug.faces.images import find_images
from ganaug.preview import preview_sheet


class TowardsMean:
    """Moves chosen rows by a drawn share of the way to ``w_avg``."""

    name = "towards_mean"
    touches = frozenset({"expression", "age"})
    needs_partner = False

    def __init__(self, generator: ganaug.StyleGAN2, rows: list[int]) -> None:
        self.mean = generator.w_avg
        self.rows = rows

    def sample_params(self, uniforms: Tensor) -> dict[str, Tensor]:
        """The policy hands in uniform numbers ``(B, 16)``; an edit never draws by itself."""
        return {"strength": (0.3 + 0.4 * uniforms[:, 0]).float()}

    def apply(self, w_plus: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """``w_plus (B, L, D)`` -> ``(B, L, D)``; the argument is not written to."""
        weight = torch.zeros(w_plus.shape[1], device=w_plus.device)
        weight[self.rows] = 1.0
        return torch.lerp(w_plus, self.mean.to(w_plus), weight[None, :, None] * params["strength"][:, None, None])


def main(out: Path) -> None:
    generator = ganaug.load_generator("faces64")
    draw_faces("faces64", out / "faces", count=6, seed=3)
    cache = precompute_folder(out / "faces", out / "faces.lmdb", steps=5)
    base = FaceFolder(out / "faces", find_images(out / "faces"))
    edits = ["fine", TowardsMean(generator, rows=[2, 3, 4, 5])]
    train = ganaug.GANAugmentedDataset(base, cache, ratio=1.0, edits=edits, classical=None)
    sheet = preview_sheet(train, out / "sheet.png", num_faces=6)
    print(f"wrote {out / 'sheet.png'}, {sheet.width}x{sheet.height} px")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(scratch))
