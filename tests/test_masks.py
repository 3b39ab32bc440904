"""Part masks and backgrounds: a loop over pixels, closed forms, and what the loader serves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUALITY, RESOLUTION, Faces, make_header, random_latents
from torch import Tensor
from torch.utils.data import Dataset

from ganaug import CacheHeader, GANAugmentedDataset, LatentCache, Record
from ganaug.faces.align import Alignment
from ganaug.faces.masks import _ELLIPSES, PARTS, Background, foreground_of_logits, landmark_masks, make_background
from ganaug.faces.templates import TEMPLATES
from ganaug.generators import SemanticStyleGAN, SemanticStyleGANConfig
from ganaug.interfaces import UserInputError

SQUARE = torch.tensor([[[12.0, 12.0], [20.0, 12.0], [16.0, 16.0], [13.0, 21.0], [19.0, 21.0]]])


# ---------------------------------------------------------------------------------------- part masks


def naive_label(points: np.ndarray, x: float, y: float) -> str:
    eyes, mouth = (points[0] + points[1]) / 2, (points[3] + points[4]) / 2
    frame = np.stack([points[1] - points[0], mouth - eyes], axis=1)
    u, v = np.linalg.solve(frame, np.array([x, y]) - eyes)
    found = "background"
    for part in PARTS[1:]:
        for cx, cy, rx, ry in _ELLIPSES[part]:
            if ((u - cx) / rx) ** 2 + ((v - cy) / ry) ** 2 <= 1 and not (part == "hair" and v > 1):
                found = part
    return found


def test_masks_equal_a_loop_over_pixels() -> None:
    """Faces that are turned, small, large, and seen from the side."""
    generator = np.random.default_rng(0)
    points = np.stack([(p - 0.5) @ _rotation(a) * s + 20 for p, a, s in _faces(generator)])
    masks = landmark_masks(torch.from_numpy(points), (36, 44))
    assert masks.shape == (len(points), len(PARTS), 36, 44) and masks.dtype == torch.float32
    assert torch.equal(masks.sum(dim=1), torch.ones(len(points), 36, 44))
    labels = masks.argmax(dim=1)
    wrong = 0
    for number, face in enumerate(points):
        for row in range(36):
            for column in range(44):
                wrong += PARTS[labels[number, row, column]] != naive_label(face, column + 0.5, row + 0.5)
    assert wrong <= 2  # pixels whose centres lie on an edge, where float32 rounds
    assert set(labels.unique().tolist()) == set(range(len(PARTS)))


def _faces(generator: np.random.Generator) -> list[tuple[np.ndarray, float, Any]]:
    scales = [np.array([30.0, 30.0]), np.array([12.0, 12.0]), np.array([15.0, 30.0]), np.array([50.0, 50.0])]
    return [(TEMPLATES["fairface"], float(generator.uniform(-60, 60)), scale) for scale in scales]


def _rotation(angle_deg: float) -> np.ndarray:
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return np.array([[c, s], [-s, c]])


@pytest.mark.parametrize("template", TEMPLATES)
def test_landmarks_lie_in_their_parts(template: str) -> None:
    points = torch.from_numpy(TEMPLATES[template] * 112)[None]
    masks = landmark_masks(points, (112, 112))
    at = points[0].floor().long()
    found = [PARTS[masks[0, :, y, x].argmax()] for x, y in at.tolist()]
    assert found[:3] == ["eye", "eye", "nose"]
    middle = points[0, 3:].mean(dim=0).floor().long()
    assert PARTS[masks[0, :, middle[1], middle[0]].argmax()] == "mouth"


def test_other_points_are_refused() -> None:
    with pytest.raises(UserInputError, match=r"points must be \(B, 5, 2\), got \(5, 2\)"):
        landmark_masks(SQUARE[0], (32, 32))


# --------------------------------------------------------------------------------------- backgrounds


def test_foreground_of_logits() -> None:
    logits = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    naive = torch.zeros(2, 1, 3, 4)
    for b in range(2):
        for y in range(3):
            for x in range(4):
                odds = [float(v) for v in logits[b, :, y, x].exp()]
                naive[b, 0, y, x] = (odds[0] + odds[2] + odds[3]) / sum(odds)
    torch.testing.assert_close(foreground_of_logits(logits, (1, 4)), naive)


def half(height: int = 64, width: int = 64) -> Tensor:
    """Foreground in the left half."""
    return (torch.arange(width) < width // 2).float().expand(1, 1, height, width)


@pytest.mark.parametrize(
    ("fill", "expected"),
    [
        ("remove", (0.5, 0.5, 0.5)),
        (torch.tensor([0.2, 0.4, 0.8]), (0.2, 0.4, 0.8)),
        (torch.tensor([51, 102, 204], dtype=torch.uint8), (0.2, 0.4, 0.8)),
        (torch.tensor([0.2, 0.4, 0.8])[:, None, None].expand(3, 7, 9), (0.2, 0.4, 0.8)),
    ],
)
def test_fills(fill: Any, expected: tuple[float, ...]) -> None:
    items = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    filled = Background(fill).apply(items, half())
    torch.testing.assert_close(filled[..., :26], items[..., :26], atol=1e-6, rtol=0)
    colour = torch.tensor(expected)[None, :, None, None].expand(1, 3, 64, 26)
    torch.testing.assert_close(filled[..., -26:], colour, atol=1e-6, rtol=0)
    mean = (items[..., 31:33].mean() + torch.tensor(expected).mean()) / 2  # the edge is soft and where it was
    assert float(filled[..., 31:33].mean()) == pytest.approx(float(mean), abs=0.02)


def test_a_picture_is_scaled_to_the_items() -> None:
    picture = torch.zeros(3, 20, 30)
    picture[0, :, 15:] = 1.0
    filled = Background(picture).apply(torch.zeros(2, 3, 40, 50), torch.zeros(2, 1, 40, 50))
    assert (filled[:, 0, :, 27:] > 0.99).all() and (filled[:, 0, :, :23] < 0.01).all() and (filled[:, 1:] == 0).all()


def test_blur_takes_no_colour_from_the_face() -> None:
    items = torch.where(half(48, 64) > 0, 1.0, torch.full((1, 3, 48, 64), 0.25))
    items[..., 48:] += 0.1 * (torch.arange(16) % 2 * 2 - 1.0)
    blurred = Background("blur").apply(items, half(48, 64))
    # Detail is gone; the white half has left no glow: all is between the background's own values.
    assert float(blurred[..., 33:].max()) < 0.3 and float(blurred[..., 33:].min()) > 0.23
    torch.testing.assert_close(blurred[..., 35:44], torch.full((1, 3, 48, 9), 0.25), atol=0.008, rtol=0)
    assert float(blurred[..., 52:60].std()) < 0.02 < float(items[..., 52:60].std())
    torch.testing.assert_close(blurred[..., :26], items[..., :26], atol=1e-5, rtol=0)


def test_make_background() -> None:
    assert make_background("keep") is None
    given = Background("blur")
    assert make_background(given) is given
    made = make_background("remove")
    assert made is not None and made.fill == "remove" and made.parser is None


@pytest.mark.parametrize(
    ("background", "message"),
    [
        ("beach", "unknown background 'beach': expected 'keep', 'blur', 'remove' or a tensor"),
        (None, "unknown background None"),
        (torch.zeros(1, 4, 4), r"a background must be \(3,\) or \(3, h, w\), got \(1, 4, 4\)"),
        (torch.full((3,), 2.0), r"a background must be in \[0, 1\] or uint8, got 2 to 2"),
        (torch.full((3,), float("nan")), r"a background must be in \[0, 1\] or uint8, got nan to nan"),
    ],
)
def test_backgrounds_that_are_refused(background: Any, message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        make_background(background)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda images: images[:1].expand(-1, 3, -1, -1), r"must return logits \(2, K, h, w\), got \(1, 3, 8, 8\)"),
        (lambda images: {"out": images}, r"must return logits \(2, K, h, w\), got dict"),
        (lambda images: images, r"background_classes are \(0, 7\), but the parser knows 3 classes"),
    ],
)
def test_parsers_that_are_refused(answer: Any, message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        Background("blur", answer, (0, 7)).foreground(torch.zeros(2, 3, 8, 8))


# --------------------------------------------------------------------------------- through the loader


class Items(Dataset[Any]):
    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.images[index], index


def serve(train: GANAugmentedDataset) -> tuple[Tensor, Tensor]:
    images, _, info = next(iter(train.loader(batch_size=len(train), return_info=True)))
    return images, info["is_generated"]


def test_only_generated_samples_lose_their_background(faces: Faces) -> None:
    images = torch.rand(22, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def parser(batch: Tensor) -> Tensor:  # of half the size, as parsers are; asked about images in [-1, 1]
        assert batch.min() >= -1.0 and batch.min() < -0.5 and batch.max() <= 1.0
        left = (torch.arange(16) < 8).float().expand(len(batch), 16, 16)
        return torch.stack([20 * (1 - left), 20 * left], dim=1)

    train = GANAugmentedDataset(
        Items(images), faces.cache, ratio=0.5, edits=[], classical=None, key=faces.keys.__getitem__,
        background=Background("remove", parser),
    )  # fmt: skip
    served, generated = serve(train)
    assert 0 < int(generated.sum()) < 22
    assert torch.equal(served[~generated], images[~generated])
    assert torch.allclose(served[generated][..., 20:], torch.tensor(0.5), atol=1e-3)
    torch.testing.assert_close(served[generated][..., :12], images[generated][..., :12], atol=1e-3, rtol=0)


def cache_with_points(path: Path, faces: Faces) -> LatentCache:
    """Chips of 16 px in the middle of photos of 48 px, by the template of FairFace."""
    header = make_header(faces.model)
    alignment = Alignment("points", RESOLUTION, template="fairface").to_dict()
    cache = LatentCache.create(path, CacheHeader(**{**vars(header), "alignment": alignment}))
    transform = np.array([[1.0, 0.0, -16.0], [0.0, 1.0, -16.0]], dtype=np.float32)
    cache.put_many([Record(key, random_latents(key), QUALITY, transform, "0" * 64, (48, 48)) for key in faces.keys])
    return cache


@pytest.mark.parametrize("paste", ["paste", "whole", "aligned"])
def test_the_head_stays_where_the_points_are(faces: Faces, tmp_path: Path, paste: Any) -> None:
    cache = cache_with_points(tmp_path / "points.lmdb", faces)
    images = torch.rand(22, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    plain, filled = (
        serve(
            GANAugmentedDataset(
                Items(images), cache, ratio=1.0, edits=["fine"], classical=None, key=faces.keys.__getitem__,
                background=background, paste=paste,
            )
        )[0]
        for background in ("keep", "remove")
    )  # fmt: skip
    centre = slice(16, 32) if paste == "aligned" else slice(22, 27)
    torch.testing.assert_close(filled[..., centre, centre], plain[..., centre, centre], atol=0.02, rtol=0)
    assert torch.allclose(filled[..., -3:, :3], torch.tensor(0.5), atol=1e-3)
    if paste != "aligned":
        assert torch.allclose(filled[..., :10, :], torch.tensor(0.5), atol=1e-3)


def test_a_chip_that_nobody_knows(faces: Faces) -> None:
    with pytest.raises(UserInputError, match=r"does not say where faces lie in its chips.*Background\(fill, parser="):
        GANAugmentedDataset(
            Items(torch.zeros(22, 3, 20, 20)), faces.cache, key=faces.keys.__getitem__, background="blur"
        )


def test_a_generator_with_parts_knows_its_background(tmp_path: Path) -> None:
    config = SemanticStyleGANConfig(16, 8, 2, 3, 4, 1, 2, 4, 8, 8, (8, 8), transparent=())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = SemanticStyleGAN(config).eval().requires_grad_(False)
        w_plus, images = generator.mapping(torch.randn(4, 8)), torch.rand(4, 3, 16, 16)
    _, logits = generator.synthesis(w_plus, return_parts=True)
    expected = 1.0 - logits.softmax(dim=1)[:, :1]
    alignment = Alignment(size=16).to_dict()
    header = CacheHeader("x", generator.fingerprint, generator.latent_spec, alignment, {}, dtype="float32")
    cache = LatentCache.create(tmp_path / "parts.lmdb", header)
    square = np.eye(2, 3, dtype=np.float32)
    cache.put_many([Record(str(i), w_plus[i].numpy(), QUALITY, square, "0" * 64, (16, 16)) for i in range(4)])
    train = GANAugmentedDataset(
        Items(images), cache, ratio=1.0, edits=[], classical=None, generator=generator, background="remove"
    )
    served, _ = serve(train)
    torch.testing.assert_close(served, Background("remove").apply(images, expected), atol=1e-5, rtol=0)
    assert float((served - images).abs().max()) > 0.1
