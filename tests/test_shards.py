"""Shards: every photo in exactly one; and their caches into one again."""

import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import CONFIG, QUALITY, Faces, random_latents
from hypothesis import given
from hypothesis import strategies as st

from ganaug.cache import CacheHeader, LatentCache, Record
from ganaug.cache_failures import Failure
from ganaug.cli import main
from ganaug.faces.photos import Photo
from ganaug.interfaces import CacheError, LatentSpec, UserInputError
from ganaug.shards import MergeResult, Shard, merge_caches

SPEC = LatentSpec("w_plus", 2 * len(CONFIG.channels), CONFIG.w_dim)
HEADER = CacheHeader("toy", "a" * 64, SPEC, {"mode": "center", "size": 16}, {"name": "toy", "steps": 3})
HASHES = ["1" * 64, "2" * 64]


def record(key: str, source: int = 0, seed: str = "") -> Record:
    return Record(key, random_latents(key + seed), QUALITY, np.eye(2, 3, dtype=np.float32), HASHES[source], (20, 20))


def fill(path: Path, *records: Record, failures: dict[str, str | Failure] | None = None) -> LatentCache:
    cache = LatentCache.create(path, HEADER)
    cache.put_many(records)
    cache.put_failures(failures or {})
    return cache


def latents(cache: LatentCache) -> dict[str, bytes]:
    return {found.key: found.latents.tobytes() for found in cache.records()}


# Which photos a shard takes


@given(st.lists(st.text(), unique=True, max_size=60), st.integers(1, 9))
def test_disjoint_and_complete(keys: list[str], count: int) -> None:
    photos = [Photo(key, lambda: pytest.fail("read")) for key in keys]
    parts = [Shard(number, count).of(photos) for number in range(1, count + 1)]
    assert sorted(photo.key for part in parts for photo in part) == sorted(keys)
    for part in parts:
        assert [photo.key for photo in part] == [key for key in keys if key in {photo.key for photo in part}], "order"


@given(st.lists(st.text(), unique=True), st.lists(st.text(), unique=True), st.integers(1, 5))
def test_a_list_that_grows_moves_nobody(keys: list[str], more: list[str], count: int) -> None:
    shard = Shard(count, count)
    before = {photo.key for photo in shard.of([Photo(key, lambda: pytest.fail("read")) for key in keys])}
    after = {photo.key for photo in shard.of([Photo(k, lambda: pytest.fail("read")) for k in {*keys, *more}])}
    assert after & set(keys) == before


def test_shares_are_about_equal_and_stay_what_they_are() -> None:
    keys = [f"person{i // 7}/{i:05}.jpg" for i in range(8000)]
    counts = [sum(Shard(number, 8).holds(key) for key in keys) for number in range(1, 9)]
    assert all(880 < count < 1120 for count in counts), counts  # four standard deviations of a binomial draw
    # sha256("ann.jpg") begins with these 8 bytes, by coreutils' sha256sum; a cache made with shards relies on it.
    digest = subprocess.run(["sha256sum"], input=b"ann.jpg", capture_output=True, check=True).stdout[:16]
    assert Shard(int(digest, 16) % 5 + 1, 5).holds("ann.jpg")
    assert Shard(1, 1).holds(os.fsdecode(b"latin-\xe9.png")), "a name that is no UTF-8"


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/", "/2", "a/b", "1/0", "-1/2", "1/2/3", "½/2", "1 /2", ""])
def test_silly_shards(text: str) -> None:
    with pytest.raises(UserInputError, match="expected K/N with K from 1 to N, such as 2/8"):
        Shard.parse(text)


def test_parse() -> None:
    assert Shard.parse("2/8") == Shard(2, 8)


# Merging


def test_merge_and_merge_again(tmp_path: Path) -> None:
    first = fill(tmp_path / "1", record("a"), record("b"), failures={"x": Failure("no face", "c" * 64), "c": "no face"})
    second = fill(tmp_path / "2", record("c"), failures={"y": "broken"})
    result = merge_caches(tmp_path / "out", [first.path, second.path])
    assert result == MergeResult(caches=2, records=3, written=3, conflicts=0, damaged_left_out=0, failures=2)
    out = LatentCache(tmp_path / "out")
    assert latents(out) == latents(first) | latents(second) and out.header == first.header
    assert out.stamped_failures() == {"x": Failure("no face", "c" * 64), "y": Failure("broken")}
    before = (tmp_path / "out" / "data.mdb").read_bytes()
    again = merge_caches(tmp_path / "out", [first.path, second.path])
    assert again == replace(result, written=0)
    assert (tmp_path / "out" / "data.mdb").read_bytes() == before
    third = fill(tmp_path / "3", record("d"))
    assert merge_caches(tmp_path / "out", [third.path]).records == 4, "added to"


def test_of_two_records_of_one_key_the_last_wins(tmp_path: Path) -> None:
    old = fill(tmp_path / "old", record("a", 0), record("b", 0), record("c", 0))
    new = fill(tmp_path / "new", record("a", 1, "new"), record("b", 0, "inverted anew"))
    result = merge_caches(tmp_path / "out", [old.path, new.path])
    assert (result.records, result.conflicts) == (3, 1), "a: of another photo; b: of the same"
    out = LatentCache(tmp_path / "out")
    assert out.get("a").source_hash == HASHES[1] and latents(out) == latents(old) | latents(new)
    assert merge_caches(tmp_path / "other", [new.path, old.path]).conflicts == 1
    assert latents(LatentCache(tmp_path / "other")) == latents(new) | latents(old)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fingerprint", "b" * 64),
        ("alignment", {"mode": "center", "size": 32}),
        ("inverter", {"name": "toy", "steps": 4}),
        ("dtype", "float32"),
        ("quality_names", ("mse", "psnr")),
    ],
)
def test_other_headers_are_refused_with_both_values(tmp_path: Path, name: str, value: object) -> None:
    first = fill(tmp_path / "1", record("a"))
    other = LatentCache.create(tmp_path / "2", replace(HEADER, **{name: value}))  # type: ignore[arg-type]
    for out, shards in ((tmp_path / "out", (first, other)), (Path(other.path), (first,))):
        with pytest.raises(CacheError) as caught:
            merge_caches(out, [shard.path for shard in shards])
        for header in (first.header, other.header):
            assert name in str(caught.value) and repr(header.to_dict()[name]) in str(caught.value)
    assert not (tmp_path / "out").exists() and len(other) == 0, "refused before anything is made"


def test_mistakes(tmp_path: Path) -> None:
    first = fill(tmp_path / "1", record("a"))
    with pytest.raises(UserInputError, match="nothing to merge"):
        merge_caches(tmp_path / "out", [])
    with pytest.raises(CacheError, match="is to be made, and one of the caches to merge into it"):
        merge_caches(first.path, [first.path])
    with pytest.raises(CacheError, match="there is no latent cache at"):
        merge_caches(tmp_path / "out", [first.path, tmp_path / "nowhere"])
    assert not (tmp_path / "out").exists()


def damage(cache: LatentCache, key: str) -> None:
    """Flips a bit in a record's latents, in the file."""
    needle, file = cache.get(key).latents.tobytes(), Path(cache.path) / "data.mdb"
    cache.close()
    data = file.read_bytes()
    assert data.count(needle) == 1
    file.write_bytes(data.replace(needle, bytes([needle[0] ^ 0x10]) + needle[1:]))


def test_damaged_records(tmp_path: Path) -> None:
    """Named and refused, or left out on request; one that ``out`` has is replaced by a whole one."""
    first = fill(tmp_path / "1", record("a"), record("b"))
    second = fill(tmp_path / "2", record("c"))
    want = latents(first) | latents(second)
    damage(first, "b")
    with pytest.raises(CacheError, match=r"1 damaged record\(s\), the first is 'b'.*precompute.*--skip-damaged"):
        merge_caches(tmp_path / "out", [second.path, first.path])
    assert not (tmp_path / "out").exists()
    result = merge_caches(tmp_path / "out", [second.path, first.path], skip_damaged=True)
    assert (result.records, result.damaged_left_out) == (2, 1)
    out = LatentCache(tmp_path / "out")
    assert latents(out) == {key: want[key] for key in ("a", "c")}
    damage(out, "a")
    first.put_many([record("b")])
    assert merge_caches(out.path, [first.path]).written == 2
    assert out.verify() == [] and latents(out) == want


def test_killed_while_merging(tmp_path: Path) -> None:
    """A merge that is killed after its first commit, and run again, ends with the records of one that was not."""
    keys = [f"{i:04}" for i in range(600)]
    first = fill(tmp_path / "1", *map(record, keys[:400]))
    second = fill(tmp_path / "2", *map(record, keys[400:]))
    code = f"""
        import os
        from ganaug import cache, shards
        put, calls = cache.LatentCache._put, []
        def dying(self, values):
            written = put(self, values)
            calls.append(1)
            if len(calls) == 2:
                os.kill(os.getpid(), 9)
            return written
        cache.LatentCache._put = dying
        shards.merge_caches({str(tmp_path / "out")!r}, [{first.path!r}, {second.path!r}])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    out = LatentCache(tmp_path / "out")
    assert done.returncode == -9 and out.keys() == keys[:400]
    result = merge_caches(out.path, [first.path, second.path])
    assert (result.records, result.written) == (600, 200)
    assert latents(out) == latents(first) | latents(second)


# From the command line


def test_shards_of_a_folder_from_the_command_line(
    faces: Faces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three shards, merged, hold all photos: a run over OUT has nothing left to do."""

    def run(*arguments: object) -> str:
        fixed = ("precompute", faces.root, "--generator", faces.model, "--inverter", "encoder", "--embedder", "none")
        given = arguments if arguments[0] == "merge" else (*fixed, *arguments)
        assert main([str(argument) for argument in given]) == 0
        return capsys.readouterr().out

    caches = [tmp_path / f"{number}.lmdb" for number in (1, 2, 3)]
    for number, cache in enumerate(caches, 1):
        run("--cache", cache, "--shard", f"{number}/3")
    parts = [LatentCache(cache).keys() for cache in caches]
    assert sorted(key for part in parts for key in part) == faces.keys and all(parts)
    printed = run("merge", tmp_path / "faces.lmdb", *caches)
    assert "records          22" in printed and "conflicts        0" in printed
    assert LatentCache(tmp_path / "faces.lmdb").keys() == faces.keys
    assert "inverted          0" in run("--cache", tmp_path / "faces.lmdb", "--verify")
    many = 200  # of which some hold nothing
    empty = next(n for n in range(1, many + 1) if not any(Shard(n, many).holds(key) for key in faces.keys))
    assert "images            0" in run("--cache", tmp_path / "empty.lmdb", "--shard", f"{empty}/{many}")
    assert main(["precompute", str(faces.root), "--cache", str(tmp_path / "x"), "--shard", "4/3"]) == 2
    assert "expected K/N" in capsys.readouterr().err
