"""Directions of the field: what a file holds, what it was made for, and that nothing else gets through."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from ganaug.edits import ATTRIBUTES, Direction, build_edits
from ganaug.edits.published import import_directions, measure_std
from ganaug.edits.stored import load_directions, write_directions
from ganaug.errors import CheckpointError, UserInputError
from ganaug.generators import VAE, StyleGAN2, StyleGAN2Config, VAEConfig
from ganaug.published.directions import read_directions

D, L = 10, 6


def build(seed: int) -> StyleGAN2:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return StyleGAN2(StyleGAN2Config(16, 12, D, 2, (6, 6, 6))).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    generator = build(0)
    assert generator.latent_spec.shape == (L, D)
    return generator


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def unit(array: np.ndarray) -> np.ndarray:
    return array / np.linalg.norm(array)


def save(path: Path, value: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".pt":
        torch.save(value, path)
    elif path.suffix == ".npz":
        np.savez_compressed(path, **value)
    else:
        np.save(path, value)
    return path


def components(count: int = 4, std: float = 0.5) -> dict[str, np.ndarray]:
    """What GANSpace's decomposition.py writes, in its types."""
    basis = np.linalg.qr(random(D, D))[0][:count].astype(np.float32)
    return {
        "act_comp": basis[:, None],
        "act_mean": random(1, D).astype(np.float32),
        "act_stdev": np.ones(count, np.float32),
        "lat_comp": basis[:, None],
        "lat_mean": random(1, D, seed=1).astype(np.float32),
        "lat_stdev": np.linspace(2 * std, std, count).astype(np.float32),
        "var_ratio": np.ones(count, np.float32),
        "random_stdevs": np.ones(count, np.float32),
    }


@pytest.mark.parametrize("suffix", ["npy", "pt", "legacy"])
@pytest.mark.parametrize("shape", [(D,), (1, D), (1, 1, D), (1, L, D), (L, D)])
def test_one_direction(shape: tuple[int, ...], suffix: str, tmp_path: Path) -> None:
    array = random(*shape)
    path = tmp_path / f"age.{'npy' if suffix == 'npy' else 'pt'}"
    if suffix == "legacy":
        torch.save(torch.from_numpy(array).float(), path, _use_new_zipfile_serialization=False)
    else:
        save(path, array if suffix == "npy" else torch.from_numpy(array).float())
    found = read_directions(path)
    expected = unit(array).reshape(1, D) if array.size == D else unit(array).reshape(1, L, D)
    np.testing.assert_allclose(found.vectors, expected, rtol=1e-5, atol=1e-7)
    assert found.vectors.dtype == torch.float32
    assert found.names == ("age",)
    assert (found.std, found.mean, found.space, found.made_for, found.evidence) == (None, None, None, None, "")


def test_equal_rows_are_a_direction_of_w(tmp_path: Path) -> None:
    """e4e's pose.pt: (1, 18, 512), every row the same and of unit length."""
    row = unit(random(D)).astype(np.float32)
    found = read_directions(save(tmp_path / "pose.pt", torch.from_numpy(np.tile(row, (1, 18, 1)))))
    np.testing.assert_allclose(found.vectors, row[None], rtol=1e-6)


@pytest.mark.parametrize("kind", ["e4e", "ganspace"])
def test_components(kind: str, tmp_path: Path, generator: StyleGAN2) -> None:
    data = components()
    if kind == "e4e":
        keys = {"mean": "lat_mean", "comp": "lat_comp", "std": "lat_stdev"}
        path = save(tmp_path / "ffhq_pca.pt", {key: torch.from_numpy(data[old]) for key, old in keys.items()})
    else:
        path = save(tmp_path / "stylegan2-ffhq_style_ipca_c4_n10000_w.npz", data)
    found = read_directions(path)
    np.testing.assert_allclose(found.vectors, data["lat_comp"][:, 0], rtol=1e-6)
    assert found.std is not None and found.mean is not None
    np.testing.assert_array_equal(found.std, data["lat_stdev"])
    np.testing.assert_array_equal(found.mean, data["lat_mean"][0])
    assert found.made_for == (None if kind == "e4e" else "stylegan2")
    assert found.space == (None if kind == "e4e" else "w")
    edits = import_directions(path, generator, made_for="stylegan2", name="pca", rows=[3, 2])
    assert [edit.name for edit in edits] == ["pca0", "pca1", "pca2", "pca3"]
    assert all(edit.touches == ATTRIBUTES and edit.rows == (2, 3) for edit in edits)
    moved = edits[1].apply(torch.zeros(1, L, D), {"strength": torch.tensor([2.0])})[0].numpy()
    expected = np.zeros((L, D), np.float32)
    expected[2:4] = 2.0 * data["lat_stdev"][1] * data["lat_comp"][1, 0]
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-7)


def test_components_of_z(tmp_path: Path, generator: StyleGAN2) -> None:
    """GANSpace measures the latents' deviations in W alone and writes ones in Z."""
    data = components() | {"lat_stdev": np.ones(4, np.float32)}
    path = save(tmp_path / "stylegan2-ffhq_style_ipca_c4_n10000.npz", data)
    with pytest.raises(CheckpointError, match=r"a direction of Z .*all 1"):
        import_directions(path, generator)
    with pytest.raises(CheckpointError, match="of W, says its name"):
        read_directions(save(tmp_path / "stylegan2-ffhq_style_ipca_c4_n10000_w.npz", data))


def test_named_directions(tmp_path: Path, generator: StyleGAN2) -> None:
    path = save(tmp_path / "all.npz", {"smile": random(1, D), "beard": random(1, D, seed=1)})
    edits = import_directions(path, generator, made_for="stylegan2")
    assert {edit.name: edit.touches for edit in edits} == {"smile": {"expression"}, "beard": ATTRIBUTES}


@pytest.mark.parametrize(
    ("name", "family", "space"),
    [
        ("stylegan_ffhq_age_boundary.npy", "stylegan1", "z"),
        ("stylegan_ffhq_eyeglasses_w_boundary.npy", "stylegan1", "w"),
        ("stylegan_celebahq_age_c_gender_boundary.npy", "stylegan1", "z"),
        ("pggan_celebahq_smile_boundary.npy", "pggan", "z"),
        ("stylegan_ffhq_w/boundary_Bald.npy", "stylegan1", "w"),
        ("stylegan_ffhq_age_w_boundary (1).npy", "stylegan1", None),
    ],
)
def test_other_generators_are_refused(
    name: str, family: str, space: str | None, tmp_path: Path, generator: StyleGAN2
) -> None:
    path = save(tmp_path / name, random(1, D))
    found = read_directions(path)
    assert (found.made_for, found.space) == (family, space)
    for made_for in (None, "stylegan2", generator.fingerprint):
        with pytest.raises(CheckpointError, match=rf"made for {family} .*but the generator is stylegan2.*no generator"):
            import_directions(path, generator, made_for=made_for)


def test_interfacegan_plus_plus(tmp_path: Path, generator: StyleGAN2) -> None:
    (edit,) = import_directions(save(tmp_path / "stylegan2_ffhq_w" / "boundary_Smiling.npy", random(1, D)), generator)
    assert edit.name == "boundary_Smiling"
    assert edit.touches == {"expression"}
    with pytest.raises(CheckpointError, match=r"a direction of Z \(its folder, stylegan2_ffhq_z"):
        import_directions(save(tmp_path / "stylegan2_ffhq_z" / "boundary_Smiling.npy", random(1, D)), generator)
    with pytest.raises(CheckpointError, match=r"made for stylegan3 .*the generator is stylegan2: on another family"):
        import_directions(save(tmp_path / "stylegan3_z" / "boundary_Male.npy", random(1, D)), generator)


def test_nobody_says_what_it_was_made_for(tmp_path: Path, generator: StyleGAN2) -> None:
    path = save(tmp_path / "age.pt", torch.from_numpy(random(1, D)))
    with pytest.raises(UserInputError, match=r"does not say which generator it was made for.*made_for"):
        import_directions(path, generator)
    other = build(1).fingerprint
    with pytest.raises(CheckpointError, match=f"fingerprint {other}, but this one has {generator.fingerprint}"):
        import_directions(path, generator, made_for=other)
    with pytest.raises(CheckpointError, match="made for stylegan3, as made_for says, but the generator is stylegan2"):
        import_directions(path, generator, made_for="stylegan3")
    for made_for in ("stylegan2", generator.fingerprint):
        (edit,) = import_directions(path, generator, made_for=made_for)
        assert edit.name == "age"
        assert edit.touches == {"age", "gender", "glasses", "identity"}
        assert build_edits([edit], generator) == [edit]


def test_arguments(tmp_path: Path, generator: StyleGAN2) -> None:
    path = save(tmp_path / "age.pt", torch.from_numpy(random(1, D)))
    (edit,) = import_directions(path, generator, made_for="stylegan2", name="old", touches={"age"}, strength=(0.5, 1))
    assert (edit.name, edit.touches, edit.strength, edit.rows) == ("old", {"age"}, (0.5, 1), tuple(range(L)))
    for rows in ([], [L], [-1], [1.5], [True]):
        with pytest.raises(UserInputError, match=f"expected some of 0 to {L - 1}"):
            import_directions(path, generator, made_for="stylegan2", rows=rows)
    with pytest.raises(UserInputError, match="touches hairr: expected"):
        import_directions(path, generator, made_for="stylegan2", touches={"hairr"})
    with pytest.raises(CheckpointError, match="a direction of Z; edits move W"):
        import_directions(path, generator, made_for="stylegan2", space="z")
    with pytest.raises(UserInputError, match="space is 'x'"):
        import_directions(path, generator, made_for="stylegan2", space="x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (random(1, 512), f"512 numbers, but the generator's W has {D}"),
        (random(1, 18, D), f"18 rows, but the generator's W\\+ has {L}"),
        (np.full((1, D), np.nan), "NaN or infinite"),
        (np.full((1, D), np.inf), "NaN or infinite"),
        (np.zeros((1, D)), "no length"),
        (np.zeros((0, D)), "expected \\(1, D\\)"),
        (random(2, 2, 2, D), "expected \\(1, D\\)"),
        (np.ones((1, D), bool), "bool|plain numbers"),
        (np.ones((1, D), complex), "complex|plain numbers"),
        (np.array(3.0), "expected \\(1, D\\)"),
    ],
)
def test_files_without_a_fitting_direction(
    value: np.ndarray, reason: str, tmp_path: Path, generator: StyleGAN2
) -> None:
    with pytest.raises(CheckpointError, match=rf"age.npy: .*({reason})"):
        import_directions(save(tmp_path / "age.npy", value), generator, made_for="stylegan2")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({}, "without named directions"),
        ({"a": torch.ones(1, D), "b": torch.ones(1, 3)}, "one direction each of one shape"),
        ({"comp": torch.ones(3, 1, D)}, "without mean, std"),
        ({"comp": torch.ones(3, 1, D), "std": torch.ones(2), "mean": torch.ones(1, D)}, "2 numbers for 3 components"),
        ({"comp": torch.ones(3, 1, D), "std": -torch.ones(3), "mean": torch.ones(1, D)}, "negative"),
        ({"comp": torch.ones(3, 1, D), "std": torch.ones(3), "mean": torch.ones(1, 7)}, "does not fit"),
        ({"a": "text"}, "'a' is a str"),
        ([1, 2], "is a list"),
    ],
)
def test_other_trees(value: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"some.pt: .*{reason}"):
        read_directions(save(tmp_path / "some.pt", value))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"age.npy: no such file"):
        read_directions(tmp_path / "age.npy")


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("trapped"),)


@pytest.mark.parametrize("kind", ["npy", "npz", "pt"])
def test_hostile_files_run_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"age.{kind}"
    objects = np.array([Trap()], dtype=object)
    if kind == "npy":
        np.save(path, objects, allow_pickle=True)
    elif kind == "npz":
        np.savez(path, smile=objects)
    else:
        path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match=f"age.{kind}"):
        read_directions(path)
    assert not Path("trapped").exists()


def test_a_small_archive_that_claims_a_huge_array(tmp_path: Path) -> None:
    path = tmp_path / "age.npz"
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1, 100000000000), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("smile.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 64)
    with pytest.raises(CheckpointError, match=r"age.npz"):
        read_directions(path)


def test_std_is_measured_on_the_generator(generator: StyleGAN2, tmp_path: Path) -> None:
    vector = unit(random(D))
    codes = generator.mapping(torch.randn(20000, generator.z_dim, generator=torch.Generator().manual_seed(7)))
    expected = float((codes[:, 0].double().numpy() @ vector).std())
    path = save(tmp_path / "age.npy", 5 * vector[None])
    (edit,) = import_directions(path, generator, made_for="stylegan2")
    assert edit.std == pytest.approx(expected, rel=0.05)  # 1.1% and 0.5% are the standard errors
    (again,) = import_directions(path, generator, made_for="stylegan2")
    assert edit.std == again.std


def test_std_of_equal_rows_moves_each_row_alike(generator: StyleGAN2) -> None:
    """A direction of W, and the same written in W+, make the same step."""
    row = torch.from_numpy(unit(random(D))).float()
    rows = list(range(L))
    wide = (row.expand(L, D) / L**0.5).contiguous()
    steps = []
    for vector in (row, wide):
        std = float(measure_std(vector[None], generator, rows)[0])
        edit = Direction("d", vector, std, rows, {"age"})
        steps.append(edit.apply(torch.zeros(1, L, D), {"strength": torch.ones(1)}))
    torch.testing.assert_close(steps[0], steps[1])


def test_std_where_the_rows_of_latents_differ() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = VAE(VAEConfig(16, 12, (8, 8, 8))).eval().requires_grad_(False)
    num_ws, w_dim = vae.latent_spec.shape
    vector = torch.from_numpy(unit(random(w_dim))).float()
    codes = vae.mapping(torch.randn(20000, vae.z_dim, generator=torch.Generator().manual_seed(7))).double()
    rows = [0, num_ws - 1]
    per_row = [float((codes[:, r].numpy() @ vector.numpy()).var()) for r in rows]
    expected = (sum(per_row) / 2) ** 0.5
    assert float(measure_std(vector[None], vae, rows)[0]) == pytest.approx(expected, rel=0.05)


def test_stored(generator: StyleGAN2, tmp_path: Path) -> None:
    edits = [
        Direction("one", torch.from_numpy(random(D)).float(), 0.3, [1, 4], {"age", "identity"}, (0.5, 1.5)),
        Direction("wide", torch.from_numpy(random(L, D)).float(), 0.7, range(L), {"pose"}),
    ]
    path = tmp_path / "mine.safetensors"
    write_directions(path, edits, generator, {"file": "age.pt", "sha256": "00"})
    for edit, loaded in zip(edits, load_directions(path, generator), strict=True):
        assert torch.equal(edit.direction, loaded.direction)
        for field in ("name", "std", "rows", "touches", "strength"):
            assert getattr(edit, field) == getattr(loaded, field)
    with safe_open(path, framework="pt") as file:
        assert generator.fingerprint in file.metadata()["description"]
        assert '"file": "age.pt"' in file.metadata()["description"]
    first = path.read_bytes()
    write_directions(path, edits, generator, {"file": "age.pt", "sha256": "00"})
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["mine.safetensors"]


def test_stored_for_another_generator(generator: StyleGAN2, tmp_path: Path) -> None:
    other = build(1)
    path = tmp_path / "mine.safetensors"
    write_directions(path, [Direction("one", torch.ones(D), 0.3, [0], {"age"})], generator)
    with pytest.raises(CheckpointError, match=rf"(?s){generator.fingerprint}.*{other.fingerprint}"):
        load_directions(path, other)


def test_stored_and_damaged(generator: StyleGAN2, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    write_directions(path, [Direction("one", torch.ones(D), 0.3, [0], {"age"})], generator)
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        load_directions(path, generator)
    for content in (b"", bytes(data[: len(data) // 2]), b"nonsense" * 9):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="not a readable file of directions"):
            load_directions(path, generator)
    with pytest.raises(CheckpointError, match="not a readable file of directions"):
        load_directions(tmp_path / "missing.safetensors", generator)


def test_stored_needs_names(generator: StyleGAN2, tmp_path: Path) -> None:
    edit = Direction("one", torch.ones(D), 0.3, [0], {"age"})
    for edits in ([], [edit, edit]):
        with pytest.raises(UserInputError, match="names that differ"):
            write_directions(tmp_path / "mine.safetensors", edits, generator)
    with pytest.raises(UserInputError, match=r"ends in \.safetensors"):
        write_directions(tmp_path / "mine.pt", [edit], generator)
