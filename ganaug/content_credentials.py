"""Content Credentials (C2PA) of exported variants: signed, so that a changed pixel or a changed recipe is noticed.

The mark of :mod:`ganaug.synthetic` says what a picture is; anybody can write or remove it. A C2PA manifest (C2PA
Technical Specification 2.2, https://spec.c2pa.org) says it under the signature of whoever exported. It goes into the
PNG beside the mark and holds what was done (``c2pa.actions``), the recipe, and the sha256 of every photo that took
part, never a photo. Signing and reading use ``c2pa-python`` (extra ``provenance``) and stay on this machine: no
time-stamp authority, no revocation service and no remote manifest is asked.
"""

import hashlib
import io
import json
import mimetypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ganaug import __version__
from ganaug.errors import UserInputError
from ganaug.provenance import Recipe, Source
from ganaug.synthetic import open_picture

# IPTC's vocabulary of digital source types, https://cv.iptc.org/newscodes/digitalsourcetype
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
# The C2PA specification asks for a label in the name space of whoever defines an assertion (section 6.2).
RECIPE_LABEL = "ganaug.recipe"
_UNKNOWN_HASH = "0" * 64  # of records that were made of no file

# Nothing is fetched, and no small copy of the face is put into the manifest.
_OFFLINE: dict[str, Any] = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
# Findings that are no fault of the picture: nobody said whom to trust.
_NO_FAULT = frozenset({"signingCredential.untrusted"})


def source_type(paste: str, residual: float | None = None, background: bool = False) -> str:
    """What IPTC calls a variant.

    ``compositeWithTrainedAlgorithmicMedia``, a composite with elements that a trained model made (IPTC introduced it
    for in- and outpainting), where pixels of the photo stay: ``"paste"`` and ``"whole"`` keep what lies around the
    face, a residual keeps the photo below the change, a background may be anybody's picture.
    ``trainedAlgorithmicMedia``, made by a trained model, where the generator drew every pixel: ``"aligned"``. That a
    photo guided it does not make it a composite; the manifest names the photo as an input.

    Args:
        paste: ``paste`` of the dataset.
        residual: ``residual`` of the dataset.
        background: Whether backgrounds are replaced.

    Example:
        >>> source_type("paste").rpartition("/")[2], source_type("aligned").rpartition("/")[2]
        ('compositeWithTrainedAlgorithmicMedia', 'trainedAlgorithmicMedia')
    """
    drawn_whole = paste == "aligned" and residual is None and not background
    return SOURCE_TYPES + ("trainedAlgorithmicMedia" if drawn_whole else "compositeWithTrainedAlgorithmicMedia")


def variant_manifest(
    recipe: Recipe, generator: Mapping[str, str], hashes: Mapping[str, str], kind: str
) -> dict[str, Any]:
    """What the manifest of one variant says, before it is signed.

    Args:
        recipe: Of the variant.
        generator: ``name`` and ``fingerprint``.
        hashes: Key -> sha256 (hex) of the photo's file, of the photo and of its partners; keys may be missing.
        kind: From :func:`source_type`.

    Returns:
        A manifest definition of ``c2pa-python``. A composite opens the photo (``parentOf``) and edits it; what the
        generator drew whole is created with the photo as an input (``inputTo``). Partners are inputs of the edit.
    """
    agent = {"name": "ganaug", "version": __version__}
    partners = list(dict.fromkeys(edit.partner for edit in recipe.edits if edit.partner not in (None, recipe.key)))
    composite = not kind.endswith("/trainedAlgorithmicMedia")
    names = ", ".join(edit.name for edit in recipe.edits) or "inversion without an edit"
    edited: dict[str, Any] = {
        "action": "c2pa.edited",
        "softwareAgent": agent,
        "digitalSourceType": kind,
        "description": f"{names}; by generator {generator['name']}" + ("; classical" if recipe.classical else ""),
    }
    if partners:
        edited["parameters"] = {"ingredientIds": partners}
    first: dict[str, Any] = {"action": "c2pa.opened" if composite else "c2pa.created", "softwareAgent": agent}
    first["parameters"] = {"ingredientIds": [recipe.key]}
    if not composite:
        first["digitalSourceType"] = kind
    ingredients = [_ingredient(recipe.key, hashes, "parentOf" if composite else "inputTo")]
    ingredients += [_ingredient(key, hashes, "inputTo") for key in partners if key is not None]
    known = {key: hashes[key] for key in [recipe.key, *partners] if key in hashes and hashes[key] != _UNKNOWN_HASH}
    described = {"generator": dict(generator), "recipe": recipe.to_dict(), "photo_sha256": known}
    return {
        "claim_generator_info": [agent],
        "format": "image/png",
        "ingredients": ingredients,
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [first, edited]}},
            {"label": RECIPE_LABEL, "data": described},
        ],
    }


class ContentSigner:
    """Signs PNG files. May be called by several threads.

    Args:
        certificate: PEM file: the signer's certificate, then those above it. C2PA wants a leaf with the key usage
            ``digitalSignature`` and an extended key usage such as ``emailProtection`` or ``documentSigning`` (C2PA
            specification, section 14.5); a self-signed one is refused.
        key: PEM file: its private key, not encrypted.

    Attributes:
        fingerprint: sha256 (hex) of the signer's certificate.

    Raises:
        UserInputError: If c2pa-python is not installed, a file cannot be read, or the two do not go together.
    """

    def __init__(self, certificate: str | Path, key: str | Path) -> None:
        c2pa = _require_c2pa("--sign")
        chain, self.fingerprint, algorithm, private = _credentials(Path(certificate), Path(key))
        self._context = c2pa.Context.from_dict(_OFFLINE)
        try:
            self._signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm, chain, private, None))
            trial = Recipe("trial", 0, 0, Source.GENERATED)  # what does not sign is noticed before the work
            self(_smallest_png(), variant_manifest(trial, {"name": "none"}, {}, source_type("aligned")))
        except c2pa.C2paError as error:
            raise UserInputError(
                f"{certificate}: C2PA does not sign with it: {error}; expected the signer's certificate, with the key "
                "usage digitalSignature and an extended key usage such as emailProtection, before its issuers'"
            ) from error

    def __call__(self, png: bytes, manifest: Mapping[str, Any]) -> bytes:
        """A PNG file -> the same with a signed manifest; its pixels and its text stay."""
        import c2pa

        signed = io.BytesIO()
        # The name of a photo need not be UTF-8; a manifest's text must be.
        text = json.dumps(manifest, ensure_ascii=False).encode(errors="surrogateescape").decode(errors="replace")
        builder = c2pa.Builder(text, context=self._context)
        builder.sign(self._signer, "image/png", io.BytesIO(png), signed)
        return signed.getvalue()


def has_credentials(path: str | Path) -> bool:
    """Whether a PNG file has a C2PA manifest, a chunk ``caBX``, sound or not. Needs no c2pa-python."""
    data = Path(path).read_bytes()
    at = 8  # PNG specification (ISO/IEC 15948), section 5: signature; then length, name, data and CRC of each chunk
    while at + 8 <= len(data):
        if data[at + 4 : at + 8] == b"caBX":
            return True
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return False


def read_credentials(path: str | Path, trust: str | Path | None = None) -> dict[str, Any] | None:
    """Reads and verifies the Content Credentials of a picture, of whatever software; None if it has none.

    Args:
        path: The picture.
        trust: PEM file of certificates that are trusted as issuers; None: no signer is.

    Returns:
        JSON-able. ``sound``: the picture and all that is said are as they were signed. ``trusted``: and the signer's
        certificate comes from an issuer in ``trust``. ``problems``: what is not as it was signed, in the words of the
        verifier. ``signed_by``, ``software``, ``source_types`` (IPTC), ``ingredients`` and, of ganaug's own,
        ``recipe``, ``generator`` and ``photo_sha256``: what the manifest says, also if it is not sound.

    Raises:
        UserInputError: If c2pa-python is not installed, or ``trust`` cannot be read.
        ImageError: If the file is no picture.
    """
    c2pa = _require_c2pa("reading Content Credentials")
    settings = dict(_OFFLINE)
    if trust is not None:
        settings["trust"] = {"user_anchors": _read(Path(trust), "certificates to trust").decode(errors="replace")}
    kind = Image.MIME.get(open_picture(path).format or "", "image/png")
    data = Path(path).read_bytes()
    try:
        reader = c2pa.Reader.try_create(kind, io.BytesIO(data), context=c2pa.Context.from_dict(settings))
        if reader is None:
            return None
        with reader:
            state, results, manifest = (
                reader.get_validation_state(),
                reader.get_validation_results(),
                reader.get_active_manifest(),
            )
    except c2pa.C2paError as error:  # a manifest that cannot even be parsed
        return {"sound": False, "trusted": False, "problems": [str(error)]}
    return _told(state or "", results or {}, manifest or {})


def _told(state: str, results: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`read_credentials` returns."""
    parts = [results.get("activeManifest") or {}]
    parts += [delta.get("validationDeltas") or {} for delta in results.get("ingredientDeltas") or []]
    failed = [found for part in parts for found in part.get("failure") or []]
    problems = [f"{f['code']}: {f.get('explanation', '')}" for f in failed if f.get("code") not in _NO_FAULT]
    signature = manifest.get("signature_info") or {}
    # Anybody may sign anything: what is not as this package writes it is passed over.
    assertions = {
        a.get("label", ""): a["data"] for a in manifest.get("assertions") or [] if isinstance(a.get("data"), Mapping)
    }
    acted = [data.get("actions") or [] for label, data in assertions.items() if label.startswith("c2pa.actions")]
    actions = [action for found in acted for action in found if isinstance(action, Mapping)]
    agents = [f"{a.get('name')} {a.get('version', '')}".strip() for a in manifest.get("claim_generator_info") or []]
    agents = agents or [str(manifest.get("claim_generator", "software that it does not name"))]  # as C2PA 1 has it
    own = assertions.get(RECIPE_LABEL, {})
    types = dict.fromkeys(str(a["digitalSourceType"]).rpartition("/")[2] for a in actions if a.get("digitalSourceType"))
    return {
        "sound": state in ("Valid", "Trusted") and not problems,
        "trusted": state == "Trusted",
        "problems": problems,
        "signed_by": {
            "name": signature.get("common_name"),
            "organisation": signature.get("issuer"),
            "serial": signature.get("cert_serial_number"),
            "algorithm": signature.get("alg"),
            "time": signature.get("time"),
        },
        "software": agents,
        "actions": [a.get("action") for a in actions],
        "source_types": list(types),
        "ingredients": [
            {"title": i.get("title"), "relationship": i.get("relationship")} for i in manifest.get("ingredients") or []
        ],
        **{name: own[name] for name in ("recipe", "generator", "photo_sha256") if name in own},
    }


def _ingredient(key: str, hashes: Mapping[str, str], relationship: str) -> dict[str, str]:
    """A photo by its name and its hash, without the photo."""
    known = hashes.get(key, _UNKNOWN_HASH)
    name = {} if known == _UNKNOWN_HASH else {"instance_id": f"sha256:{known}"}
    kind = mimetypes.guess_type(key)[0] or "application/octet-stream"
    return {"label": key, "title": key, "format": kind, "relationship": relationship, **name}


def _credentials(certificate: Path, key: Path) -> tuple[bytes, str, str, bytes]:
    """Chain, sha256 of its leaf, name of the algorithm (C2PA specification, section 13.2), and the key as PKCS 8."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    chain = _read(certificate, "certificate")
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
    except ValueError as error:
        raise UserInputError(f"{certificate}: no certificate in PEM; expected -----BEGIN CERTIFICATE-----") from error
    try:
        private = serialization.load_pem_private_key(_read(key, "private key"), password=None)
    except TypeError as error:
        told = f"{key}: the private key is encrypted; give it decrypted, as `openssl pkey` writes it"
        raise UserInputError(told) from error
    except ValueError as error:
        raise UserInputError(f"{key}: no private key in PEM; expected -----BEGIN PRIVATE KEY-----") from error
    plain = serialization.PublicFormat.SubjectPublicKeyInfo
    public = [k.public_bytes(serialization.Encoding.DER, plain) for k in (leaf.public_key(), private.public_key())]
    if public[0] != public[1]:
        raise UserInputError(f"{key} is not the key of the first certificate in {certificate}")
    if isinstance(private, ec.EllipticCurvePrivateKey):
        algorithm = {256: "es256", 384: "es384", 521: "es512"}.get(private.key_size)
    elif isinstance(private, rsa.RSAPrivateKey):
        algorithm = "ps256"
    else:
        algorithm = "ed25519" if isinstance(private, ed25519.Ed25519PrivateKey) else None
    if algorithm is None:
        raise UserInputError(f"{key}: C2PA signs with keys on P-256, P-384, P-521 or Ed25519, or RSA; this is another")
    encoded = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    digest = hashlib.sha256(leaf.public_bytes(serialization.Encoding.DER)).hexdigest()
    return chain, digest, algorithm, encoded


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserInputError(f"{path}: cannot read the {what}: {error.strerror or error}") from error


def _require_c2pa(what: str) -> Any:
    try:
        import c2pa
    except ImportError as error:
        raise UserInputError(f"{what} needs c2pa-python: pip install 'ganaug[provenance]'") from error
    return c2pa


def _smallest_png() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    return data.getvalue()
