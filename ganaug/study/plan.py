"""Which pictures meet in which trial, and in which order each rater sees the trials."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ganaug import rng
from ganaug.errors import UserInputError
from ganaug.study.tasks import REAL_OR_GENERATED, SAME_PERSON

PictureKind = Literal["photo", "variant", "distorted"]


@dataclass(frozen=True)
class Shown:
    """A picture of a trial.

    Attributes:
        kind: ``"distorted"`` is a photo whose blocks are shuffled.
        index: Of the photo that it is or was made of.
    """

    kind: PictureKind
    index: int


@dataclass(frozen=True)
class Trial:
    """What is asked once.

    Attributes:
        task: One of :data:`~ganaug.study.tasks.TASKS`.
        kind: ``"pair"`` of real or generated; ``"variant"`` (photo and variant of one person), ``"others"`` (photos of
            two) and ``"other-variant"`` (photo, and variant of another) of same person; ``"catch"``.
        first: In real or generated: the one that a rater should name.
        second: The other one. Which is shown on the left differs from rater to rater.
        answer: ``"first"``, ``"same"`` or ``"different"``.
        subject: Index of the photo whose groups and edits the trial counts for.
    """

    task: str
    kind: str
    first: Shown
    second: Shown
    answer: str
    subject: int


@dataclass(frozen=True)
class Needs:
    """How many pictures a task takes.

    Attributes:
        variants: Photos of which a variant is shown.
        photos: Photos in all, those included; a task shows no photo in two trials.
    """

    variants: int
    photos: int


@dataclass(frozen=True)
class Faces:
    """What is known of the photos.

    Attributes:
        order: Indices in the order in which they are taken.
        groups: Index -> attribute -> value; pictures that meet agree in as many as can be had.
        persons: Index -> who it is, where that is known. Other photos count as other persons.
    """

    order: Sequence[int]
    groups: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    persons: Mapping[int, str] = field(default_factory=dict)


def kinds_of_same_person(trials: int) -> dict[str, int]:
    """Half of the trials show one person, a quarter photos of two, a quarter a photo and a variant of another.

    Example:
        >>> kinds_of_same_person(9)
        {'variant': 5, 'others': 2, 'other-variant': 2}
    """
    same = (trials + 1) // 2
    others = (trials - same + 1) // 2
    return {"variant": same, "others": others, "other-variant": trials - same - others}


def needs_of(task: str, trials: int, catch: int) -> Needs:
    """How many pictures a task takes.

    Example:
        >>> needs_of(REAL_OR_GENERATED, 10, 2)
        Needs(variants=10, photos=24)
    """
    if task == REAL_OR_GENERATED:
        return Needs(trials, 2 * trials + 2 * catch)
    kinds = kinds_of_same_person(trials)
    variants = kinds["variant"] + kinds["other-variant"]
    identical = (catch + 1) // 2
    photos = kinds["variant"] + 2 * (kinds["others"] + kinds["other-variant"]) + identical + 2 * (catch - identical)
    return Needs(variants, photos)


def plan_trials(
    tasks: Sequence[str],
    trials: int,
    catch: int,
    faces: Faces,
    with_variant: Callable[[Sequence[int], int], Iterable[int]],
) -> list[Trial]:
    """Trials of every task; further tasks take photos that no earlier one has shown, as long as there are any.

    Args:
        tasks: Of :data:`~ganaug.study.tasks.TASKS`.
        trials: Of each task.
        catch: Catch trials of each task, beside those.
        faces: The photos.
        with_variant: Of given indices, the first so many that a variant can be made of.

    Raises:
        UserInputError: If there are too few photos.
    """
    planned: list[Trial] = []
    used: set[int] = set()
    for task in tasks:
        needs = needs_of(task, trials, catch)
        if needs.photos > len(faces.order):
            raise UserInputError(
                f"{trials} trials and {catch} catch trials of {task} take {needs.photos} photos, but only "
                f"{len(faces.order)} have records; ask for fewer (--trials, --catch), or precompute more"
            )
        pool = [i for i in faces.order if i not in used] + [i for i in faces.order if i in used]
        sources = list(with_variant(pool, needs.variants))
        if len(sources) < needs.variants:
            raise UserInputError(
                f"{task}: variants could be made of {len(sources)} of {len(pool)} photos, but {needs.variants} are "
                "needed; ask for fewer --trials, or for less of --preserve and --min-quality"
            )
        table = _Table(faces, [i for i in pool if i not in set(sources)])
        made = (_pairs if task == REAL_OR_GENERATED else _persons)(trials, catch, sources, table)
        planned += made
        used |= {shown.index for trial in made for shown in (trial.first, trial.second)}
    return planned


class _Table:
    """Photos that can still be dealt out."""

    def __init__(self, faces: Faces, free: list[int]) -> None:
        self.faces, self.free = faces, free

    def any(self) -> int:
        """The next photo."""
        return self.free.pop(0)

    def other_than(self, index: int) -> int:
        """The next photo of another person, as like in its groups as there is one: else the group would tell."""
        faces = self.faces
        person, groups = faces.persons.get(index), faces.groups.get(index, {})
        others = [i for i in self.free if person is None or faces.persons.get(i) != person]
        if not others:
            raise UserInputError("too few persons: no photo of another one is left; ask for fewer --trials")
        chosen = max(others, key=lambda i: len(groups.items() & faces.groups.get(i, {}).items()))  # the first of them
        self.free.remove(chosen)
        return chosen


def _pairs(trials: int, catch: int, sources: Sequence[int], table: _Table) -> list[Trial]:
    """A variant beside a photo of another person: beside its own photo, the difference would be looked for instead."""
    made = []
    for index in sources:
        shown = Shown("variant", index), Shown("photo", table.other_than(index))
        made.append(Trial(REAL_OR_GENERATED, "pair", *shown, "first", index))
    for _ in range(catch):
        index = table.any()
        shown = Shown("distorted", index), Shown("photo", table.other_than(index))
        made.append(Trial(REAL_OR_GENERATED, "catch", *shown, "first", index))
    return made


def _persons(trials: int, catch: int, sources: Sequence[int], table: _Table) -> list[Trial]:
    kinds, made = kinds_of_same_person(trials), []
    for place, index in enumerate(sources):
        if place < kinds["variant"]:
            pair, kind, answer = (Shown("photo", index), Shown("variant", index)), "variant", "same"
        else:
            pair = Shown("photo", table.other_than(index)), Shown("variant", index)
            kind, answer = "other-variant", "different"
        made.append(Trial(SAME_PERSON, kind, *pair, answer, index))
    for _ in range(kinds["others"]):
        index = table.any()
        pair = Shown("photo", index), Shown("photo", table.other_than(index))
        made.append(Trial(SAME_PERSON, "others", *pair, "different", index))
    for number in range(catch):  # in turn, so that neither "always same" nor "always different" passes
        index = table.any()
        second = Shown("photo", index) if number % 2 == 0 else Shown("distorted", table.other_than(index))
        answer = "same" if number % 2 == 0 else "different"
        made.append(Trial(SAME_PERSON, "catch", Shown("photo", index), second, answer, index))
    return made


def schedule(trials: Sequence[Trial], seed: int, rater: int) -> list[tuple[int, bool]]:
    """The order in which a rater sees the trials: task by task, shuffled within; half of them with the sides changed.

    Args:
        trials: All of the study.
        seed: Of the study.
        rater: Number of the rater.

    Returns:
        For each place: index of the trial, and whether its second picture is on the left.
    """
    shown: list[tuple[int, bool]] = []
    for task in dict.fromkeys(trial.task for trial in trials):
        mine = [i for i, trial in enumerate(trials) if trial.task == task]
        swapped: dict[int, bool] = {}
        # Sides are balanced within each kind: else a rater who likes the left would do better at one than at another.
        for kind in sorted({trials[i].kind for i in mine}):
            alike = [i for i in mine if trials[i].kind == kind]
            turns = rng.permutation(seed, rater, len(alike), f"study sides {task} {kind}").tolist()
            # Of an odd number, one side has one more: in turn from rater to rater.
            swapped |= {i: (turn + rater) % 2 == 0 for i, turn in zip(alike, turns, strict=True)}
        order = rng.permutation(seed, rater, len(mine), f"study order {task}").tolist()
        shown += [(mine[place], swapped[mine[place]]) for place in order]
    return shown
