"""Affine maps against 3x3 matrices and NumPy; where photos lie in items against torchvision; warps against Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from ganaug.faces.geometry import apply_points, compose, invert, photo_to_item
from ganaug.faces.warp import warp
from ganaug.interfaces import UserInputError


def similarities(count: int, seed: int = 0) -> np.ndarray:
    """``(count, 2, 3)``: any turn, scales from 1/40 to 8, shifts of thousands of pixels."""
    rng = np.random.default_rng(seed)
    factor = np.exp(rng.uniform(np.log(1 / 40), np.log(8), count)) * np.exp(1j * rng.uniform(0, 2 * np.pi, count))
    shift = rng.uniform(-3000, 3000, (count, 2))
    rows = [[factor.real, -factor.imag, shift[:, 0]], [factor.imag, factor.real, shift[:, 1]]]
    return np.array(rows).transpose(2, 0, 1)


def square(matrices: np.ndarray) -> np.ndarray:
    """``(..., 3, 3)``, the same maps in homogeneous coordinates."""
    last = np.broadcast_to(np.array([[0.0, 0.0, 1.0]]), (*matrices.shape[:-2], 1, 3))
    return np.concatenate([matrices, last], axis=-2)


def test_there_and_back_over_a_thousand_similarities() -> None:
    """Float32, as records hold it: points of photos of up to 8000 px come back within half a pixel of the photo."""
    matrices = torch.from_numpy(similarities(1000)).float()
    points = torch.from_numpy(np.random.default_rng(1).uniform(0, 8000, (1000, 50, 2))).float()
    there = apply_points(matrices, points)
    back = apply_points(invert(matrices), there)
    error = torch.linalg.vector_norm(back - points, dim=-1).max()
    assert float(error) < 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_matrices_of_three_rows(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(2)
    # Two leading dimensions, and maps that are no similarities.
    first, second = rng.normal(size=(4, 5, 2, 3)), rng.normal(size=(5, 2, 3)) + 2 * np.eye(2, 3)
    points = rng.normal(size=(4, 5, 7, 2))
    a, b, p = (torch.from_numpy(array).to(dtype) for array in (first, second, points))
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-10}
    np.testing.assert_allclose(invert(b), np.linalg.inv(square(second))[:, :2], **tolerance)
    np.testing.assert_allclose(compose(a, b), (square(first) @ square(second))[..., :2, :], **tolerance)
    homogeneous = np.concatenate([points, np.ones((4, 5, 7, 1))], axis=-1)
    want = np.einsum("abij,abnj->abni", first, homogeneous)
    np.testing.assert_allclose(apply_points(a, p), want, **tolerance)
    np.testing.assert_allclose(apply_points(compose(a, b), p), apply_points(a, apply_points(b, p)), **tolerance)
    assert invert(b).dtype == compose(a, b).dtype == dtype


PHOTOS = [(200, 120), (120, 200), (64, 64), (81, 40), (33, 64)]


def marked(width: int, height: int, at: tuple[int, int]) -> Image.Image:
    """A soft white spot on black; its centre of mass is ``at``."""
    x, y = np.arange(width) + 0.5 - at[0], np.arange(height) + 0.5 - at[1]
    spot = 255 * np.exp(-(x[None, :] ** 2 + y[:, None] ** 2) / (2 * 3.0**2))
    return Image.fromarray(np.repeat(spot.astype(np.uint8)[..., None], 3, axis=2))


def centre_of_mass(image: np.ndarray) -> np.ndarray:
    rows, columns = np.mgrid[0 : image.shape[0], 0 : image.shape[1]] + 0.5
    return np.array([(image * columns).sum(), (image * rows).sum()]) / image.sum()


@pytest.mark.parametrize("size", PHOTOS)
@pytest.mark.parametrize("fit", ["square", "stretch"])
def test_photo_to_item_is_what_torchvision_does(size: tuple[int, int], fit: str) -> None:
    """A spot in the photo is looked for in the item that ``Resize`` and ``CenterCrop`` make."""
    item = (56, 56) if fit == "square" else (70, 56)
    steps = [v2.Resize(56), v2.CenterCrop(56)] if fit == "square" else [v2.Resize((item[1], item[0]))]
    matrix = photo_to_item(torch.tensor(size), item, fit)  # type: ignore[arg-type]
    for offset in ((0, 0), (6, -5), (-7, 4)):
        spot = (size[0] // 2 + offset[0], size[1] // 2 + offset[1])
        got = centre_of_mass(np.asarray(v2.Compose(steps)(marked(*size, spot)))[..., 0].astype(np.float64))
        want = apply_points(matrix, torch.tensor([spot]).float())[0]
        np.testing.assert_allclose(got, want, atol=0.6 if fit == "square" else 0.15)  # CenterCrop rounds to a pixel


def test_photo_to_item_automatically() -> None:
    sizes = torch.tensor([[200, 100], [100, 50], [101, 50], [120, 50], [0, 0], [60, 60]])
    got = photo_to_item(sizes, (100, 50))
    assert got.dtype == torch.float32 and photo_to_item(sizes.double(), (100, 50)).dtype == torch.float64
    assert torch.equal(got[[1, 4]], torch.eye(2, 3).expand(2, 2, 3))  # equal sizes; unknown
    assert torch.equal(got[[0, 2]], photo_to_item(sizes[[0, 2]], (100, 50), "stretch"))  # 2 : 1, to one per cent
    assert torch.equal(got[[3, 5]], photo_to_item(sizes[[3, 5]], (100, 50), "square"))
    torch.testing.assert_close(got[3], torch.tensor([[1.0, 0, -10], [0, 1, 0]]))
    with pytest.raises(UserInputError, match="unknown fit 'crop': expected one of auto, square, stretch"):
        photo_to_item(sizes, (5, 5), "crop")  # type: ignore[arg-type]


def planes(*images: Image.Image) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) for image in images]).float()


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    return float(10 * np.log10(255.0**2 / np.mean((first.astype(np.float64) - second) ** 2)))


def texture(seed: int, side: int = 160, detail: int = 40) -> Image.Image:
    """Random colours with detail down to a few pixels, as photos have it."""
    grid = np.random.default_rng(seed).integers(0, 256, (detail, detail, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC)


def test_shrinking_warp_is_pillows_resize() -> None:
    """Each picture of a batch by a scale of its own, most differ along x and y; Pillow's BICUBIC has 33 dB."""
    images, boxes = [texture(seed) for seed in range(4)], [(10, 20, 150, 160), (5, 5, 95, 95), (0, 7, 160, 87)]
    boxes.append((3.5, 2.25, 60.5, 158.25))
    matrices = []
    for left, top, right, bottom in boxes:
        x, y = 32 / (right - left), 24 / (bottom - top)
        matrices.append([[x, 0, -left * x], [0, y, -top * y]])
    got = warp(planes(*images), torch.tensor(matrices), (24, 32), padding="border")
    for row, (image, box) in enumerate(zip(images, boxes, strict=True)):
        want = np.asarray(image.resize((32, 24), Image.Resampling.LANCZOS, box=box))
        assert psnr(got[row].permute(1, 2, 0).numpy(), want) > 44


def test_warp_by_whole_pixels_and_quarter_turns_is_exact() -> None:
    """No filter, no interpolation: pixels move, and zeros come from outside."""
    image = planes(texture(1, 20))
    quarter = torch.tensor([[[0.0, -1.0, 20.0], [1.0, 0.0, 0.0]]])  # (x, y) -> (20 - y, x): clockwise
    torch.testing.assert_close(warp(image, quarter, (20, 20)), image.rot90(-1, (2, 3)), rtol=0, atol=2e-2)
    shift = torch.tensor([[[1.0, 0.0, 3.0], [0.0, 1.0, -2.0]]])
    got = warp(image, shift, (20, 20))
    torch.testing.assert_close(got[:, :, :17, 4:], image[:, :, 2:19, 1:17], rtol=0, atol=2e-2)
    assert not got[:, :, :, 0].any()
    mirrored = warp(image, shift, (20, 20), padding="reflection")
    torch.testing.assert_close(mirrored[:, :, :17, 0:3], image[:, :, 2:19, 0:3].flip(3), rtol=0, atol=2e-2)


def test_stripes_of_one_pixel_become_grey() -> None:
    """Turned by 30 degrees, at an eighth of the size: without a filter they alias to stripes of another width."""
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    turn = np.exp(1j * np.pi / 6) / 8
    matrix = torch.tensor([[[turn.real, -turn.imag, 12.0], [turn.imag, turn.real, -4.0]]]).float()
    got = warp(planes(Image.fromarray(stripes)), matrix, (24, 24), padding="reflection")
    assert float((got[..., 8:16, 8:16] - 127.5).abs().max()) < 4


def test_picture_survives_a_round_trip() -> None:
    """Into a chip of about its own resolution and back; 0.2 px off, it would have 34 dB."""
    image = texture(3, 96, 20)
    turn = 1.3 * np.exp(0.4j)
    matrix = torch.tensor([[[turn.real, -turn.imag, 50.0], [turn.imag, turn.real, -10.0]]]).float()
    there = warp(planes(image), matrix, (150, 150))
    back = warp(there, invert(matrix), (96, 96))
    assert psnr(back[0, :, 20:76, 20:76].numpy(), planes(image)[0, :, 20:76, 20:76].numpy()) > 45


def test_rows_of_a_batch_are_independent_and_cpu_matrices_are_enough() -> None:
    images = planes(*[texture(seed, 40) for seed in range(3)])
    matrices = torch.from_numpy(similarities(3, seed=4)).float()
    matrices[:, :, 2] = 8.0
    matrices[0, :, :2] *= 0.2 / float(torch.linalg.det(matrices[0, :, :2]).sqrt())
    together = warp(images, matrices, (16, 24))
    alone = torch.cat([warp(images[i : i + 1], matrices[i : i + 1], (16, 24)) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-2)  # of 255: the filter of one is the identity of all
