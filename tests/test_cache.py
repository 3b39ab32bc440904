"""The latent cache: its format, what it refuses, and what it survives."""

import contextlib
import functools
import json
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import stat
import struct
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ganaug import lmdb_pool, lmdb_verify
from ganaug.cache import DAMAGED, FOUND, MISSING, CacheHeader, LatentCache, Record
from ganaug.cache_format import Layout
from ganaug.cache_header import encode_header
from ganaug.cache_keys import checksum
from ganaug.interfaces import CacheError, LatentSpec

L, D = 6, 256  # 3 KB per record: outside LMDB's leaf pages, as real latents are
HEADER = CacheHeader(
    "toy", "a" * 64, LatentSpec("w_plus", L, D), {"mode": "center", "size": 64}, {"name": "toy", "steps": 3}
)
SMALL = replace(HEADER, latent_spec=LatentSpec("w_plus", 2, 4))  # inside leaf pages
REPOSITORY = Path(__file__).resolve().parents[1]


def make_record(key: str, header: CacheHeader = HEADER, version: int = 0) -> Record:
    """A record that can be told from its key and version alone."""
    generator = np.random.default_rng([version, *key.encode(errors="surrogatepass")])
    latents = generator.standard_normal(header.latent_spec.shape).astype(header.dtype)
    transform = generator.standard_normal((2, 3)).astype(np.float32)
    quality = {"mse": float(generator.random()), "psnr": float("nan"), "ssim": float(generator.random())}
    source_hash, size = generator.bytes(32).hex(), generator.integers(0, [5000, 1 << 24])
    delta = None if header.delta is None else generator.standard_normal(header.delta["size"]).astype(header.dtype)
    return Record(key, latents, quality, transform, source_hash, (int(size[0]), int(size[1])), delta)


def assert_same(got: Record, want: Record) -> None:
    assert got.key == want.key and got.source_hash == want.source_hash and got.photo_size == want.photo_size
    np.testing.assert_array_equal(got.latents, want.latents)
    assert (got.delta is None) == (want.delta is None)
    if got.delta is not None:
        np.testing.assert_array_equal(got.delta, want.delta)
    np.testing.assert_array_equal(got.transform, want.transform)
    assert got.quality.keys() == want.quality.keys()
    np.testing.assert_array_equal(list(got.quality.values()), [want.quality[name] for name in got.quality])


def fill(path: Path, count: int = 40, header: CacheHeader = HEADER, **options: Any) -> tuple[LatentCache, list[str]]:
    cache = LatentCache.create(path / "faces.lmdb", header, **options)
    keys = [f"person{i % 7}/{i:04d}.jpg" for i in range(count)]
    cache.put_many([make_record(key, header) for key in keys])
    return cache, sorted(keys)


def reads_right(cache: LatentCache, keys: list[str]) -> bool:
    latents, status, hashes, geometry, _ = cache.get_many(keys)
    wanted = [make_record(key) for key in keys]
    return (
        bool((status == FOUND).all())
        and np.array_equal(geometry, np.stack([(*record.transform.flat, *record.photo_size) for record in wanted]))
        and np.array_equal(latents, np.stack([record.latents for record in wanted]))
        and [bytes(row).hex() for row in hashes] == [record.source_hash for record in wanted]
    )


def run_python(code: str, *arguments: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}"}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False, **options)


@contextlib.contextmanager
def child_process(target: Callable[..., None], *arguments: object) -> Iterator[tuple[Any, Any]]:
    """A forked process that gets one end of a pipe as its last argument; the process and the other end."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    child = context.Process(target=target, args=(*arguments, theirs))
    child.start()
    theirs.close()
    try:
        yield child, mine
    finally:
        child.join(60)
        child.kill()
        mine.close()


# --- Values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [HEADER, SMALL, replace(HEADER, dtype="float32"), replace(SMALL, latent_spec=LatentSpec("w_plus", 3, 3))],
    ids=["float16", "small", "float32", "odd"],
)
def test_what_is_put_is_got(tmp_path: Path, header: CacheHeader) -> None:
    cache = LatentCache.create(tmp_path / "c", header)
    keys = ["b/1.jpg", "a/2.jpg", "", "\0zero", "ünïcödé/脸.png", "x" * 2000, "x" * 500, "x" * 501, "\udce4.jpg"]
    cache.put_many(make_record(key, header) for key in keys)
    assert len(cache) == len(keys) and cache.keys() == sorted(keys) and cache.verify() == []
    assert all(key in cache for key in keys) and "other" not in cache and 7 not in cache
    for key in keys:
        assert_same(cache.get(key), make_record(key, header))
    assert [record.key for record in cache.records()] == sorted(keys)
    asked = [*keys, "missing", keys[0], "y" * 3000]
    for _ in range(2):  # checked, then known to be sound
        found = cache.get_many(asked)
        latents, status, hashes = found.latents, found.status, found.source_hashes
        assert latents.dtype == np.dtype(header.dtype) and latents.shape == (len(asked), *header.latent_spec.shape)
        assert status.dtype == np.uint8 and status.shape == (len(asked),)
        assert hashes.dtype == np.uint8 and hashes.shape == (len(asked), 32)
        for row, key in enumerate(asked):
            assert status[row] == (FOUND if key in keys else MISSING)
            want = make_record(key, header).latents if key in keys else np.zeros(header.latent_spec.shape)
            np.testing.assert_array_equal(latents[row], want)
            assert bytes(hashes[row]) == (
                bytes.fromhex(make_record(key, header).source_hash) if key in keys else bytes(32)
            )
            transform, size = make_record(key, header).transform, make_record(key, header).photo_size
            np.testing.assert_array_equal(found.transforms[row], transform if key in keys else np.zeros((2, 3)))
            np.testing.assert_array_equal(found.photo_sizes[row], size if key in keys else (0, 0))
        assert found.transforms.dtype == found.photo_sizes.dtype == np.float32
        torch.testing.assert_close(
            torch.from_numpy(found.geometry)[:, :6].view(-1, 2, 3), torch.tensor(found.transforms)
        )
        found.geometry[:] = 0  # the caller's own
    with pytest.raises(KeyError):
        cache.get("missing")
    empty = cache.get_many([])
    assert empty.latents.shape == (0, *header.latent_spec.shape)
    assert empty.transforms.shape == (0, 2, 3) and empty.photo_sizes.shape == (0, 2)


def test_a_photo_size_that_is_none_is_refused(tmp_path: Path) -> None:
    cache = LatentCache.create(tmp_path / "c", SMALL)
    for size in ((-1, 5), (5, (1 << 24) + 1), (0.5, 1)):
        with pytest.raises(CacheError, match=r"'a'.*photo_size must be two whole numbers"):
            cache.put_many([replace(make_record("a", SMALL), photo_size=size)])
    assert len(cache) == 0


def test_a_cache_of_the_first_version_is_refused(tmp_path: Path) -> None:
    """Its records have no photo size, so every number behind it would be read from the wrong place."""
    old = {**SMALL.to_dict(), "format_version": 1}
    text = json.dumps(old, sort_keys=True).encode()
    contents = {"header": {b"header": struct.pack("<I", zlib.crc32(text)) + text}, "records": {}, "failures": {}}
    lmdb_pool.create(str(tmp_path / "old"), contents, 1 << 20)
    for use in (LatentCache(tmp_path / "old").keys, lambda: LatentCache.create(tmp_path / "old", SMALL)):
        with pytest.raises(CacheError, match=r"format version 1, but this ganaug reads versions 2 and 3\. Run `ganaug"):
            use()


FINITE16 = arrays(np.float16, (2, 4), elements=st.floats(width=16, allow_nan=False, allow_infinity=False))
TEXT = st.text(max_size=600)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.dictionaries(TEXT, st.tuples(FINITE16, st.floats(), st.binary(min_size=32, max_size=32)), max_size=4))
def test_any_keys_and_values_come_back(tmp_path: Path, entries: dict[str, Any]) -> None:
    path = tmp_path / str(time.monotonic_ns())
    cache = LatentCache.create(path, SMALL)
    records = [
        Record(
            key, latents, dict.fromkeys(("mse", "psnr", "ssim"), quality), np.zeros((2, 3), np.float32), digest.hex()
        )
        for key, (latents, quality, digest) in entries.items()
    ]
    cache.put_many(records)
    assert cache.keys() == sorted(entries)
    for record in records:
        assert_same(cache.get(record.key), record)
    cache.close()
    shutil.rmtree(path)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("num_qualities", [0, 1, 2, 3])
@pytest.mark.parametrize("delta", [None, {"size": 1}, {"size": 4}])
def test_torch_takes_the_arrays_as_they_are(
    tmp_path: Path, dtype: str, num_qualities: int, delta: dict[str, Any] | None
) -> None:
    names = tuple(f"q{number}" for number in range(num_qualities))
    header = replace(HEADER, dtype=dtype, latent_spec=LatentSpec("w_plus", 3, 5), quality_names=names, delta=delta)
    cache = LatentCache.create(tmp_path / "c", header)
    keys = ["a", "b", "c"]
    cache.put_many(replace_record(make_record(key, header), quality=dict.fromkeys(names, 1.0)) for key in keys)
    for asked in (keys, keys, keys[:1], [*keys, "missing"], ["missing"], []):
        found = cache.get_many(asked)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch warns of arrays that cannot be written to
            for array in found if delta is not None else found[:-1]:
                tensor = torch.from_numpy(array)
                assert array.flags.writeable and array.flags.aligned and np.array_equal(tensor.numpy(), array)
        assert torch.from_numpy(found.latents).dtype == getattr(torch, dtype)
        for row, key in enumerate(asked[:3]):
            if key in keys:
                np.testing.assert_array_equal(found.latents[row], make_record(key, header).latents)
                if found.delta is not None:
                    np.testing.assert_array_equal(found.delta[row], make_record(key, header).delta)
        assert (found.delta is None) == (delta is None)
    first, second = cache.get_many(keys), cache.get_many(keys)
    for array in first if delta is not None else first[:-1]:
        array[:] = 7  # the caller's own: neither the file nor another batch sees it
    assert not (second.latents == 7).all() and np.array_equal(cache.get_many(keys).latents, second.latents)
    assert cache.verify() == []


@pytest.mark.parametrize("num_qualities", [0, 1, 3])
def test_qualities_of_many(tmp_path: Path, num_qualities: int) -> None:
    names = tuple(f"q{number}" for number in range(num_qualities))
    header = replace(HEADER, latent_spec=LatentSpec("w_plus", 3, 5), quality_names=names)  # records of odd length
    cache = LatentCache.create(tmp_path / "c", header)
    keys = ["a", "b", "x" * 3000]
    quality = {key: {name: 10.0 * i + j for j, name in enumerate(names)} for i, key in enumerate(keys)}
    cache.put_many(replace_record(make_record(key, header), quality=quality[key]) for key in keys)
    asked = ["b", "missing", keys[2], "a", "b"]
    expected = np.array([[quality[key][name] if key in keys else np.nan for name in names] for key in asked])
    for _ in range(2):  # checked, then known to be sound
        found = cache.get_qualities(asked)
        assert found.dtype == np.float64 and found.shape == (5, num_qualities)
        np.testing.assert_array_equal(found, expected)
    assert cache.get_qualities([]).shape == (0, num_qualities)


def test_views_do_not_outlive_the_map(tmp_path: Path) -> None:
    """Known records are read through addresses in the map; where it moves or the state changes, they are new ones."""
    cache, keys = fill(tmp_path, 60, _map_size=1 << 18)
    assert reads_right(cache, keys) and reads_right(cache, keys)
    sizes = []

    def fail_in_a_larger_map(handle: lmdb_pool.Handle, transaction: Any) -> None:
        sizes.append(handle.environment.info()["map_size"])
        for number in range(200):
            transaction.put(b"x%d" % number, bytes(10_000), db=handle.databases["records"])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # the map has moved, the committed state is the same
        lmdb_pool.write(cache.path, ("header", "records", "failures"), fail_in_a_larger_map)
    assert len(sizes) > 1 and sizes[-1] > sizes[0]
    assert reads_right(cache, keys)

    def fork() -> None:
        lmdb_pool._POOL.before_fork()
        lmdb_pool._POOL.after_fork()

    more = [f"more{i}" for i in range(300)]
    for change in (
        lambda: cache.put_many(map(make_record, more)),
        lambda: cache.forget(more),
        cache.compact,
        cache.close,
        fork,
    ):
        change()
        assert reads_right(cache, keys) and reads_right(cache, keys[::-1])
    cache.put_many([make_record(keys[0], version=1)])
    np.testing.assert_array_equal(cache.get_many(keys).latents[0], make_record(keys[0], version=1).latents)
    assert cache.forget([keys[1]]) == 1 and cache.get_many(keys).status[1] == MISSING


def test_later_duplicates_win_within_a_call(tmp_path: Path) -> None:
    cache = LatentCache.create(tmp_path / "c", HEADER)
    cache.put_many([make_record("a", version=1), make_record("b"), make_record("a", version=2)])
    assert len(cache) == 2
    assert_same(cache.get("a"), make_record("a", version=2))
    cache.put_many([make_record("a", version=3)])
    assert_same(cache.get("a"), make_record("a", version=3))


def test_digest_depends_on_keys_and_latents_alone(tmp_path: Path) -> None:
    keys = [f"{i}.jpg" for i in range(30)] + ["long" * 200]
    one = LatentCache.create(tmp_path / "one", HEADER)
    one.put_many(make_record(key) for key in keys)
    other = LatentCache.create(tmp_path / "other", HEADER)
    for key in reversed(keys):
        record = make_record(key)
        other.put_many([replace_record(record, quality={"mse": 1.0, "psnr": 2.0, "ssim": 3.0})])
    assert one.digest() == other.digest()
    record = make_record(keys[3])
    record.latents[0, 0] += 1
    other.put_many([record])
    assert one.digest() != other.digest()


def replace_record(record: Record, **changes: Any) -> Record:
    return Record(**{**record.__dict__, **changes})


def bad(change: Callable[[np.ndarray[Any, Any]], Any]) -> Record:
    record = make_record("bad.jpg")
    return replace_record(record, latents=change(record.latents.astype(np.float64)))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (bad(lambda x: np.where(np.arange(D) == 3, np.nan, x)), "not finite"),
        (bad(lambda x: np.where(np.arange(D) == 3, np.inf, x)), "not finite"),
        (bad(lambda x: np.where(np.arange(D) == 3, -65505.0, x)), "65505.*float16.*65504"),
        (bad(lambda x: x[1:]), r"shape \(5, 256\), expected \(6, 256\)"),
        (bad(lambda x: x.astype(str)), "real numbers"),
        (replace_record(make_record("bad.jpg"), transform=np.zeros((3, 3))), r"\(2, 3\)"),
        (replace_record(make_record("bad.jpg"), transform=np.full((2, 3), np.nan)), "finite"),
        (replace_record(make_record("bad.jpg"), quality={"mse": 0.0}), "quality"),
        (replace_record(make_record("bad.jpg"), source_hash="abc"), "64 hex digits"),
    ],
)
def test_bad_records_are_refused_before_anything_is_written(tmp_path: Path, record: Record, message: str) -> None:
    cache = LatentCache.create(tmp_path / "c", HEADER)
    with pytest.raises(CacheError, match=message) as caught:
        cache.put_many([make_record("good.jpg"), record])
    assert "bad.jpg" in str(caught.value)
    assert len(cache) == 0


def test_failures_are_kept_until_a_record_comes(tmp_path: Path) -> None:
    cache = LatentCache.create(tmp_path / "c", HEADER)
    reasons = {"b.jpg": "no face", "a.jpg": "truncated file", "long" * 300: "grün", "": "odd"}
    cache.put_failures(reasons)
    assert cache.failures() == reasons and list(cache.failures()) == sorted(reasons)
    assert len(cache) == 0 and cache.keys() == []
    cache.put_many([make_record("a.jpg"), make_record("long" * 300)])
    assert cache.failures() == {"b.jpg": "no face", "": "odd"}
    cache.put_failures({})
    cache.put_many([])


# --- Header -----------------------------------------------------------------------------------------------------------

CHANGES: dict[str, Any] = {
    "fingerprint": "b" * 64,
    "latent_spec": LatentSpec("w_plus", L, D, {"hair": (0,)}),
    "alignment": {"mode": "center", "size": 128},
    "inverter": {"name": "toy", "steps": 4},
    "quality_names": ("mse",),
    "dtype": "float32",
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_header_is_refused_with_both_values(tmp_path: Path, name: str) -> None:
    LatentCache.create(tmp_path / "c", HEADER)
    other = replace(HEADER, **{name: CHANGES[name]})
    with pytest.raises(CacheError) as caught:
        LatentCache.create(tmp_path / "c", other)
    shown = str(caught.value)
    for header in (HEADER, other):
        assert name in shown and repr(header.to_dict()[name]) in shown
    merged = LatentCache.create(tmp_path / "other", other)
    with pytest.raises(CacheError, match=name):
        merged.merge(LatentCache(tmp_path / "c"))


def test_header_round_trip_and_reopening(tmp_path: Path) -> None:
    header = replace(HEADER, alignment={"box": (1, 2)}, latent_spec=LatentSpec("w_plus", 3, 4, {"hair": (0, 2)}))
    LatentCache.create(tmp_path / "c", header).put_many([])
    again = LatentCache.create(tmp_path / "c", replace(header, generator="elsewhere"))  # informative only
    assert again.header.latent_spec == header.latent_spec and again.header.generator == "toy"
    assert CacheHeader.from_dict(again.header.to_dict()) == again.header
    assert LatentCache(tmp_path / "c").header == again.header
    with pytest.raises(CacheError, match="version 99"):
        CacheHeader.from_dict({**header.to_dict(), "format_version": 99})
    with pytest.raises(CacheError, match="inverter"):
        CacheHeader.from_dict({name: value for name, value in header.to_dict().items() if name != "inverter"})
    with pytest.raises(CacheError, match="float64"):
        replace(header, dtype="float64")
    with pytest.raises(CacheError, match="JSON"):
        replace(header, inverter={"name": object()})


def test_check_generator(tmp_path: Path) -> None:
    cache = LatentCache.create(tmp_path / "c", HEADER)
    cache.check_generator("a" * 64, HEADER.latent_spec)
    with pytest.raises(CacheError, match=r"a{64}.*b{64}"):
        cache.check_generator("b" * 64, HEADER.latent_spec)
    with pytest.raises(CacheError, match=r"'num_ws': 6.*'num_ws': 18"):
        cache.check_generator("a" * 64, LatentSpec("w_plus", 18, D))


# --- The file ---------------------------------------------------------------------------------------------------------


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        cache, keys = fill(tmp_path)
        cache.forget(keys[:1])
        cache.get_many(keys)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(os.stat(cache.path).st_mode) == 0o700
    names = os.listdir(cache.path)
    assert set(names) == {"data.mdb", "lock.mdb"}
    assert {stat.S_IMODE(os.stat(os.path.join(cache.path, name)).st_mode) for name in names} == {0o600}


def test_no_cache_at_the_path(tmp_path: Path) -> None:
    cache = LatentCache(tmp_path / "none")  # no error before the first use
    with pytest.raises(CacheError, match="no latent cache at"):
        cache.get_many(["a"])
    assert not (tmp_path / "none").exists()
    (tmp_path / "none").mkdir()
    with pytest.raises(CacheError, match=r"holds no data\.mdb"):
        len(cache)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [(POINTER, "git lfs pull"), (b"", "empty"), (b"PK\x03\x04" * 4000, "not an LMDB"), (b"x", "truncated")],
)
def test_foreign_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "data.mdb").write_bytes(content)
    with pytest.raises(CacheError, match=message):
        LatentCache(tmp_path / "c").keys()
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CacheError, match="git lfs pull" if content == POINTER else "is a file"):
        LatentCache(tmp_path / "file").keys()
    with pytest.raises(CacheError):
        LatentCache.create(tmp_path / "file", HEADER)


def test_another_lmdb_file_is_refused(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "c")) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"key", b"value")
    with pytest.raises(CacheError, match="not a ganaug latent cache"):
        LatentCache(tmp_path / "c").keys()
    with pytest.raises(CacheError, match="not a ganaug latent cache"):
        LatentCache(tmp_path / "c").put_many([])


def test_every_truncation_is_an_error_and_none_kills_the_process(tmp_path: Path) -> None:
    cache, _ = fill(tmp_path, 60)
    cache.close()
    # One process for all of them: a SIGBUS would end it.
    code = """
        import os, random, shutil, sys
        from ganaug.cache import LatentCache
        from ganaug.interfaces import CacheError
        from test_cache import reads_right
        source, target = sys.argv[1:]
        keys = LatentCache(source).keys()
        size = os.path.getsize(source + "/data.mdb")
        cuts = [0, 1, 15, 16, 151, 152, 4095, 4096, 4200, 8191, 8192, size - 1, size - 4096]
        cuts += random.Random(0).sample(range(size), 60)
        errors = 0
        for number, cut in enumerate(cuts):
            path = f"{target}/{number}"
            shutil.copytree(source, path)
            os.truncate(path + "/data.mdb", cut)
            try:
                cache = LatentCache(path)
                assert reads_right(cache, keys) and len(cache.keys()) == len(keys) and cache.verify() == []
            except CacheError as error:
                errors += 1
                assert "truncated" in str(error) or "empty" in str(error), error
            LatentCache(path).close()
        # The second time in one process, and while it is open
        path = f"{target}/open"
        shutil.copytree(source, path)
        cache = LatentCache(path)
        assert reads_right(cache, keys)
        os.truncate(path + "/data.mdb", size // 2)
        for _ in range(2):
            try:
                cache.get_many(keys)
            except CacheError as error:
                errors += 1
                assert "truncated" in str(error)
        print(errors, len(cuts) + 2)
    """
    result = run_python(code, cache.path, tmp_path)
    assert result.returncode == 0, (result.returncode, result.stderr)
    errors, total = map(int, result.stdout.split())
    assert errors == total


def test_the_checkers_false_alarm_refuses_nobody(tmp_path: Path) -> None:
    verify = pytest.importorskip("lmdb.verify")
    cache, keys = fill(tmp_path)
    cache.close()
    with lmdb.open(cache.path, map_size=1 << 26, max_dbs=4) as environment:
        database = environment.open_db(b"failures")
        with environment.begin(write=True, db=database) as transaction:
            for name in (b"a", b"b"):
                transaction.put(name, bytes(20000))
                transaction.put(name, bytes(5000))
    assert verify.verify(cache.path)  # a sound file, and yet
    assert reads_right(cache, keys)


def test_without_the_checker_a_short_file_is_still_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, keys = fill(tmp_path)
    cache.close()
    monkeypatch.setattr(lmdb_verify, "checker", None)
    monkeypatch.setattr(lmdb_pool._POOL, "checked", {})
    assert reads_right(cache, keys)
    cache.close()
    os.truncate(Path(cache.path) / "data.mdb", 3 * os.path.getsize(Path(cache.path) / "data.mdb") // 4)
    with pytest.raises(CacheError, match="truncated"):
        cache.keys()


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    cache, keys = fill(tmp_path, 20)
    cache.close()
    data = Path(cache.path) / "data.mdb"
    content = data.read_bytes()
    latents_at = {key: content.index(make_record(key).latents.tobytes()) for key in keys}
    generator = random.Random(0)
    for _ in range(250):
        key = generator.choice(keys)
        size = 96 + L * D * 2  # crc, key length, transform, photo size, source hash, three quality numbers, latents
        position = latents_at[key] - 96 + generator.randrange(size)
        flipped = bytes([content[position] ^ 1 << generator.randrange(8)])
        overwrite(data, position, flipped)
        cache.close()
        latents, status, hashes, geometry, _ = cache.get_many(keys)
        row = keys.index(key)
        assert status[row] == DAMAGED and not any(array[row].any() for array in (latents, hashes, geometry))
        assert (np.delete(status, row) == FOUND).all()
        overwrite(data, position, content[position : position + 1])
    overwrite(data, position, flipped)
    cache.close()
    assert cache.verify() == [key]
    for method in (lambda: cache.get(key), cache.digest, lambda: list(cache.records())):
        with pytest.raises(CacheError, match="damaged"):
            method()
    with pytest.raises(CacheError, match="1 damaged"):
        LatentCache.create(tmp_path / "m", HEADER).merge(cache)
    cache.put_many([make_record(key)])  # what the error says
    assert cache.verify() == [] and reads_right(cache, keys)


def overwrite(path: Path, position: int, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(position)
        file.write(content)


def test_a_record_under_a_wrong_key_and_a_non_finite_one_are_damaged(tmp_path: Path) -> None:
    cache, keys = fill(tmp_path, 4)
    other = LatentCache.create(tmp_path / "other", replace(HEADER, dtype="float32"))
    record = make_record("nan", other.header)
    layout = other._layout()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "isfinite", lambda x: np.ones(np.shape(x), bool))
        record.latents[1, 1] = np.nan
        patch.setattr(np, "abs", lambda x: np.zeros(1))
        other._put([(b"nan", layout.encode(record, other.path))])
    value = cache._read(keys[:1])[1][0]
    assert value is not None
    cache._put([(b"wrong", value)])
    assert cache.get_many([*keys, "wrong"]).status.tolist() == [FOUND] * 4 + [DAMAGED]
    assert cache.verify() == ["wrong"]
    latents, status, *_ = other.get_many(["nan"])
    assert status[0] == DAMAGED and not latents.any() and other.verify() == ["nan"]


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    cache, _ = fill(tmp_path, 4)
    cache.close()
    data = Path(cache.path) / "data.mdb"
    overwrite(data, data.read_bytes().index(b'"alignment"'), b"#")
    with pytest.raises(CacheError, match=r"header.*damaged"):
        cache.get_many(["a"])


def test_verified_records_are_checked_again_after_a_commit(tmp_path: Path) -> None:
    cache, keys = fill(tmp_path, 4)
    assert reads_right(cache, keys)
    data = Path(cache.path) / "data.mdb"
    content = data.read_bytes()
    overwrite(data, content.index(make_record(keys[0]).latents.tobytes()), b"\xff")
    cache.put_failures({"x": "y"})
    assert cache.get_many(keys).status.tolist() == [DAMAGED, FOUND, FOUND, FOUND]


# --- Erasing and merging ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [HEADER, SMALL], ids=["large", "in-leaf-pages"])
def test_forgotten_bytes_are_gone(tmp_path: Path, header: CacheHeader) -> None:
    cache, keys = fill(tmp_path, 200, header)
    cache.put_many([make_record("very-long" * 100, header)])
    cache.put_failures({"person0/secret.jpg": "the reason"})
    gone, kept = [*keys[::3], "very-long" * 100], [key for key in keys if key not in keys[::3]]
    want = {key: cache.get(key) for key in kept}
    assert cache.forget([*gone, "person0/secret.jpg", "never-there"]) == len(gone)
    assert cache.keys() == kept and cache.failures() == {} and cache.verify() == []
    for key in kept:
        assert_same(cache.get(key), want[key])
    assert sorted(os.listdir(cache.path)) == ["data.mdb", "lock.mdb"]
    for name in os.listdir(cache.path):
        content = (Path(cache.path) / name).read_bytes()
        for key in gone:
            assert key.encode() not in content
            assert make_record(key, header).latents.tobytes() not in content
            assert bytes.fromhex(make_record(key, header).source_hash) not in content
        assert b"secret" not in content and b"the reason" not in content
    cache.put_many([make_record("new.jpg", header)])  # the new file can be written to
    assert len(cache) == len(kept) + 1
    assert cache.forget([]) == 0


def test_compact_frees_space(tmp_path: Path) -> None:
    cache, keys = fill(tmp_path, 200)
    for version in range(3):
        cache.put_many([make_record(key, version=version) for key in keys])
    before, digest = os.path.getsize(Path(cache.path) / "data.mdb"), cache.digest()
    cache.compact()
    assert os.path.getsize(Path(cache.path) / "data.mdb") < 0.7 * before
    assert cache.digest() == digest


def write_two_by_two(path: str, connection: Any) -> None:
    cache = LatentCache(path)
    cache.keys()
    for number in range(40):
        cache.put_many([make_record(f"child{number}"), make_record("shared", version=number)])
        connection.send(number)
    connection.recv()
    cache.put_many([make_record("after")])
    connection.send(len(cache))


def test_other_processes_follow_a_replaced_file(tmp_path: Path) -> None:
    cache, keys = fill(tmp_path, 60)
    with child_process(write_two_by_two, cache.path) as (_, connection):
        forgotten = 0
        while True:  # replaces the file while the child writes to it
            if forgotten < 20:
                assert cache.forget([keys[forgotten]]) == 1
                forgotten += 1
            assert reads_right(cache, keys[forgotten:])
            if connection.recv() == 39:
                break
        cache.forget(["shared"])
        connection.send("go on")
        assert connection.recv() == len(cache) == len(keys) - forgotten + 41  # none of the child's records is lost
    assert cache.verify() == []


def test_merge(tmp_path: Path) -> None:
    cache, keys = fill(tmp_path, 10)
    other = LatentCache.create(tmp_path / "other", replace(HEADER, generator="the same, elsewhere"))
    more = [f"other/{i}" for i in range(300)] + ["long" * 200]
    other.put_many(make_record(key) for key in [*more, keys[0]])
    other.put_failures({keys[1]: "no face", "third": "no face"})
    assert cache.merge(other) == len(more)  # the one with an equal key is the same, bit for bit
    assert cache.keys() == sorted(keys + more) and reads_right(cache, keys + more)
    assert cache.failures() == {"third": "no face"}
    with pytest.raises(CacheError, match="itself"):
        cache.merge(LatentCache(cache.path))


# --- Processes and threads --------------------------------------------------------------------------------------------


def test_pickles_as_its_path(tmp_path: Path) -> None:
    cache, keys = fill(tmp_path)
    reads_right(cache, keys)
    data = pickle.dumps(cache)
    assert len(data) < len(cache.path) + 100
    copy = pickle.loads(data)
    assert copy.path == cache.path and reads_right(copy, keys)


def test_two_objects_and_two_paths_share_one_open_file(tmp_path: Path) -> None:
    train, keys = fill(tmp_path)
    (tmp_path / "link").symlink_to(train.path)
    validation = LatentCache(tmp_path / "link")
    assert reads_right(train, keys[:20]) and reads_right(validation, keys[20:])
    validation.put_many([make_record("new")])
    assert "new" in train
    train.close()
    train.close()
    assert reads_right(validation, keys)


def read_in_worker(cache: LatentCache, keys: list[str]) -> bool:
    return reads_right(cache, keys) and len(cache) == len(keys)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_workers_read_after_the_parent_did(tmp_path: Path, method: str) -> None:
    cache, keys = fill(tmp_path)
    assert reads_right(cache, keys)  # the parent has it open for writing
    with multiprocessing.get_context(method).Pool(2) as pool:
        for _ in range(2):
            assert all(pool.map(functools.partial(read_in_worker, cache), [keys] * 4))
            assert reads_right(cache, keys)
    cache.put_many([make_record("new")])
    assert len(cache) == len(keys) + 1


def test_a_fork_without_hooks_opens_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, keys = fill(tmp_path)
    assert reads_right(cache, keys)
    handle = next(handle for handle in lmdb_pool._POOL.handles.values() if handle.directory == cache.path)
    monkeypatch.setattr(handle, "pid", os.getpid() + 1)  # as a child of a fork from C would see it
    assert reads_right(cache, keys)
    assert next(iter(lmdb_pool._POOL.handles.values())) is not handle


def test_forks_while_threads_read_and_write(tmp_path: Path) -> None:
    cache, keys = fill(tmp_path)
    stop, wrong = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            if not reads_right(cache, random.sample(keys, 5)):
                wrong.append("read")

    def write() -> None:
        while not stop.is_set():
            cache.put_many([make_record(key) for key in random.sample(keys, 5)])

    threads = [threading.Thread(target=target) for target in (read, read, write)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    code = 0 if reads_right(cache, keys) else 2
                finally:
                    os._exit(code)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong and cache.verify() == []


def write_batches(path: str, count: int, map_size: int, connection: Any) -> None:
    cache = LatentCache.create(path, HEADER, _map_size=map_size)
    for start in range(0, count, 8):
        cache.put_many([make_record(f"{number:05d}") for number in range(start, start + 8)])
        connection.send(start + 7)  # acknowledged


def test_a_reader_follows_a_growing_file(tmp_path: Path) -> None:
    small = 1 << 18  # room for some fifty records
    cache = LatentCache.create(tmp_path / "c", HEADER, _map_size=small)
    cache.keys()
    seen = 0
    with child_process(write_batches, cache.path, 800, small) as (child, _):
        while child.is_alive() or seen < 800:
            running = child.is_alive()
            keys = cache.keys()
            assert len(keys) >= seen and len(keys) % 8 == 0
            seen = len(keys)
            if keys:
                assert reads_right(cache, random.sample(keys, 8))
            assert running or seen == 800
    assert cache.verify() == []


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    cache, _ = fill(tmp_path, 0, _map_size=1 << 18)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(functools.partial(write_some, cache), ["a", "b"])
    assert len(cache) == 200 and cache.verify() == []


def write_some(cache: LatentCache, name: str) -> None:
    for number in range(100):
        cache.put_many([make_record(f"{name}{number}")])


def test_the_map_grows(tmp_path: Path) -> None:
    cache, keys = fill(tmp_path, 300, _map_size=1 << 17)
    assert reads_right(cache, keys)
    cache.close()
    assert reads_right(LatentCache(cache.path, _map_size=1 << 17), keys)


def test_killed_writers_lose_nothing(tmp_path: Path) -> None:
    generator = random.Random(0)
    cache, highest = LatentCache(tmp_path / "c"), -1
    for _ in range(15):
        with child_process(write_batches, cache.path, 100_000, 1 << 18) as (child, connection):
            highest = max(highest, connection.recv())
            time.sleep(generator.random() * 0.2)
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            with contextlib.suppress(EOFError, OSError):
                while True:
                    highest = max(highest, connection.recv())
        keys = cache.keys()
        assert len(keys) >= highest + 1 and len(keys) % 8 == 0  # whole batches
        assert cache.verify() == [] and reads_right(cache, keys)


def test_slots_of_killed_readers_are_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_pool, "_MAX_READERS", 4)
    cache, keys = fill(tmp_path)
    code = """
        import os, signal, sys, lmdb
        for _ in range(4):
            if os.fork() == 0:
                environment = lmdb.open(sys.argv[1], readonly=True, max_dbs=4)
                transaction = environment.begin()
                os.kill(os.getpid(), signal.SIGKILL)
            os.wait()
    """
    assert reads_right(cache, keys)
    result = run_python(code, cache.path)
    assert result.returncode == 0, result.stderr
    assert reads_right(cache, keys)


# --- Disks ------------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_and_earlier_records_stay(tmp_path: Path) -> None:
    cache, keys = fill(tmp_path)
    size = os.path.getsize(Path(cache.path) / "data.mdb")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4096 * 3, hard))  # the system refuses to write on, as if full
    try:
        with pytest.raises(CacheError, match=r"bytes are free.*earlier records are intact"):
            cache.put_many([make_record(f"more{i}") for i in range(50)])
        assert reads_right(cache, keys)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
        with pytest.raises(CacheError, match="bytes are free"):
            cache.compact()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert cache.keys() == keys and cache.verify() == []
    cache.put_many([make_record(f"more{i}") for i in range(50)])
    assert len(cache) == len(keys) + 50


def test_a_read_only_folder_is_read_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, keys = fill(tmp_path)
    cache.close()
    os.unlink(Path(cache.path) / "lock.mdb")
    real = os.access  # root may write anywhere, so chmod would prove nothing in most containers
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and real(path, mode))
    assert reads_right(cache, keys) and cache.verify() == [] and LatentCache.create(cache.path, HEADER).keys() == keys
    for write in (
        lambda: cache.put_many([make_record("a")]),
        lambda: cache.put_failures({"a": "b"}),
        lambda: cache.forget(keys[:1]),
        cache.compact,
    ):
        with pytest.raises(CacheError, match="read-only"):
            write()
    assert os.listdir(cache.path) == ["data.mdb"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CacheError, match="read-only"):
        LatentCache.create(tmp_path / "empty", HEADER)
    assert reads_right(cache, keys)


def test_little_address_space_is_enough(tmp_path: Path) -> None:
    cache, _ = fill(tmp_path)
    code = """
        import resource, sys
        from ganaug.cache import LatentCache
        from test_cache import reads_right
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), used + (1 << 30)))
        cache = LatentCache(sys.argv[1])
        assert reads_right(cache, cache.keys())
    """
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("needs /proc")
    result = run_python(code, cache.path)
    assert result.returncode == 0, result.stderr


DELTA = replace(HEADER, delta={"kind": "toy", "size": 300})  # outside leaf pages, too


def test_deltas_are_records_like_latents(tmp_path: Path) -> None:
    """Written, read, checked, told apart by the digest, merged and forgotten with their records."""
    cache, keys = fill(tmp_path, 6, DELTA)
    assert json.loads(json.dumps(cache.header.to_dict()))["format_version"] == 3 and cache.header == DELTA
    for key in keys:
        assert_same(cache.get(key), make_record(key, DELTA))
    found = cache.get_many([keys[1], "missing", keys[0]])
    assert found.delta is not None and found.status.tolist() == [FOUND, MISSING, FOUND]
    np.testing.assert_array_equal(found.delta[[0, 2]], [make_record(key, DELTA).delta for key in (keys[1], keys[0])])
    assert not found.delta[1].any()  # changes nothing
    before, record = cache.digest(), make_record(keys[0], DELTA)
    assert record.delta is not None
    cache.put_many([replace_record(record, delta=record.delta + np.float16(1))])
    assert cache.digest() != before
    other = LatentCache.create(tmp_path / "other", DELTA)
    assert other.merge(cache) == 6 and other.digest() == cache.digest()
    assert other.forget(keys[:2]) == 2 and other.verify() == [] and other.keys() == keys[2:]


def test_what_is_no_delta_of_the_cache_is_refused(tmp_path: Path) -> None:
    cache, keys = fill(tmp_path, 2, DELTA)
    record = make_record("new", DELTA)
    assert record.delta is not None
    wrong: list[tuple[np.ndarray[Any, Any] | None, str]] = [
        (None, "lacks a delta"),
        (record.delta[:-1], r"delta of shape \(299,\), expected \(300,\)"),
        (np.full(300, np.nan), "delta are not finite"),
        (np.full(300, 1e6), "float16"),
    ]
    for delta, why in wrong:
        with pytest.raises(CacheError, match=f"'new'.*{why}"):
            cache.put_many([replace_record(record, delta=delta)])
    plain, _ = fill(tmp_path / "plain", 2)
    with pytest.raises(CacheError, match="has a delta"):
        plain.put_many([record])
    with pytest.raises(CacheError, match=r"delta differs: .* has None, .* has {'kind': 'toy'"):
        plain.merge(cache)
    with pytest.raises(CacheError, match="size"):
        replace(HEADER, delta={"kind": "toy"})
    assert cache.keys() == keys


def test_damage_in_a_delta_is_seen() -> None:
    key = "ann.jpg"
    layout = Layout.of(DELTA)
    storage = key.encode()
    value = bytearray(layout.encode(make_record(key, DELTA), "here"))
    assert layout.is_sound(key, storage, value) and len(value) == layout.record_bytes
    for place in (-1, -600, -601):  # ends of the delta, and the last byte of the latents
        bad = bytearray(value)
        bad[place] ^= 1
        assert not layout.is_sound(key, storage, bad)
    value[-2:] = np.float16(np.inf).tobytes()  # and with the right checksum
    value[:4] = struct.pack("<I", checksum(key, bytes(value[4:])))
    assert not layout.is_sound(key, storage, value)


# Of SMALL, as it was written before there were deltas.
HEADER_BEFORE = (
    '{"alignment": {"mode": "center", "size": 64}, "anchored": false, "dtype": "float16", "fingerprint": "%s", '
    '"format_version": 2, "generator": "toy", "inverter": {"name": "toy", "steps": 3}, '
    '"latent_spec": {"num_ws": 2, "parts": {}, "space": "w_plus", "w_dim": 4}, '
    '"quality_names": ["mse", "psnr", "ssim"]}'
) % ("a" * 64)


def test_a_cache_without_deltas_is_what_it_was(tmp_path: Path) -> None:
    """Caches of older versions open and go on; new ones without deltas are the same to the byte."""
    text = HEADER_BEFORE.encode()
    stored = struct.pack("<I", zlib.crc32(text)) + text
    lmdb_pool.create(str(tmp_path / "old"), {"header": {b"header": stored}, "records": {}, "failures": {}}, 1 << 20)
    old = LatentCache.create(tmp_path / "old", SMALL)  # continued
    old.put_many([make_record("a", SMALL)])
    assert old.header == SMALL and old.get("a").delta is None and old.get_many(["a"]).delta is None
    assert encode_header(SMALL) == stored
    assert len(Layout.of(SMALL).encode(make_record("a", SMALL), "here")) == 8 + 32 + 32 + 3 * 8 + 2 * 2 * 4
