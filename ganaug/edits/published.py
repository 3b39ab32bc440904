"""Published directions as edits of a generator that they were made for.

Nothing in a direction's numbers tells which generator it belongs to, so what a file's name says is believed, what it
does not say the user has to, and what contradicts the generator at hand is refused: a direction of StyleGAN 1 moves the
latents of a StyleGAN2 as well as any random vector does (github.com/yuval-alaluf/restyle-encoder, issue 74).
"""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ganaug.edits import ATTRIBUTES
from ganaug.edits.directions import Direction
from ganaug.errors import CheckpointError, UserInputError
from ganaug.interfaces import Generator
from ganaug.latents import draw_latents
from ganaug.published.directions import PublishedDirections, Space, read_directions

# Age, gender and glasses come together in photos, and so they do in directions; pose and smile nearly stand alone
# (InterFaceGAN, arXiv 1907.10786, "Conditional Manipulation"). What is not known counts as changing everything.
_ENTANGLED = frozenset({"age", "gender", "glasses", "identity"})
_TOUCHES: dict[str, frozenset[str]] = {
    **dict.fromkeys(("age", "young", "gender", "male", "eyeglasses", "glasses"), _ENTANGLED),
    **dict.fromkeys(("smile", "smiling", "expression"), frozenset({"expression"})),
    **dict.fromkeys(("pose", "rotation", "yaw"), frozenset({"pose"})),
}
_FINGERPRINT = re.compile(r"[0-9a-f]{64}$")
_NUM_CODES = 4096  # the relative error of a standard deviation is 1 / sqrt(2 N), 1.1%
_AT_ONCE = 512
_SEED = 0


def import_directions(
    path: str | Path,
    generator: Generator,
    *,
    made_for: str | None = None,
    name: str | None = None,
    rows: Sequence[int] | None = None,
    touches: set[str] | frozenset[str] | None = None,
    space: Space | None = None,
    strength: tuple[float, float] = (1.0, 2.5),
) -> list[Direction]:
    """Reads InterFaceGAN, e4e, PTI or GANSpace directions for a generator.

    Of GANSpace's components only some mean something, and only in some rows. e4e and ReStyle use, of ``ffhq_pca.pt``
    for the 18 rows of a StyleGAN2 of 1024 pixels: 54 in row 7 (open eyes), 58 in rows 7-8 (beard), 57 in rows 7-9
    (white hair), 34 in row 10 (lipstick); at up to 20 standard deviations.

    Args:
        path: File, see :func:`ganaug.published.directions.read_directions`.
        generator: Whose latents they shall move.
        made_for: What they were made for, as its makers say: a family (``"stylegan2"``; trained on the same data, which
            nobody can check) or a generator's fingerprint. Needed unless the file's name says it.
        name: Name of the edit, or what the names of several begin with; default: what the file has.
        rows: Rows of ``w_plus`` that move; default all.
        touches: What they may change; default: by their names where those are known, else everything.
        space: ``"w"`` or ``"z"``, if the file's name does not say it; default ``"w"``.
        strength: Range of |strength| in standard deviations of W. Those are taken from the file, else measured on the
            generator.

    Raises:
        CheckpointError: For a file that is damaged, or made for another generator.
        UserInputError: If nobody says what it was made for, or an argument is outside what is allowed.
    """
    found = read_directions(path)
    check_made_for(found, generator, made_for, str(path))
    _check_space(found, space, str(path))
    _check_shape(found.vectors, generator, str(path))
    moved = check_rows(range(generator.latent_spec.num_ws) if rows is None else rows, generator)
    check_words(touches)
    std = measure_std(found.vectors, generator, moved) if found.std is None else found.std
    return [
        Direction(label, vector, float(spread), moved, touched_by(label) if touches is None else touches, strength)
        for label, vector, spread in zip(_names(found, name), found.vectors, std, strict=True)
    ]


def check_made_for(found: PublishedDirections, generator: Generator, stated: str | None, path: str) -> None:
    """Refuses directions that were made for another generator, or for nobody knows which."""
    family = getattr(generator, "family", None)
    if found.made_for is not None and found.made_for != family:
        why = (
            "this package has no generator of that family, and on any other a direction of it means nothing"
            if found.made_for in ("stylegan1", "pggan")
            else "on another family a direction means nothing"
        )
        raise CheckpointError(
            f"{path}: made for {found.made_for} ({found.evidence}), but the generator is {family}: {why}"
        )
    if stated is None:
        if found.made_for is None:
            raise UserInputError(
                f"{path} does not say which generator it was made for, and on another one it means nothing: pass "
                "made_for, a family such as 'stylegan2', or the fingerprint of the generator"
            )
        return
    if _FINGERPRINT.match(stated):
        if stated != generator.fingerprint:
            raise CheckpointError(
                f"{path}: made for the generator with fingerprint {stated}, but this one has {generator.fingerprint}"
            )
    elif stated != family:
        raise CheckpointError(f"{path}: made for {stated}, as made_for says, but the generator is {family}")


def measure_std(vectors: Tensor, generator: Generator, rows: Sequence[int]) -> Tensor:
    """``(K,)`` standard deviation of random latents along directions, the unit of their strength.

    Args:
        vectors: ``(K, D)``, for which it is measured in the given rows, or ``(K, L, D)``; unit length.
        generator: Whose mapping of z ~ N(0, I), from a fixed seed.
        rows: Rows of ``w_plus`` that move.
    """
    rng = torch.Generator().manual_seed(_SEED)
    axes, chosen = vectors.double(), list(rows)
    parts = []
    with torch.no_grad():
        for _ in range(_NUM_CODES // _AT_ONCE):
            codes = draw_latents(generator, _AT_ONCE, rng).cpu()
            if axes.ndim == 3:
                parts.append((codes.double().flatten(1) @ axes.flatten(1).t())[:, None])
            elif bool((codes == codes[:, :1]).all()):  # W: one row is as good as all
                parts.append(codes[:, :1].double() @ axes.t())
            else:
                parts.append(codes[:, chosen].double() @ axes.t())
    return torch.cat(parts).var(dim=0).mean(dim=0).sqrt().float()


def check_rows(rows: Sequence[int], generator: Generator) -> tuple[int, ...]:
    """Rows in order, each once.

    Raises:
        UserInputError: For no rows, or rows that the generator does not have.
    """
    num_ws = generator.latent_spec.num_ws
    wrong = [row for row in rows if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < num_ws]
    if wrong or not len(rows):
        raise UserInputError(f"rows {list(rows)}: expected some of 0 to {num_ws - 1}, the rows of this generator")
    return tuple(sorted(set(rows)))


def _check_space(found: PublishedDirections, stated: Space | None, path: str) -> None:
    if stated not in (None, "w", "z"):
        raise UserInputError(f"space is {stated!r}: expected 'w' or 'z'")
    if found.space is not None and stated is not None and found.space != stated:
        raise CheckpointError(f"{path}: a direction of {found.space.upper()} ({found.evidence}), not of {stated!r}")
    if (found.space or stated) == "z":
        why = f" ({found.evidence})" if found.space else ""
        raise CheckpointError(
            f"{path}: a direction of Z{why}; edits move W, where a step in Z goes another way from every latent; "
            "use one made in W"
        )


def _check_shape(vectors: Tensor, generator: Generator, path: str) -> None:
    num_ws, w_dim = generator.latent_spec.shape
    if vectors.shape[-1] != w_dim:
        raise CheckpointError(f"{path}: directions of {vectors.shape[-1]} numbers, but the generator's W has {w_dim}")
    if vectors.ndim == 3 and vectors.shape[1] != num_ws:
        raise CheckpointError(f"{path}: directions of {vectors.shape[1]} rows, but the generator's W+ has {num_ws}")


def check_words(touches: set[str] | frozenset[str] | None) -> None:
    """Refuses words that no edit could touch."""
    unknown = sorted((touches or frozenset()) - ATTRIBUTES)
    if unknown:
        raise UserInputError(f"touches {', '.join(unknown)}: expected some of {', '.join(sorted(ATTRIBUTES))}")


def _names(found: PublishedDirections, name: str | None) -> tuple[str, ...]:
    if name is None:
        return found.names
    return (name,) if len(found.names) == 1 else tuple(f"{name}{index}" for index in range(len(found.names)))


def touched_by(name: str) -> frozenset[str]:
    """What a direction may change, by the attribute in its name; all where that is not known.

    ``age``, ``stylegan2_ffhq_smile_w_boundary``, ``boundary_Eyeglasses``.
    """
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word in _TOUCHES]
    numbered = name[-1:].isdigit()  # a component: it was not made for an attribute
    return frozenset().union(*(_TOUCHES[word] for word in words)) if words and not numbered else ATTRIBUTES
