"""Content Credentials: signed with a throwaway chain, read back by c2pa itself, changed and caught; nothing fetched."""

import datetime
import io
import json
import struct
import sys
import threading
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from ganaug.content_credentials import (
    RECIPE_LABEL,
    ContentSigner,
    _told,
    has_credentials,
    read_credentials,
    source_type,
    variant_manifest,
)
from ganaug.errors import ImageError, UserInputError
from ganaug.provenance import AppliedEdit, Recipe, Source
from ganaug.synthetic import read_synthetic, save_synthetic

c2pa = pytest.importorskip("c2pa", reason="needs c2pa-python: pip install 'ganaug[provenance]'")
x509 = pytest.importorskip("cryptography.x509", reason="needs cryptography, which c2pa-python brings")


class Keys(NamedTuple):
    chain: Path
    key: Path
    root: Path


def make_chain(folder: Path, kind: str = "es256", *, name: str = "Ann Example", usage: bool = True) -> Keys:
    """A root and a signer under it, as C2PA wants them (specification 2.2, section 14.5.1); ten years from 2026."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    makers: dict[str, Any] = {
        "es256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "es384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "ps256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    }
    above, own = ec.generate_private_key(ec.SECP256R1()), makers[kind]()

    def named(common: str) -> Any:
        oid = x509.oid.NameOID
        parts = [(oid.ORGANIZATION_NAME, "Example Laboratory"), (oid.COMMON_NAME, common)]
        return x509.Name([x509.NameAttribute(attribute, text) for attribute, text in parts])

    def certificate(subject: str, key: Any, serial: int, is_root: bool) -> Any:
        start = datetime.datetime(2026, 1, 1)
        uses = {name: False for name in ("content_commitment", "key_encipherment", "data_encipherment")}
        uses |= {"key_agreement": False, "encipher_only": False, "decipher_only": False}
        uses |= {"digital_signature": not is_root, "key_cert_sign": is_root, "crl_sign": is_root}
        builder = (
            x509.CertificateBuilder(named("root"), named(subject), key, serial)
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=3650))
            .add_extension(x509.BasicConstraints(is_root, None), critical=True)
            .add_extension(x509.KeyUsage(**uses), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(above.public_key()), critical=False)
        )
        if not is_root and usage:
            mail = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(mail, critical=False)
        return builder.sign(above, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    root = certificate("root", above.public_key(), 1, True)
    leaf = certificate(name, own.public_key(), 7, False)
    plain, pem = serialization.NoEncryption(), serialization.Encoding.PEM
    files = Keys(folder / f"{kind}.pem", folder / f"{kind}.key", folder / f"{kind}.root.pem")
    files.chain.write_bytes(leaf + root)
    # As `openssl ecparam -genkey` and `openssl genrsa -traditional` write them, where there is such a form.
    form = serialization.PrivateFormat
    old = form.PKCS8 if kind == "ed25519" else form.TraditionalOpenSSL
    files.key.write_bytes(own.private_bytes(pem, old, plain))
    files.root.write_bytes(root)
    return files


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_chain(tmp_path_factory.mktemp("keys"))


RECIPE = Recipe(
    "ann/00.jpg",
    epoch=1,
    seed=3,
    source=Source.GENERATED,
    edits=(AppliedEdit("lighting", {"strength": 1.25}), AppliedEdit("fine", {"p": 1.0}, partner="bob/01.png")),
    classical={"flip": True},
    identity=0.91,
    attempts=1,
)
GENERATOR = {"name": "faces64", "fingerprint": "ab" * 32}
HASHES = {"ann/00.jpg": "11" * 32, "bob/01.png": "22" * 32, "eve.png": "33" * 32}
COMPOSITE, DRAWN = source_type("paste"), source_type("aligned")


def picture(seed: int = 0, size: int = 24) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def signed_file(path: Path, keys: Keys, kind: str = COMPOSITE, recipe: Recipe = RECIPE) -> Path:
    signer = ContentSigner(keys.chain, keys.key)
    manifest = variant_manifest(recipe, GENERATOR, HASHES, kind)
    mark = {"generator": GENERATOR["fingerprint"], "recipe": recipe.to_dict()}
    save_synthetic(picture(), path, mark, seal=lambda png: signer(png, manifest))
    return path


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Names and contents of a PNG file's chunks, read without this package."""
    found, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def join(parts: list[tuple[bytes, bytes]]) -> bytes:
    pack = struct.pack
    packed = [pack(">I", len(d)) + n + d + pack(">I", zlib.crc32(n + d)) for n, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def with_other_pixel(data: bytes) -> bytes:
    """The same file, manifest and all, with one value of one pixel another."""
    parts = chunks(data)
    rows = bytearray(zlib.decompress(b"".join(d for n, d in parts if n == b"IDAT")))
    rows[100] ^= 1
    first = next(i for i, (n, _) in enumerate(parts) if n == b"IDAT")
    rest = [part for part in parts if part[0] != b"IDAT"]
    return join([*rest[:first], (b"IDAT", zlib.compress(bytes(rows))), *rest[first:]])


def test_the_manifest_as_c2pa_reads_it(keys: Keys, tmp_path: Path) -> None:
    path = signed_file(tmp_path / "x.png", keys)
    with c2pa.Reader("image/png", io.BytesIO(path.read_bytes())) as reader:
        manifest = reader.get_active_manifest()
    opened, edited = manifest["assertions"][0]["data"]["actions"]
    assert (opened["action"], edited["action"]) == ("c2pa.opened", "c2pa.edited")
    assert edited["digitalSourceType"] == COMPOSITE and "digitalSourceType" not in opened
    assert edited["softwareAgent"]["name"] == "ganaug" and "lighting, fine" in edited["description"]
    photo, partner = manifest["ingredients"]
    assert (photo["title"], photo["relationship"], photo["instance_id"]) == (
        "ann/00.jpg",
        "parentOf",
        "sha256:" + "11" * 32,
    )
    assert (partner["title"], partner["relationship"]) == ("bob/01.png", "inputTo")
    assert len(opened["parameters"]["ingredients"]) == len(edited["parameters"]["ingredients"]) == 1
    assert opened["parameters"]["ingredients"] != edited["parameters"]["ingredients"]
    own = next(a["data"] for a in manifest["assertions"] if a["label"] == "ganaug.recipe")
    assert Recipe.from_dict(own["recipe"]) == RECIPE
    assert own["photo_sha256"] == {"ann/00.jpg": "11" * 32, "bob/01.png": "22" * 32}, "of those that took part"
    assert "thumbnail" not in json.dumps(manifest), "no small copy of a face"


def test_what_is_read(keys: Keys, tmp_path: Path) -> None:
    path = signed_file(tmp_path / "x.png", keys)
    found = read_credentials(path)
    assert found is not None and found["sound"] and not found["trusted"] and found["problems"] == []
    assert found["signed_by"]["name"] == "Ann Example" and found["signed_by"]["serial"] == "7"
    assert found["source_types"] == ["compositeWithTrainedAlgorithmicMedia"]
    assert Recipe.from_dict(found["recipe"]) == RECIPE and found["generator"] == GENERATOR
    trusting = read_credentials(path, keys.root)
    assert trusting is not None and trusting["sound"] and trusting["trusted"]
    other = make_chain(tmp_path, "es384")
    stranger = read_credentials(path, other.root)
    assert stranger is not None and stranger["sound"] and not stranger["trusted"]


def test_mark_and_pixels_survive_signing(keys: Keys, tmp_path: Path) -> None:
    path = signed_file(tmp_path / "x.png", keys)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(picture()))
    mark = read_synthetic(path)
    assert mark is not None and mark["generator"] == "ab" * 32 and Recipe.from_dict(mark["recipe"]) == RECIPE
    names = [name for name, _ in chunks(path.read_bytes())]
    assert names.count(b"caBX") == 1 and b"tEXt" in names and has_credentials(path)
    save_synthetic(picture(), tmp_path / "plain.png", {"generator": "g"})
    assert not has_credentials(tmp_path / "plain.png") and read_credentials(tmp_path / "plain.png") is None


def test_a_flipped_pixel_and_a_changed_mark_are_noticed(keys: Keys, tmp_path: Path) -> None:
    path = signed_file(tmp_path / "x.png", keys)
    data = path.read_bytes()
    (tmp_path / "same.png").write_bytes(join(chunks(data)))
    same = read_credentials(tmp_path / "same.png", keys.root)
    assert same is not None and same["sound"], "taken apart and put together it is the same file"
    (tmp_path / "pixel.png").write_bytes(with_other_pixel(data))
    difference = np.asarray(Image.open(tmp_path / "pixel.png")).astype(int) - np.asarray(Image.open(path))
    assert np.count_nonzero(difference) >= 1, "it opens, and is another picture"
    parts = [(n, d.replace(b'"seed": 3', b'"seed": 4') if n == b"tEXt" else d) for n, d in chunks(data)]
    (tmp_path / "mark.png").write_bytes(join(parts))
    for name in ("pixel.png", "mark.png"):
        found = read_credentials(tmp_path / name, keys.root)
        assert found is not None and not found["sound"], name
        assert any(problem.startswith("assertion.dataHash.mismatch") for problem in found["problems"]), name


def test_a_changed_manifest_is_noticed(keys: Keys, tmp_path: Path) -> None:
    data = signed_file(tmp_path / "x.png", keys).read_bytes()
    assert data.count(b"bob/01.png") >= 2
    parts = [(n, d.replace(b"bob/01.png", b"eve/01.png") if n == b"caBX" else d) for n, d in chunks(data)]
    (tmp_path / "y.png").write_bytes(join(parts))
    found = read_credentials(tmp_path / "y.png", keys.root)
    assert found is not None and not found["sound"] and found["problems"]
    broken = [(n, d[: len(d) // 2] if n == b"caBX" else d) for n, d in chunks(data)]
    (tmp_path / "z.png").write_bytes(join(broken))
    found = read_credentials(tmp_path / "z.png")
    assert found is not None and not found["sound"] and found["problems"]


@pytest.mark.parametrize(
    ("paste", "residual", "background", "composite"),
    [
        ("paste", None, False, True),
        ("paste", 0.5, False, True),
        ("whole", None, False, True),
        ("aligned", None, False, False),
        ("aligned", 1.0, False, True),
        ("aligned", None, True, True),
    ],
)
def test_source_types(paste: str, residual: float | None, background: bool, composite: bool) -> None:
    kind = source_type(paste, residual, background).rpartition("/")[2]
    assert kind == ("compositeWithTrainedAlgorithmicMedia" if composite else "trainedAlgorithmicMedia")


def test_what_the_generator_drew_whole_is_created(keys: Keys, tmp_path: Path) -> None:
    found = read_credentials(signed_file(tmp_path / "x.png", keys, DRAWN))
    assert found is not None and found["sound"], found
    assert found["actions"] == ["c2pa.created", "c2pa.edited"] and found["source_types"] == ["trainedAlgorithmicMedia"]
    assert {i["relationship"] for i in found["ingredients"]} == {"inputTo"}


def test_names_and_hashes_that_are_odd(keys: Keys, tmp_path: Path) -> None:
    odd = Recipe("\udcff ä\n.jpg", 0, 0, Source.GENERATED)
    found = read_credentials(signed_file(tmp_path / "x.png", keys, recipe=odd))
    assert found is not None and found["sound"] and "photo_sha256" in found and found["photo_sha256"] == {}
    unknown = variant_manifest(Recipe("a", 0, 0, Source.GENERATED), GENERATOR, {"a": "0" * 64}, COMPOSITE)
    assert "sha256:" not in json.dumps(unknown), "no file, no hash"
    itself = Recipe("a", 0, 0, Source.GENERATED, (AppliedEdit("fine", {}, partner="a"),))
    assert len(variant_manifest(itself, GENERATOR, {}, COMPOSITE)["ingredients"]) == 1


@pytest.mark.parametrize("kind", ["es384", "ed25519", "ps256"])
def test_other_keys(kind: str, tmp_path: Path) -> None:
    other = make_chain(tmp_path, kind)
    found = read_credentials(signed_file(tmp_path / "x.png", other), other.root)
    assert found is not None and found["trusted"] and found["signed_by"]["algorithm"].lower() == kind


def test_nothing_asks_the_network(keys: Keys, tmp_path: Path) -> None:
    """A picture that says where its manifest lies is read without asking there, though c2pa alone would ask."""
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/manifest.c2pa"
        manifest = variant_manifest(RECIPE, GENERATOR, HASHES, COMPOSITE)
        signer, builder = ContentSigner(keys.chain, keys.key), c2pa.Builder(json.dumps(manifest))
        builder.set_no_embed()
        builder.set_remote_url(address)
        data, out = io.BytesIO(), io.BytesIO()
        picture().save(data, "PNG")
        builder.sign(signer._signer, "image/png", io.BytesIO(data.getvalue()), out)
        (tmp_path / "remote.png").write_bytes(out.getvalue())
        found = read_credentials(tmp_path / "remote.png")
        assert asked == [] and (found is None or not found["sound"])
        with pytest.raises(c2pa.C2paError):
            c2pa.Reader("image/png", io.BytesIO(out.getvalue()))
        assert asked == ["/manifest.c2pa"], "c2pa with its own settings asks"
        server.shutdown()
    path = signed_file(tmp_path / "x.png", keys)
    signed = read_credentials(path)
    assert signed is not None and signed["signed_by"]["time"] is None, "no time-stamp authority was asked"


def test_mistakes_are_told_in_a_line(keys: Keys, tmp_path: Path) -> None:
    other = make_chain(tmp_path, "es384")
    with pytest.raises(UserInputError, match="is not the key of the first certificate"):
        ContentSigner(keys.chain, other.key)
    with pytest.raises(UserInputError, match="cannot read the certificate"):
        ContentSigner(tmp_path / "none.pem", keys.key)
    with pytest.raises(UserInputError, match="no certificate in PEM"):
        ContentSigner(keys.key, keys.key)
    with pytest.raises(UserInputError, match="no private key in PEM"):
        ContentSigner(keys.chain, keys.chain)
    (tmp_path / "bare").mkdir()
    bare = make_chain(tmp_path / "bare", "ed25519", usage=False)
    with pytest.raises(UserInputError, match="C2PA does not sign with it"):
        ContentSigner(bare.chain, bare.key)
    from cryptography.hazmat.primitives import serialization as s

    private = s.load_pem_private_key(keys.key.read_bytes(), None)
    locked = s.BestAvailableEncryption(b"secret")
    (tmp_path / "locked.key").write_bytes(private.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, locked))
    with pytest.raises(UserInputError, match="the private key is encrypted"):
        ContentSigner(keys.chain, tmp_path / "locked.key")
    path = signed_file(tmp_path / "x.png", keys)
    with pytest.raises(UserInputError, match="cannot read the certificates to trust"):
        read_credentials(path, tmp_path / "none.pem")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match="cannot be read as a picture"):
        read_credentials(tmp_path / "text.png")


def test_what_others_sign_need_not_look_like_ours() -> None:
    """As C2PA 1 writes it, without what the second edition asks for; and an assertion that is nothing of the kind."""
    odd = [{"label": "c2pa.actions", "data": {"actions": ["x", {"digitalSourceType": 5}]}}, {"label": RECIPE_LABEL}]
    found = _told("Valid", {}, {"claim_generator": "camera/1.0", "assertions": odd})
    assert found["sound"] and found["software"] == ["camera/1.0"] and found["source_types"] == ["5"]
    assert _told("", {}, {})["software"] == ["software that it does not name"]


def test_the_key_goes_nowhere(keys: Keys, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    """It is not in the signed file, in no message, and in nothing that is written elsewhere."""
    from cryptography.hazmat.primitives import serialization as s

    data = signed_file(tmp_path / "x.png", keys).read_bytes()
    private = s.load_pem_private_key(keys.key.read_bytes(), None)
    number = private.private_numbers().private_value.to_bytes(32, "big")  # type: ignore[union-attr]
    body = keys.key.read_bytes().splitlines()[1]
    assert number not in data and body not in data
    with pytest.raises(UserInputError) as told:
        ContentSigner(keys.key, keys.key)
    printed = "".join([*capfd.readouterr(), caplog.text, str(told.value)])
    assert body.decode() not in printed and number.hex() not in printed
    assert body.decode() not in repr(vars(ContentSigner(keys.chain, keys.key)))
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_without_c2pa(keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = signed_file(tmp_path / "x.png", keys)
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(UserInputError, match=r"--sign needs c2pa-python: pip install 'ganaug\[provenance\]'"):
        ContentSigner(keys.chain, keys.key)
    with pytest.raises(UserInputError, match=r"pip install 'ganaug\[provenance\]'"):
        read_credentials(path)
    assert has_credentials(path), "that they are there is seen without it"
