"""Faces found and error of their five points on real photos: ``python benchmarks/detection.py --data ../shared/data``.

Errors are distances to the points that come with a set, in eye distances of those points. Labels have errors of their
own: ``offset_px`` is the median over all points and photos of what is found minus the label. The detector reads every
face together with its mirror image, so it cannot be off to one side on average: the horizontal part of the offset is
the labels' (pixel centres counted from 0 or 1, heat maps of a few pixels a cell). ``median_without_offset`` is the
error with both parts taken off.
"""

import argparse
import csv
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ganaug.faces.detect import DETECTORS, choose_faces
from ganaug.faces.images import read_image
from ganaug.faces.templates import TEMPLATES, recognise_points

Photos = list[tuple[Path, NDArray[np.float64] | None]]  # file and its points (5, 2), if the set has them
POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
CHUNK = 64  # photos in memory at once


def folder(root: Path) -> Photos:
    return [(path, None) for path in sorted(root.glob("*.jpg"))]


def labelled(root: Path, files: str, prefix: str, keep: Callable[[dict[str, str]], bool]) -> Photos:
    """Photos of a ``labels.csv`` with columns such as ``left_eye_x``."""
    with (root / "labels.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if keep(row)]
    points = [[[float(row[f"{prefix}{name}_{axis}"]) for axis in "xy"] for name in POINTS] for row in rows]
    return [(root / files / row["file"], np.array(five)) for row, five in zip(rows, points, strict=True)]


def all_age_faces(root: Path) -> Photos:
    """``original/*.txt``: 49 points, those of the 68-point scheme without the jaw and the inner mouth corners."""
    photos: Photos = []
    for path in sorted((root / "original").glob("*.txt")):
        p = np.loadtxt(path)
        five = np.stack([p[19:25].mean(axis=0), p[25:31].mean(axis=0), p[13], p[31], p[37]])
        photos.append((path.with_suffix(".jpg"), five))
    return photos


def every(photos: Photos, count: int) -> Photos:
    """At most ``count`` photos, evenly spaced."""
    return [photos[i] for i in np.linspace(0, len(photos) - 1, min(count, len(photos))).round().astype(int)]


def chunks(photos: Photos) -> Iterable[Photos]:
    return (photos[start : start + CHUNK] for start in range(0, len(photos), CHUNK))


def measure(photos: Photos, detector_name: str, device: str) -> dict[str, object]:
    detector = DETECTORS[detector_name](device)
    detector.detect([Image.new("RGB", (64, 64))])  # loads and warms up
    seconds, cpu_seconds, several, boxes, found, labels, sizes = 0.0, 0.0, 0, 0, [], [], []
    for chunk in chunks(photos):
        images = [read_image(path)[0] for path, _ in chunk]
        start, cpu_start = time.perf_counter(), time.process_time()
        faces = detector.detect(images)
        seconds += time.perf_counter() - start
        cpu_seconds += time.process_time() - cpu_start
        for image, all_faces, (_, label) in zip(images, faces, chunk, strict=True):
            boxes += bool(all_faces)
            several += len(all_faces) > 1
            for face in choose_faces(all_faces, "largest", image.size):
                found.append(face.points.astype(np.float64))
                sizes.append(image.size)
                labels.append(label)
    result: dict[str, object] = {
        "photos": len(photos),
        "found": round(boxes / len(photos), 4),
        "several_faces": several,
        "photos_per_second": round(len(photos) / seconds, 1),
        "photos_per_cpu_second": round(len(photos) / cpu_seconds, 1),  # on a machine that others use too
    }
    side = np.array(sizes, dtype=np.float64)
    result["template"] = recognise_points(np.array(found), side)
    if result["template"]:
        crop = side.min(axis=1)[:, None, None]
        mean = ((np.array(found) - (side[:, None] - crop) / 2) / crop).mean(axis=0)
        result["mean_points"] = mean.round(4).tolist()
        result["template_points"] = TEMPLATES[str(result["template"])].round(4).tolist()
    if labels[0] is not None:
        label = np.array(labels)
        eyes = np.linalg.norm(label[:, 1] - label[:, 0], axis=1)[:, None]
        moved = np.array(found) - label
        offset = np.median(moved, axis=(0, 1))
        error = np.linalg.norm(moved, axis=2) / eyes
        result |= {
            "median": round(float(np.median(error)), 4),
            "p90": round(float(np.percentile(error, 90)), 4),
            "median_by_point": dict(zip(POINTS, np.median(error, axis=0).round(4).tolist(), strict=True)),
            "eye_distance_px": round(float(np.median(eyes)), 1),
            "offset_px": offset.round(2).tolist(),
            "median_without_offset": round(float(np.median(np.linalg.norm(moved - offset, axis=2) / eyes)), 4),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder with fairface/, london/, congress/ ...")
    parser.add_argument("--detector", default="mtcnn", choices=sorted(DETECTORS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=int, default=400, help="most photos of a set, evenly spaced")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()

    data = arguments.data
    sets = {
        "congress": folder(data / "congress"),
        "portraits": folder(data / "portraits"),
        "london": folder(data / "london"),
        "aaf/original": all_age_faces(data / "aaf"),
        "aaf/ffhq128": folder(data / "aaf/ffhq128"),
        "fairface/val": labelled(data / "fairface", "", "", lambda row: row["split"] == "val"),
        "identity": labelled(data / "identity", "frames", "p", lambda row: True),
    }
    results = {}
    for name, photos in sets.items():
        results[name] = measure(every(photos, arguments.limit), arguments.detector, arguments.device)
        print(name, json.dumps(results[name]), flush=True)
    if arguments.json:
        machine = {"device": arguments.device, "threads": torch.get_num_threads(), "torch": torch.__version__}
        arguments.json.write_text(json.dumps({"machine": machine, "sets": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
