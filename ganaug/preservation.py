"""What ``preserve`` asks for: which edits may be used, and what has to be done so that the rest keeps its promise."""

from collections.abc import Sequence

from ganaug.edits import ATTRIBUTES, build_edits, default_edits
from ganaug.interfaces import Edit, Generator, UserInputError


def choose_edits(edits: Sequence[str | Edit] | None, preserve: Sequence[str], generator: Generator) -> list[Edit]:
    """Edits of a policy, built for a generator.

    Args:
        edits: Names and objects; None: the default ones, less those that touch something preserved.
        preserve: What must not change.
        generator: Whose latents are edited.

    Raises:
        UserInputError: For unknown names, and where nothing is left.
    """
    if isinstance(preserve, str):
        raise UserInputError(f"preserve is a sequence of attribute names, got the string {preserve!r}")
    if edits is not None and (isinstance(edits, str) or not isinstance(edits, Sequence)):
        raise UserInputError(f"edits is a sequence of names or Edit objects, got {edits!r}")
    known = ATTRIBUTES.union({"label"}, *(edit.touches for edit in edits or () if isinstance(edit, Edit)))
    unknown = sorted(set(preserve) - known)
    if unknown:
        raise UserInputError(f"preserve names unknown attributes {unknown}; known are {', '.join(sorted(known))}")
    if edits is not None:
        return build_edits(edits, generator)
    kept = set(preserve)
    built = [edit for edit in build_edits(default_edits(generator), generator) if not edit.touches & kept]
    if not built:
        raise UserInputError(f"every default edit touches something in preserve={list(preserve)}; name edits yourself")
    return built
