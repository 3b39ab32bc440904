"""What a run of precompute finds to do, in which chunks, and what becomes of it: batch sizes, threads, old caches."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Faces, make_header, random_image, random_latents
from PIL import Image
from torch import Tensor

from ganaug.batch_size import REMEMBERED
from ganaug.cache import LatentCache
from ganaug.cache_failures import Failure
from ganaug.cli import main
from ganaug.faces.photos import Photo, hash_of, photos_in_folder, photos_of_dataset, stamp_of
from ganaug.interfaces import CacheError, Inversion, UserInputError
from ganaug.inversion.quality import QualityJudge, reconstruction_quality
from ganaug.pending import find_pending
from ganaug.precompute import PrecomputeResult, open_or_create, precompute

CPU = torch.device("cpu")
BATCH = 4


class Toy:
    """An inverter whose latents are the chip's own pixels, so that rows cannot be mixed up; notes what it was given.

    Args:
        limit: Images that fit into its memory.
        refills: See :class:`ganaug.interfaces.Inverter`.
    """

    name, anchored, delta = "toy", False, None

    def __init__(self, limit: int = 1000, refills: bool = False, judge: QualityJudge | None = None) -> None:
        self.limit, self.refills = limit, refills
        self.judge = judge or QualityJudge()
        self.quality_names = self.judge.names
        self.given: list[tuple[int, int | None]] = []
        self.seen: list[int] = []

    @property
    def settings(self) -> dict[str, Any]:
        return {"name": "toy", **self.judge.settings}

    def invert(self, images: Tensor, batch_size: int | None = None) -> Inversion:
        self.given.append((len(images), batch_size))
        if batch_size is not None and batch_size > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.seen += [hash(image.numpy().tobytes()) for image in images]
        shape = make_shape()
        codes = images.flatten(1)[:, : shape[0] * shape[1]].reshape(-1, *shape)
        return Inversion(codes.clone(), self.judge(images, images))


def make_shape() -> tuple[int, int]:
    return random_latents("").shape  # type: ignore[return-value]


def cache_of(path: Path, faces: Faces, inverter: Toy) -> LatentCache:
    header = replace(make_header(faces.model), inverter=inverter.settings, quality_names=inverter.quality_names)
    return open_or_create(path, header, inverter)


def run(photos: Sequence[Photo], cache: LatentCache, inverter: Toy, **options: Any) -> PrecomputeResult:
    inverter.given.clear()
    inverter.seen.clear()
    return precompute(photos, cache, inverter, CPU, **{"batch_size": BATCH, "progress": False, **options})


def latents(cache: LatentCache) -> dict[str, bytes]:
    return {found.key: found.latents.tobytes() for found in cache.records()}


def chunks(photos: Sequence[Photo], cache: LatentCache, **options: Any) -> list[list[str]]:
    found = find_pending(photos, cache, BATCH, **options)
    return [[photos[place].key for place in chunk] for chunk in found.chunks]


# What is to be done


def test_chunks_lie_at_fixed_places(own_faces: Faces, tmp_path: Path) -> None:
    """Chunks without any record stay whole; what is left of the others is gathered."""
    photos, inverter = photos_in_folder(own_faces.root), Toy()
    keys = own_faces.keys
    cache = cache_of(tmp_path / "c", own_faces, inverter)
    assert chunks(photos, cache) == [keys[i : i + 4] for i in range(0, 22, 4)]
    run(photos[4:12], cache, inverter)
    assert chunks(photos, cache) == [keys[i : i + 4] for i in (0, 12, 16, 20)]
    cache.forget([keys[5], keys[6]])
    (own_faces.root / keys[8]).write_bytes((own_faces.root / keys[9]).read_bytes())
    run(photos[20:21], cache, inverter)
    assert chunks(photos, cache, num_workers=2) == [
        keys[0:4],
        keys[12:16],
        keys[16:20],
        [keys[5], keys[6], keys[8], keys[21]],
    ]
    assert run(photos, cache, inverter).inverted == 16 == len(inverter.seen)
    assert chunks(photos, cache) == []


def test_a_list_that_grew_costs_what_is_new(own_faces: Faces, tmp_path: Path) -> None:
    """New photos between the old ones: they alone are inverted, in full batches."""
    inverter = Toy()
    cache = cache_of(tmp_path / "c", own_faces, inverter)
    run(photos_in_folder(own_faces.root), cache, inverter)
    for number in range(8):
        folder = own_faces.root / ("ann" if number % 2 else "bob")
        random_image(np.random.default_rng(number), 20, 20).save(folder / f"{number:02}a.png")
    assert run(photos_in_folder(own_faces.root), cache, inverter).inverted == 8
    assert inverter.given == [(4, 4), (4, 4)]


def test_files_of_what_is_done_are_not_decoded(own_faces: Faces, tmp_path: Path) -> None:
    inverter = Toy()
    cache = cache_of(tmp_path / "c", own_faces, inverter)
    run(photos_in_folder(own_faces.root), cache, inverter)
    photos = [replace(photo, read=lambda: pytest.fail("read")) for photo in photos_in_folder(own_faces.root)]
    assert run(photos, cache, inverter).images == 22


# Failures


def test_failures_are_tried_again_when_something_has_changed(own_faces: Faces, tmp_path: Path) -> None:
    inverter, key = Toy(), own_faces.keys[3]
    good = (own_faces.root / key).read_bytes()
    (own_faces.root / key).write_bytes(good[:50])
    cache = cache_of(tmp_path / "c", own_faces, inverter)
    photos = photos_in_folder(own_faces.root)
    assert run(photos, cache, inverter).failed == 1
    noted = cache.stamped_failures()
    assert noted[key].stamp == hash_of(photos[3])

    untouched = [replace(p, read=lambda: pytest.fail("read")) if p.key == key else p for p in photos]
    result = run(untouched, cache, inverter)
    assert (result.images, result.failed, result.inverted, inverter.given) == (21, 1, 0, [])
    assert cache.stamped_failures() == noted

    tried: list[str] = []

    def read(photo: Photo) -> tuple[Image.Image, str]:
        tried.append(photo.key)
        return photo.read()

    watched = [replace(photo, read=lambda photo=photo: read(photo)) for photo in photos]  # type: ignore[misc]
    assert run(watched, cache, inverter, retry_failed=True).failed == 1 and tried == [key]
    (own_faces.root / key).write_bytes(good[:60])
    assert run(watched, cache, inverter).failed == 1 and tried == [key, key], "another broken file"
    (own_faces.root / key).write_bytes(good)
    result = run(photos, cache, inverter)
    assert (result.images, result.failed, result.inverted) == (22, 0, 1) and cache.failures() == {}


def test_failures_of_an_older_cache_are_tried_once_more(own_faces: Faces, tmp_path: Path) -> None:
    """They say nothing of the file that they are about."""
    inverter, key = Toy(), own_faces.keys[3]
    (own_faces.root / key).write_bytes(b"broken")
    cache = cache_of(tmp_path / "c", own_faces, inverter)
    photos = photos_in_folder(own_faces.root)
    run([photo for photo in photos if photo.key != key], cache, inverter)
    cache.put_failures({key: "as an older version wrote it"})
    assert cache.stamped_failures()[key] == Failure("as an older version wrote it")
    assert find_pending(photos, cache, BATCH).chunks == ((3,),)
    run(photos, cache, inverter)
    assert find_pending(photos, cache, BATCH).failed == (key,)


def test_an_item_that_nobody_can_read_is_tried_each_time(faces: Faces, tmp_path: Path) -> None:
    """Of a dataset's item without a file there is no knowing whether it has changed."""

    class Items(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Any:
            if index == 1 and broken:
                raise OSError("the share is gone")
            return random_image(np.random.default_rng(index), 20, 20)

    inverter, broken = Toy(), True
    cache = cache_of(tmp_path / "c", faces, inverter)
    photos = photos_of_dataset(Items())
    assert run(photos, cache, inverter).failed == 1 and run(photos, cache, inverter).failed == 1
    broken = False
    assert run(photos, cache, inverter).failed == 0 and len(cache) == 2


def test_the_stamp_is_of_file_and_points() -> None:
    points = np.arange(10.0).reshape(5, 2)
    plain = Photo("a", lambda: pytest.fail("read"))
    pointed = replace(plain, points=points)
    assert stamp_of(plain, "a" * 64) == "a" * 64 and stamp_of(pointed, "") == ""
    stamps = {
        stamp_of(photo, source)
        for photo in (plain, pointed, replace(plain, points=points + 1))
        for source in ("a" * 64, "b" * 64)
    }
    assert len(stamps) == 6 and all(len(stamp) == 64 for stamp in stamps)
    assert stamp_of(pointed, "a" * 64) == stamp_of(replace(plain, points=points.astype(np.float32)), "a" * 64)


# Batch sizes


@pytest.mark.parametrize(("refills", "given"), [(False, [4] * 5 + [2]), (True, [16, 6])])
def test_who_refills_gets_four_batches_at_once(
    faces: Faces, tmp_path: Path, refills: bool, given: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    inverter, commits = Toy(refills=refills), []
    cache = cache_of(tmp_path / "c", faces, inverter)
    put = LatentCache.put_many
    monkeypatch.setattr(
        LatentCache, "put_many", lambda self, records: (commits.append(len(records)), put(self, records))
    )
    run(photos_in_folder(faces.root), cache, inverter)
    assert inverter.given == [(images, BATCH) for images in given] and commits == given


@pytest.mark.parametrize("refills", [False, True])
def test_memory_that_is_short(faces: Faces, tmp_path: Path, refills: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """The batch is halved, what was done stays, the records are those of a run that had enough; also the next run's."""
    whole, inverter = Toy(refills=refills), Toy(limit=2, refills=refills)
    want = cache_of(tmp_path / "want", faces, whole)
    photos = photos_in_folder(faces.root)
    run(photos, want, whole, batch_size="auto")
    cache = cache_of(tmp_path / "c", faces, inverter)
    result = run(photos, cache, inverter, batch_size="auto")
    assert (result.images, result.batch_size) == (22, 2) and latents(cache) == latents(want)
    sizes = [size for _, size in inverter.given]
    assert sizes[:4] == [16, 8, 4, 2] and set(sizes[4:]) == {2}, "tried once each"
    assert len(inverter.seen) == 22 == len(set(inverter.seen)), "and no image was inverted twice"
    assert capsys.readouterr().err.count("do not fit") == 3
    assert (tmp_path / "c" / REMEMBERED).exists()
    cache.forget(faces.keys[:3])
    assert run(photos, cache, inverter, batch_size="auto").inverted == 3
    assert {size for _, size in inverter.given} == {2}, "remembered"
    assert cache.verify() == [] and latents(cache) == latents(want)


def test_one_image_that_does_not_fit(faces: Faces, tmp_path: Path) -> None:
    inverter = Toy()
    cache = cache_of(tmp_path / "c", faces, inverter)
    run(photos_in_folder(faces.root)[:8], cache, inverter)
    inverter.limit = 0
    with pytest.raises(UserInputError, match="one image alone does not fit into the memory of cpu"):
        run(photos_in_folder(faces.root), cache, inverter, batch_size="auto")
    assert len(cache) == 8 and cache.failures() == {}


# Threads


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ganaug-read")]


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_threads_change_nothing(own_faces: Faces, tmp_path: Path, workers: int) -> None:
    for key, data in ((own_faces.keys[2], b"no"), (own_faces.keys[9], b""), (own_faces.keys[21], b"\xff\xd8")):
        (own_faces.root / key).write_bytes(data)
    photos, inverter = photos_in_folder(own_faces.root), Toy()
    caches = []
    for number in (0, workers):
        caches.append(cache_of(tmp_path / str(number), own_faces, inverter))
        result = run(photos, caches[-1], inverter, num_workers=number)
        assert (result.images, result.failed) == (19, 3)
        shapes = inverter.given.copy()
    assert shapes == inverter.given and threads() == []
    assert latents(caches[0]) == latents(caches[1])
    assert caches[0].stamped_failures() == caches[1].stamped_failures() and len(caches[0].failures()) == 3


def test_what_is_no_file_is_read_in_the_calling_thread(faces: Faces, tmp_path: Path) -> None:
    readers: set[str] = set()

    class Items(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 9

        def __getitem__(self, index: int) -> Any:
            readers.add(threading.current_thread().name)
            return random_image(np.random.default_rng(index), 20, 20)

    inverter = Toy()
    cache = cache_of(tmp_path / "c", faces, inverter)
    for _ in range(2):
        assert run(photos_of_dataset(Items()), cache, inverter, num_workers=3).images == 9
    assert readers == {threading.current_thread().name}


@pytest.mark.parametrize("error", [KeyboardInterrupt, CacheError, RuntimeError])
def test_no_thread_outlives_a_run(faces: Faces, tmp_path: Path, error: type[BaseException]) -> None:
    """Neither when the inverter ends it, nor when a reader does."""

    class Dying(Toy):
        def invert(self, images: Tensor, batch_size: int | None = None) -> Inversion:
            if len(self.seen) == 8:
                raise error("now")
            return super().invert(images, batch_size)

    photos, inverter = photos_in_folder(faces.root), Dying()
    cache = cache_of(tmp_path / "c", faces, inverter)
    with pytest.raises(error, match="now"):
        run(photos, cache, inverter)
    assert threads() == [] and cache.keys() == faces.keys[:8]

    def read() -> Any:
        raise error("reader")

    photos[14] = replace(photos[14], read=read)
    toy = Toy()
    with pytest.raises(error, match="reader"):
        run(photos, cache, toy)
    assert threads() == [] and cache.keys() == faces.keys[:12], "all chunks before it"


def test_photos_are_read_while_the_device_works(faces: Faces, tmp_path: Path) -> None:
    """While a chunk is inverted, all of the next one is read; nothing beyond it and a photo per thread."""
    read: list[str] = []
    seen: list[int] = []

    class Slow(Toy):
        def invert(self, images: Tensor, batch_size: int | None = None) -> Inversion:
            deadline = time.monotonic() + 5
            wanted = min(22, 4 * (len(self.given) + 2))
            while len(read) < wanted and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(0.02)
            seen.append(len(read))
            return super().invert(images, batch_size)

    def noting(photo: Photo) -> Photo:
        def reading() -> tuple[Image.Image, str]:
            read.append(photo.key)
            return photo.read()

        return replace(photo, read=reading)

    inverter = Slow()
    cache = cache_of(tmp_path / "c", faces, inverter)
    run([noting(photo) for photo in photos_in_folder(faces.root)], cache, inverter, num_workers=2)
    assert len(seen) == 6
    for number, count in enumerate(seen):
        assert min(22, 4 * (number + 2)) <= count <= min(22, 4 * (number + 2) + 3), seen


def test_silly_num_workers(faces: Faces, tmp_path: Path) -> None:
    inverter = Toy()
    with pytest.raises(UserInputError, match="num_workers must not be negative, got -1"):
        run([], cache_of(tmp_path / "c", faces, inverter), inverter, num_workers=-1)


# Caches that were made otherwise


class Stricter(QualityJudge):
    """Measures one figure more."""

    names = ("mse", "psnr", "ssim", "identity")

    def __init__(self, network: str = "v1") -> None:
        super().__init__()
        self.names = Stricter.names
        self.network = network

    @property
    def settings(self) -> dict[str, Any]:
        return {"judge": {"identity": self.network}}

    def __call__(self, reconstructions: Tensor, images: Tensor) -> dict[str, Tensor]:
        told = reconstruction_quality(reconstructions, images)
        return {**told, "identity": torch.ones(len(images))}


def test_a_cache_with_fewer_figures_is_continued_with_those(faces: Faces, tmp_path: Path) -> None:
    photos, before, now = photos_in_folder(faces.root), Toy(), Toy(judge=Stricter())
    old = cache_of(tmp_path / "c", faces, before)
    run(photos[:8], old, before)
    header = old.header
    assert header.quality_names == ("mse", "psnr", "ssim")
    cache = cache_of(tmp_path / "c", faces, now)
    assert run(photos, cache, now).inverted == 14
    assert cache.header == header
    assert {tuple(found.quality) for found in cache.records()} == {("mse", "psnr", "ssim")}
    fresh = cache_of(tmp_path / "new", faces, now)
    assert fresh.header.quality_names == Stricter.names and fresh.header.inverter["judge"] == {"identity": "v1"}
    assert cache_of(tmp_path / "new", faces, Toy(judge=Stricter())).header == fresh.header


def test_what_is_still_refused(faces: Faces, tmp_path: Path) -> None:
    """Figures that this run does not measure, another judge for the same figures, and any other setting."""
    cache_of(tmp_path / "c", faces, Toy(judge=Stricter()))
    with pytest.raises(CacheError, match=r"inverter differs.*'v1'"):
        cache_of(tmp_path / "c", faces, Toy())
    with pytest.raises(CacheError, match=r"inverter differs.*'v1'.*'v2'"):
        cache_of(tmp_path / "c", faces, Toy(judge=Stricter("v2")))
    cache_of(tmp_path / "plain", faces, Toy())

    class Other(Toy):
        @property
        def settings(self) -> dict[str, Any]:
            return {**super().settings, "steps": 5}

    with pytest.raises(CacheError, match=r"inverter differs.*'steps': 5"):
        cache_of(tmp_path / "plain", faces, Other(judge=Stricter()))


# From the command line


def test_verify_after_the_run(own_faces: Faces, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints what was compared; a record that does not draw its photo any more ends it with 1."""
    cache = tmp_path / "c"
    fixed = ["--generator", own_faces.model, "--inverter", "encoder", "--embedder", "none", "--verify"]
    command = [str(word) for word in ("precompute", own_faces.root, "--cache", cache, *fixed)]
    assert main(command) == 0
    assert "22 drawn again, 22 compared" in capsys.readouterr().out
    wrong = LatentCache(cache).get(own_faces.keys[4])
    LatentCache(cache).put_many([replace(wrong, latents=wrong.latents + 3)])
    assert main(command) == 1
    out = capsys.readouterr().out
    assert "differing         1" in out and own_faces.keys[4] in out


def test_retry_failed_from_the_command_line(
    own_faces: Faces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own_faces.root / own_faces.keys[0]).write_bytes(b"broken")
    fixed = ["--generator", own_faces.model, "--inverter", "encoder", "--embedder", "none"]
    command = [str(word) for word in ("precompute", own_faces.root, "--cache", tmp_path / "c", *fixed)]
    assert main(command) == 0 and "left out: " in capsys.readouterr().err
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "1 image(s) failed before and have not changed: left out" in err
    assert "failed            1" in out and "--retry-failed" in err
    assert main([*command, "--retry-failed"]) == 0
    assert "left out: " in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", ""])
def test_silly_batch_sizes(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["precompute", "faces", "--cache", "x", "--batch-size", value])
    assert caught.value.code == 2 and "must be at least 1, or auto" in capsys.readouterr().err
