"""The table of known weights, and where fetched files lie. Downloads nothing: that is :mod:`ganaug.fetch`.

An address, a size or a sha256 stands here only if it was found in a source that names it, given at the line. A file
without a sha256 is trusted on first use: what came first is recorded next to the file, and anything else is refused.
"""

import functools
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganaug.errors import CheckpointError


@dataclass(frozen=True)
class Licence:
    """What a file may be used for.

    Attributes:
        name: Its name.
        url: Where its text is.
        allows: One line; the text decides.
    """

    name: str
    url: str
    allows: str


@dataclass(frozen=True)
class KnownWeights:
    """A published file.

    Attributes:
        file: Its name, also in the store.
        family: Generator family, a key of ``GENERATORS``.
        resolution: Height and width in pixels.
        holds: What is in it, in a word or two.
        terms: Its licence.
        page: Where its makers publish it.
        url: Address of the file; None where a person has to click through a page.
        sha256: Hex digest of the file; None if no source states it.
        size: Bytes; None if no source states it.
    """

    file: str
    family: str
    resolution: int
    holds: str
    terms: Licence
    page: str
    url: str | None = None
    sha256: str | None = None
    size: int | None = None

    @property
    def licence(self) -> str:
        """Name, address and gist of the licence in one line."""
        return f"{self.terms.name} ({self.terms.url}): {self.terms.allows}"


_NON_COMMERCIAL = "research or evaluation only, not commercially"
_STYLEGAN2 = Licence(
    "NVIDIA Source Code License-NC", "https://nvlabs.github.io/stylegan2/license.html", _NON_COMMERCIAL
)
_STYLEGAN2_ADA = Licence(
    "NVIDIA Source Code License for StyleGAN2-ADA",
    "https://nvlabs.github.io/stylegan2-ada-pytorch/license.html",
    _NON_COMMERCIAL,
)
_STYLEGAN3 = Licence(
    "NVIDIA Source Code License for StyleGAN3",
    "https://github.com/NVlabs/stylegan3/blob/main/LICENSE.txt",
    _NON_COMMERCIAL,
)
_SEMANTIC = Licence(
    "CC BY-NC-SA 4.0",
    "https://github.com/seasonSH/SemanticStyleGAN/blob/main/LICENSES/LICENSE",
    "non-commercial use with credit; what is derived from it under the same licence",
)
# The encoders are MIT, but each file also holds the generator that it was trained for: NVIDIA's, converted.
_ENCODER = "the encoder freely; the generator in the same file is NVIDIA's (" + _NON_COMMERCIAL + ")"
_E4E = Licence("MIT", "https://github.com/omertov/encoder4editing/blob/main/LICENSE", _ENCODER)
_PSP = Licence("MIT", "https://github.com/eladrich/pixel2style2pixel/blob/master/LICENSE", _ENCODER)
_RESTYLE = Licence("MIT", "https://github.com/yuval-alaluf/restyle-encoder/blob/main/LICENSE", _ENCODER)
_ROSINALITY = Licence(
    "MIT", "https://github.com/rosinality/stylegan2-pytorch/blob/master/LICENSE", "any use with the notice kept"
)

# Both lists of files are in the README of NVlabs/stylegan3, "Additional material".
_NGC2 = "https://api.ngc.nvidia.com/v2/models/nvidia/research/stylegan2/versions/1/files/"
_NGC3 = "https://api.ngc.nvidia.com/v2/models/nvidia/research/stylegan3/versions/1/files/"
_PAGE3 = "https://github.com/NVlabs/stylegan3"
# README of NVlabs/stylegan2-ada-pytorch, "Data repository"; file names in its train.py.
_ADA = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/"
_PAGE_ADA = "https://github.com/NVlabs/stylegan2-ada-pytorch"


def _ngc2(file: str, resolution: int) -> KnownWeights:
    return KnownWeights(file, "stylegan2", resolution, "generator", _STYLEGAN2, _PAGE3, _NGC2 + file)


def _ngc3(file: str, resolution: int, sha256: str | None = None, size: int | None = None) -> KnownWeights:
    return KnownWeights(file, "stylegan3", resolution, "generator", _STYLEGAN3, _PAGE3, _NGC3 + file, sha256, size)


def _drive(file_id: str) -> str:
    """The page of a file in Google Drive. It asks a person to confirm big files, so it is no address for a program."""
    return f"https://drive.google.com/file/d/{file_id}/view"


# Not here: InterFaceGAN's boundaries (made for StyleGAN 1 and PGGAN, which this package does not have), and e4e's
# directions (in the folder ``editings`` of its repository, a few kilobytes each).
KNOWN_WEIGHTS: dict[str, KnownWeights] = {
    "stylegan2-ffhq-256": _ngc2("stylegan2-ffhq-256x256.pkl", 256),
    "stylegan2-ffhq-512": _ngc2("stylegan2-ffhq-512x512.pkl", 512),
    "stylegan2-ffhq-1024": _ngc2("stylegan2-ffhq-1024x1024.pkl", 1024),
    "stylegan2-ffhqu-256": _ngc2("stylegan2-ffhqu-256x256.pkl", 256),
    "stylegan2-ffhqu-1024": _ngc2("stylegan2-ffhqu-1024x1024.pkl", 1024),
    "stylegan2-celebahq-256": _ngc2("stylegan2-celebahq-256x256.pkl", 256),
    "stylegan2-ada-ffhq-256": KnownWeights(
        "ffhq-res256-mirror-paper256-noaug.pkl",
        "stylegan2",
        256,
        "generator",
        _STYLEGAN2_ADA,
        _PAGE_ADA,
        _ADA + "transfer-learning-source-nets/ffhq-res256-mirror-paper256-noaug.pkl",
    ),
    "stylegan2-ada-ffhq-1024": KnownWeights(
        "ffhq.pkl",
        "stylegan2",
        1024,
        "generator",
        _STYLEGAN2_ADA,
        _PAGE_ADA,
        _ADA + "ffhq.pkl",
        # Stated alike by several unrelated public repositories that check it after downloading from this address.
        "a205a346e86a9ddaae702e118097d014b7b8bd719491396a162cca438f2f524c",
        381_624_121,
    ),
    "stylegan3-t-ffhq-1024": _ngc3(
        "stylegan3-t-ffhq-1024x1024.pkl",
        1024,
        # Stated, with the size, by a public repository that checks both after downloading from this address.
        "efd9fa1f967a11b5390399a8ed512dc32e341c245fa2d4dafa6d94e96222085b",
        294_775_112,
    ),
    "stylegan3-t-ffhqu-256": _ngc3("stylegan3-t-ffhqu-256x256.pkl", 256),
    "stylegan3-t-ffhqu-1024": _ngc3("stylegan3-t-ffhqu-1024x1024.pkl", 1024),
    "stylegan3-r-ffhq-1024": _ngc3("stylegan3-r-ffhq-1024x1024.pkl", 1024),
    "stylegan3-r-ffhqu-256": _ngc3("stylegan3-r-ffhqu-256x256.pkl", 256),
    "stylegan3-r-ffhqu-1024": _ngc3("stylegan3-r-ffhqu-1024x1024.pkl", 1024),
    "semantic-celebamask-512": KnownWeights(
        "CelebAMask-HQ-512x512.pt",
        "semantic_stylegan",
        512,
        "generator with parts",
        _SEMANTIC,
        "https://github.com/seasonSH/SemanticStyleGAN",
        # The address is in the README of recusant7/GAN_SeCom.
        "https://github.com/seasonSH/SemanticStyleGAN/releases/download/1.0.0/CelebAMask-HQ-512x512.pt",
    ),
    "e4e-ffhq-1024": KnownWeights(
        "e4e_ffhq_encode.pt",
        "stylegan2",
        1024,
        "generator and encoder",
        _E4E,
        "https://github.com/omertov/encoder4editing",
        # The file that the README names, by the address that gives it without a page in between.
        "https://drive.usercontent.google.com/download?id=1cUv_reLE6k3604or78EranS7XzuVMWeO&export=download&confirm=t",
        # Two unrelated sources: the Git LFS pointer in yypylypiv0422/babygan, and a public repository that checks it
        # after downloading from this address.
        "2ace1d9a8c05c10a399bcd500b8dda118f759ff1aac89dbdab7435f2136a0999",
        1_201_649_680,
    ),
    "psp-ffhq-1024": KnownWeights(
        "psp_ffhq_encode.pt",
        "stylegan2",
        1024,
        "generator and encoder",
        _PSP,
        _drive("1bMTNWkh5LArlaWSc_wa8VKyq2V42T2z0"),  # README of eladrich/pixel2style2pixel
    ),
    "restyle-e4e-ffhq-1024": KnownWeights(
        "restyle_e4e_ffhq_encode.pt",
        "stylegan2",
        1024,
        "generator and encoder",
        _RESTYLE,
        _drive("1e2oXVeBPXMQoUoC_4TNwAWpOPpSEhE_e"),  # README of yuval-alaluf/restyle-encoder
    ),
    "restyle-psp-ffhq-1024": KnownWeights(
        "restyle_psp_ffhq_encode.pt",
        "stylegan2",
        1024,
        "generator and encoder",
        _RESTYLE,
        _drive("1sw6I2lRIB0MpuJkpc8F5BJiSZrc0hjfE"),  # README of yuval-alaluf/restyle-encoder
    ),
    "rosinality-ffhq-256": KnownWeights(
        "550000.pt",
        "stylegan2",
        256,
        "generator",
        _ROSINALITY,
        _drive("1PQutd-JboOCOZqmd95XWxWrO8gGEvRcO"),  # README of rosinality/stylegan2-pytorch
    ),
    "rosinality-ffhq-1024": KnownWeights(
        "stylegan2-ffhq-config-f.pt",
        "stylegan2",
        1024,
        "generator",
        _STYLEGAN2,
        _drive("1EM87UquaoQmk17Q8d5kYIAHqu0dkYqdT"),  # README of omertov/encoder4editing: NVIDIA's, converted
    ),
}


def weights_folder() -> Path:
    """Where fetched files lie: ``$GANAUG_HOME/weights``, or ``ganaug/weights`` in the user's cache folder."""
    home = os.environ.get("GANAUG_HOME")
    if home:
        return Path(home).expanduser() / "weights"
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative XDG_CACHE_HOME is to be ignored (XDG Base Directory Specification, "Environment variables").
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "ganaug" / "weights"


def how_to_get(name: str) -> str:
    """One sentence that says how a known file is fetched."""
    entry = KNOWN_WEIGHTS[name]
    if entry.url is None:
        return (
            f"{name!r} has to be downloaded by hand from {entry.page} to {weights_folder() / entry.file}; "
            f"then run `ganaug fetch {name} --accept-licence`"
        )
    return f"{name!r} is not here yet: run `ganaug fetch {name} --accept-licence`"


def fetched(name: str, directory: Path | None = None) -> Path | None:
    """The fetched file of a known name, or None if there is none yet.

    Args:
        name: Key of :data:`KNOWN_WEIGHTS`.
        directory: Where to look; default :func:`weights_folder`.

    Raises:
        CheckpointError: If the file is no longer the one that was fetched.
    """
    entry = KNOWN_WEIGHTS[name]
    path = (directory or weights_folder()) / entry.file
    record = read_record(path)
    if record is None or not path.is_file():
        return None  # without a record nobody has accepted the licence, nor seen the whole file arrive
    _compare(path, entry.sha256 or record["sha256"])
    return path


def check_unchanged(path: Path) -> None:
    """Refuses a file that was fetched, wherever it lies, and changed since. Says nothing about any other file.

    Raises:
        CheckpointError: If its sha256 is not the one that was recorded.
    """
    try:
        record = read_record(path)
    except CheckpointError:
        return  # a file of that name, but not by us
    if record is not None:
        _compare(path, record["sha256"])


def _compare(path: Path, expected: str) -> None:
    found = digest(path)
    if found != expected:
        raise CheckpointError(
            f"{path} is not the file that was fetched: its sha256 is {found}, expected {expected}; delete it and fetch "
            "it again"
        )


def known_by_digest(sha256: str) -> KnownWeights | None:
    """The entry of a file with this sha256, by the table or by what was recorded when it was fetched."""
    for entry in KNOWN_WEIGHTS.values():
        if entry.sha256 == sha256 and sha256:
            return entry
        if entry.sha256 is None and (read_record(weights_folder() / entry.file) or {}).get("sha256") == sha256:
            return entry
    return None


def record_path(path: Path) -> Path:
    """Where it is recorded how a fetched file came about."""
    return path.with_name(path.name + ".json")


def read_record(path: Path) -> dict[str, Any] | None:
    """What was recorded when a file was fetched, or None if it was not.

    Raises:
        CheckpointError: For a record that is there, but cannot be read.
    """
    record = record_path(path)
    try:
        described = json.loads(record.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{record}: damaged: {error}; delete it and fetch the file again") from error
    if not isinstance(described, dict) or not isinstance(described.get("sha256"), str):
        raise CheckpointError(f"{record}: damaged: no sha256 in it; delete it and fetch the file again")
    return described


def digest(path: Path) -> str:
    """sha256 (hex) of a file; read again only if the file was changed since this process last did."""
    state = path.stat()
    return _digest(path, (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns))


@functools.lru_cache(maxsize=64)
def _digest(path: Path, state: tuple[int, ...]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_table() -> list[dict[str, Any]]:
    """The table in rows for people: name, family, resolution, content, size, licence, and where the file is."""
    return [
        {
            "name": name,
            "family": entry.family,
            "resolution": entry.resolution,
            "holds": entry.holds,
            "megabytes": None if entry.size is None else round(entry.size / 1e6),
            "sha256": entry.sha256,
            "licence": entry.licence,
            "source": entry.url or entry.page,
            "by_hand": entry.url is None,
            "fetched": _where(entry),
        }
        for name, entry in KNOWN_WEIGHTS.items()
    ]


def _where(entry: KnownWeights) -> str | None:
    path = weights_folder() / entry.file
    return str(path) if path.is_file() and record_path(path).is_file() else None
