"""MTCNN (Zhang et al., "Joint Face Detection and Alignment Using Multi-task Cascaded Convolutional Networks", 2016).

The three networks and their weights are facenet-pytorch's, which holds them in its wheel: nothing is downloaded. The
cascade around them is this file's, because that of facenet-pytorch 2.5.3 cannot be used here:

- it cuts what lies beyond the photo's edge off a candidate and then reads the points as if it had not: on chips that
  the face fills, such as dlib's, they are wrong by 15 % of the eye distance (5 % here, both measured on fairface);
- its batches take photos of one size, and non-maximum suppression moves the boxes of a photo in float32 by an amount
  that depends on the rest of the batch;
- it raises for a photo smaller than the smallest face and for a batch without any candidate.

What it finds, and what not (faces of london/, turned and shrunk): all upright faces, grey as well as colour; nearly all
of up to 60 degrees of roll, their points within 0.5 % of the eye distance of those of the upright photo; half of those
of 90 to 180 degrees, with points that are WRONG: photos must be upright. Faces of 13 px all, of 10 px most, of 8 px
none; by default the search starts at a twentieth of the photo's shorter side. Three-quarter views all (128 of 128 of
identity/ whose eyes lie closer than 0.7 of the way to the mouth; below 0.55 their points are half again as far off as
those of frontal ones); full profiles were not tried. What is not found is an empty list.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.ops import nms, roi_align

from ganaug.faces.detect import Face
from ganaug.interfaces import UserInputError, resolve_device

# Zhang et al. 2016, section 3 and the authors' published code: input sides of the three networks, step of the pyramid,
# confidence that lets a candidate pass each stage, and overlap above which the weaker of two is dropped.
PROPOSAL_SIDE, REFINE_SIDE, OUTPUT_SIDE = 12, 24, 48
PROPOSAL_STRIDE = 2
PYRAMID_FACTOR = 0.709
PASS_SCORES = (0.6, 0.7, 0.7)
OVERLAP_IN_LEVEL, OVERLAP = 0.5, 0.7

# Canvases are multiples of this, so that photos of nearly equal sizes share a batch. A photo's canvas depends on its
# own size alone.
CANVAS_STEP = 32

# The pyramid starts at this width, in pixels; its first network still finds faces of two thirds of it. Smaller ones
# have eyes less than 6 px apart: their points would be good for nothing.
SMALLEST_FACE = 20

# The crop from which the points are read again: centre a little above the middle between eyes and mouth, half side in
# units of the longer of the eye distance and the way from eyes to mouth. Found on aaf and fairface: around these values
# the error changes by less than 0.1 % of the eye distance.
POINTS_UP, POINTS_HALF_SIDE, POINTS_PASSES = 0.15, 1.15, 2
MIRRORED = [1, 0, 2, 4, 3]  # left and right change places


class MTCNNDetector:
    """A :class:`~ganaug.faces.detect.FaceDetector`.

    A photo is shrunk to ``max_side``, boxes and points are scaled back. After the cascade the points are read twice
    more, each time from a crop that the last points centre, scale and turn upright, and as the mean of the crop and its
    mirror image: that makes them symmetric and takes an eighth off the error.

    Photos are computed in batches, so what is found in a photo may differ between batches by rounding.

    Args:
        device: Where the networks run.
        threshold: Least confidence of a face, in [0.7, 1]. At 0.9 false faces are rare (2 of 200 FairFace chips have a
            second "face"), and real ones that are large enough to use mostly have 0.99 or more.
        min_face: Least width of a face as a share of the photo's shorter side; 20 px if that is more. Half of it takes
            up to four times as long.
        max_side: Longer side to which larger photos are shrunk, in pixels. A face of a twentieth of it still fills the
            last network's input.
        batch_size: Most photos computed at once.

    Raises:
        UserInputError: If facenet-pytorch is not installed, or an argument is outside its range.
    """

    def __init__(
        self,
        device: str | torch.device = "cpu",
        *,
        threshold: float = 0.9,
        min_face: float = 0.05,
        max_side: int = 1024,
        batch_size: int = 16,
    ) -> None:
        if not PASS_SCORES[2] <= threshold <= 1:
            raise UserInputError(f"threshold must be in [{PASS_SCORES[2]}, 1], got {threshold}")
        if not 0 < min_face <= 1:
            raise UserInputError(f"min_face must be in (0, 1], a share of the photo's shorter side, got {min_face}")
        if max_side < 64 or batch_size < 1:
            raise UserInputError(f"need max_side >= 64 and batch_size >= 1, got {max_side=}, {batch_size=}")
        self.device = resolve_device(device)
        self.threshold, self.min_face, self.max_side, self.batch_size = threshold, min_face, max_side, batch_size
        self.proposal_net, self.refine_net, self.output_net = (
            network.to(self.device).eval().requires_grad_(False) for network in _networks()
        )

    def detect(self, images: Sequence[Image.Image]) -> list[list[Face]]:
        """Upright photos of any sizes and modes -> the faces of each, the best score first; none is an empty list."""
        by_canvas: dict[tuple[int, int], list[int]] = {}
        for number, image in enumerate(images):
            by_canvas.setdefault(_canvas(self._shrunk(image.size)), []).append(number)
        found: list[list[Face]] = [[] for _ in images]
        for (width, height), numbers in by_canvas.items():
            for start in range(0, len(numbers), self.batch_size):
                chunk = numbers[start : start + self.batch_size]
                batch = np.full((len(chunk), height, width, 3), 127, dtype=np.uint8)
                for row, number in zip(batch, chunk, strict=True):
                    image, size = images[number], self._shrunk(images[number].size)
                    image = image if image.mode == "RGB" else image.convert("RGB")
                    if size != image.size:
                        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
                    row[: size[1], : size[0]] = np.asarray(image)
                for number, faces in zip(chunk, self._detect(batch), strict=True):
                    shrunk, original = self._shrunk(images[number].size), images[number].size
                    scale = np.array([original[0] / shrunk[0], original[1] / shrunk[1]], dtype=np.float32)
                    found[number] = [Face(f.box * np.tile(scale, 2), f.score, f.points * scale) for f in faces]
        return found

    def _shrunk(self, size: tuple[int, int]) -> tuple[int, int]:
        """Size at which a photo is searched."""
        scale = min(1.0, self.max_side / max(size))
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

    @torch.no_grad()
    def _detect(self, batch: NDArray[np.uint8]) -> list[list[Face]]:
        """``(B, H, W, 3)`` -> the faces of each, in pixels of the canvas."""
        pixels = torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2)
        images = (pixels.float() - 127.5) / 128.0  # what the networks were trained on
        boxes, owners = self._propose(images)
        boxes, owners = self._refine(images, boxes, owners)
        boxes, owners, scores, points = self._output(images, boxes, owners)
        for _ in range(POINTS_PASSES):
            points = self._read_points(images, points, owners)

        host = [values.cpu().numpy() for values in (boxes, scores, points, owners)]
        faces: list[list[Face]] = [[] for _ in batch]
        for box, score, five, owner in zip(*host, strict=True):
            faces[owner].append(Face(box, float(score), five))
        return faces

    def _propose(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """First network, over a pyramid: square candidates ``(N, 4)`` and the images ``(N,)`` that they are in."""
        height, width = images.shape[2:]
        scale = PROPOSAL_SIDE / max(SMALLEST_FACE, self.min_face * min(height, width))
        windows, moved, scores, owners = [], [], [], []
        while min(height, width) * scale >= PROPOSAL_SIDE:
            level = F.interpolate(
                images, (round(height * scale), round(width * scale)), mode="bilinear", antialias=True
            )
            to_image = images.new_tensor([width / level.shape[3], height / level.shape[2]]).repeat(2)
            move, confidence = self.proposal_net(level)
            owner, row, column = (confidence[:, 1] >= PASS_SCORES[0]).nonzero(as_tuple=True)
            corner = torch.stack([column, row], dim=1) * PROPOSAL_STRIDE
            window = torch.cat([corner, corner + PROPOSAL_SIDE], dim=1) * to_image
            score = confidence[owner, 1, row, column]
            keep = _nms(window, score, owner, OVERLAP_IN_LEVEL)
            windows.append(window[keep])
            moved.append(_move(window[keep], move[owner[keep], :, row[keep], column[keep]]))
            scores.append(score[keep])
            owners.append(owner[keep])
            scale *= PYRAMID_FACTOR
        if not windows:
            return images.new_zeros(0, 4), torch.zeros(0, dtype=torch.long, device=images.device)
        owner = torch.cat(owners)
        keep = _nms(torch.cat(windows), torch.cat(scores), owner, OVERLAP)
        return _square(torch.cat(moved)[keep]), owner[keep]

    def _refine(self, images: Tensor, boxes: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
        """Second network: the candidates that pass, moved, square again."""
        if len(boxes) == 0:  # the networks cannot be called without any
            return boxes, owners
        move, confidence = self.refine_net(_crops(images, boxes, owners, REFINE_SIDE))
        passed = confidence[:, 1] > PASS_SCORES[1]
        boxes, owners, move, score = boxes[passed], owners[passed], move[passed], confidence[passed, 1]
        keep = _nms(boxes, score, owners, OVERLAP)
        return _square(_move(boxes[keep], move[keep])), owners[keep]

    def _output(self, images: Tensor, boxes: Tensor, owners: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Third network: boxes, owners, scores and points of the faces, best score first."""
        if len(boxes) == 0:
            return boxes, owners, boxes.new_zeros(0), boxes.new_zeros(0, 5, 2)
        move, points, confidence = self.output_net(_crops(images, boxes, owners, OUTPUT_SIDE))
        passed = confidence[:, 1] >= self.threshold
        boxes, owners, score = boxes[passed], owners[passed], confidence[passed, 1]
        points = boxes[:, None, :2] + _five(points[passed]) * (boxes[:, 2:] - boxes[:, :2])[:, None]
        boxes = _move(boxes, move[passed])
        keep = torch.tensor(_distinct(boxes, score, owners), dtype=torch.long, device=boxes.device)
        return boxes[keep], owners[keep], score[keep], points[keep]

    def _read_points(self, images: Tensor, points: Tensor, owners: Tensor) -> Tensor:
        """Points ``(N, 5, 2)`` read again from crops that they centre, scale and turn upright, and from their mirrors.

        The upright square around a crop is cut first with antialiasing, the turned one then out of it: at twice the
        network's input, averaged two by two.
        """
        if len(points) == 0:
            return points
        eyes, mouth = points[:, :2].mean(dim=1), points[:, 3:].mean(dim=1)
        across, down = points[:, 1] - points[:, 0], mouth - eyes
        axis = across + torch.stack([down[:, 1], -down[:, 0]], dim=1)
        axis = axis / axis.norm(dim=1, keepdim=True).clamp(min=1e-6)
        half = POINTS_HALF_SIDE * torch.maximum(across.norm(dim=1), down.norm(dim=1)).clamp(min=1.0)[:, None]
        centre = (eyes + mouth) / 2 - POINTS_UP * down

        around = half * math.sqrt(2.0)
        patch = _crops(images, torch.cat([centre - around, centre + around], dim=1), owners, 3 * OUTPUT_SIDE)
        cos, sin = axis[:, :1], axis[:, 1:]
        turn = torch.stack([torch.cat([cos, -sin], dim=1), torch.cat([sin, cos], dim=1)], dim=1)  # crop -> photo
        theta = F.pad(turn / math.sqrt(2.0), (0, 1))
        grid = F.affine_grid(theta, [len(points), 3, 2 * OUTPUT_SIDE, 2 * OUTPUT_SIDE], align_corners=False)
        crop = F.avg_pool2d(F.grid_sample(patch, grid, align_corners=False), 2)

        there = _five(self.output_net(crop)[1])
        mirrored = _five(self.output_net(crop.flip(3))[1])[:, MIRRORED]
        there = (there + torch.stack([1.0 - mirrored[..., 0], mirrored[..., 1]], dim=2)) / 2
        offset = (2.0 * there - 1.0) * half[:, None]
        return centre[:, None] + (turn[:, None] @ offset[..., None]).squeeze(3)


def _networks() -> Iterable[torch.nn.Module]:
    """The three networks with facenet-pytorch's weights."""
    try:
        from facenet_pytorch.models import mtcnn
    except ImportError as error:
        raise UserInputError(
            f"the mtcnn detector needs facenet-pytorch, which cannot be imported ({error}): pip install 'ganaug[faces]'"
        ) from error
    networks: list[Any] = [mtcnn.PNet(), mtcnn.RNet(), mtcnn.ONet()]
    return networks


def _canvas(size: tuple[int, int]) -> tuple[int, int]:
    """The size rounded up to ``CANVAS_STEP``; what is added is grey."""
    return -(-size[0] // CANVAS_STEP) * CANVAS_STEP, -(-size[1] // CANVAS_STEP) * CANVAS_STEP


def _five(points: Tensor) -> Tensor:
    """The third network's ``(N, 10)``, five x and five y -> ``(N, 5, 2)``."""
    return torch.stack([points[:, :5], points[:, 5:]], dim=2)


def _move(boxes: Tensor, move: Tensor) -> Tensor:
    """Boxes with their edges moved by shares of width and height."""
    return boxes + move * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)


def _square(boxes: Tensor) -> Tensor:
    """The square around each box's centre with its longer side."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1, keepdim=True) / 2
    return torch.cat([centre - half, centre + half], dim=1)


def _crops(images: Tensor, boxes: Tensor, owners: Tensor, side: int) -> Tensor:
    """``(N, 3, side, side)``: each box of its image, antialiased; grey (0) beyond the image."""
    rois = torch.cat([owners[:, None].to(boxes.dtype), boxes], dim=1)
    return roi_align(images, rois, (side, side), sampling_ratio=-1, aligned=True)


def _nms(boxes: Tensor, scores: Tensor, owners: Tensor, overlap: float) -> Tensor:
    """Non-maximum suppression within each image, best first. Boxes of different images are moved far apart, in double
    precision and by a fixed distance, so that it changes nothing within an image."""
    apart = owners.double()[:, None] * 2.0**20
    return nms(boxes.double() + apart, scores.double(), overlap)


def _distinct(boxes: Tensor, scores: Tensor, owners: Tensor) -> list[int]:
    """Last suppression, best first: a box goes if a better one of its image covers most of it, or it most of that one
    (the authors' "Min": a face within a face is one face)."""
    box, score, owner = boxes.double().cpu().numpy(), scores.double().cpu().numpy(), owners.cpu().numpy()
    area = np.prod(box[:, 2:] - box[:, :2], axis=1)
    kept: list[int] = []
    for i in np.argsort(-score, kind="stable"):
        rivals = [j for j in kept if owner[j] == owner[i]]
        common = np.minimum(box[rivals, 2:], box[i, 2:]) - np.maximum(box[rivals, :2], box[i, :2])
        shared = np.prod(common.clip(min=0.0), axis=1)
        if (shared <= OVERLAP * np.minimum(area[rivals], area[i])).all():
            kept.append(int(i))
    return kept
