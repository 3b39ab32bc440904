"""What a study plans: which pictures meet, what is right, and in which order each rater sees them."""

from collections import Counter

import pytest

from ganaug.errors import UserInputError
from ganaug.study.plan import Faces as Known
from ganaug.study.plan import Trial, kinds_of_same_person, needs_of, plan_trials, schedule
from ganaug.study.tasks import REAL_OR_GENERATED, SAME_PERSON, TASKS


def planned(trials: int, catch: int, faces: Known, refused: frozenset[int] = frozenset()) -> list[Trial]:
    return plan_trials(TASKS, trials, catch, faces, lambda pool, n: [i for i in pool if i not in refused][:n])


@pytest.mark.parametrize(("trials", "catch"), [(1, 0), (2, 1), (5, 3), (40, 4)])
def test_a_plan_shows_what_was_asked(trials: int, catch: int) -> None:
    plan = planned(trials, catch, Known(range(400)))
    for task in TASKS:
        mine = [trial for trial in plan if trial.task == task]
        kinds = Counter(trial.kind for trial in mine)
        wanted = {"pair": trials} if task == REAL_OR_GENERATED else kinds_of_same_person(trials)
        assert kinds == Counter({**wanted, "catch": catch})
        photos = [{trial.first.index, trial.second.index} for trial in mine]
        assert sum(map(len, photos)) == len(set.union(*photos)), "no photo in two trials of a task"
        assert len(set.union(*photos)) == needs_of(task, trials, catch).photos
        made = [s for trial in mine for s in (trial.first, trial.second) if s.kind == "variant"]
        assert len(made) == needs_of(task, trials, catch).variants


def test_the_right_answers_follow_from_what_is_shown() -> None:
    for trial in planned(30, 4, Known(range(300))):
        same = trial.first.index == trial.second.index
        if trial.task == REAL_OR_GENERATED:
            assert trial.answer == "first" and trial.first.kind in ("variant", "distorted")
            assert trial.second.kind == "photo" and not same
        else:
            assert (trial.answer == "same") == same and trial.first.kind == "photo"


def test_catch_trials_fail_those_who_always_say_the_same() -> None:
    catch = [t.answer for t in planned(2, 4, Known(range(50))) if t.kind == "catch" and t.task == SAME_PERSON]
    assert Counter(catch) == {"same": 2, "different": 2}


def test_tasks_share_photos_only_where_there_are_too_few() -> None:
    def photos(plan: list[Trial], task: str) -> set[int]:
        return {s.index for t in plan if t.task == task for s in (t.first, t.second)}

    rich, poor = planned(10, 0, Known(range(60))), planned(10, 0, Known(range(20)))
    assert not photos(rich, REAL_OR_GENERATED) & photos(rich, SAME_PERSON)
    assert photos(poor, REAL_OR_GENERATED) & photos(poor, SAME_PERSON)


def test_pictures_that_meet_are_of_one_group_and_of_two_persons() -> None:
    groups = {i: {"gender": "fm"[i % 2]} for i in range(400)}
    persons = {i: str(i // 4) for i in range(400)}  # neighbours are one person
    for trial in planned(40, 4, Known(range(400), groups, persons)):
        first, second = trial.first.index, trial.second.index
        assert groups[first] == groups[second]
        assert first == second or persons[first] != persons[second]


def test_where_no_group_is_equal_the_nearest_is_taken() -> None:
    groups = {0: {"race": "a", "gender": "f"}, 1: {"race": "b", "gender": "m"}, 2: {"race": "b", "gender": "f"}, 3: {}}
    (trial,) = plan_trials([REAL_OR_GENERATED], 1, 0, Known([0, 1, 3, 2], groups), lambda pool, n: pool[:n])
    assert (trial.first.index, trial.second.index) == (0, 2)


def test_too_few_photos_persons_or_variants() -> None:
    with pytest.raises(UserInputError, match="take 24 photos, but only 23 have records"):
        planned(10, 2, Known(range(23)))
    with pytest.raises(UserInputError, match="too few persons"):
        planned(10, 0, Known(range(20), {}, dict.fromkeys(range(20), "ann")))
    with pytest.raises(UserInputError, match="variants could be made of 9 of 20 photos, but 10 are needed"):
        planned(10, 0, Known(range(20)), frozenset(range(9, 20)))


def test_what_a_gate_refuses_is_not_shown_as_generated() -> None:
    refused = frozenset(range(0, 100, 2))
    for trial in planned(20, 2, Known(range(100)), refused):
        for shown in (trial.first, trial.second):
            assert shown.kind != "variant" or shown.index not in refused


def test_schedules_are_balanced_and_each_raters_own() -> None:
    plan = planned(11, 3, Known(range(200)))
    orders = [schedule(plan, 5, rater) for rater in range(1, 9)]
    assert orders[0] == schedule(plan, 5, 1) != schedule(plan, 6, 1)
    assert len({tuple(order) for order in orders}) == len(orders)
    for order in orders:
        assert sorted(trial for trial, _ in order) == list(range(len(plan)))
        tasks = [plan[trial].task for trial, _ in order]
        assert tasks == sorted(tasks, key=TASKS.index), "one task after the other"
        for kind in {(t.task, t.kind) for t in plan}:
            sides = [swapped for trial, swapped in order if (plan[trial].task, plan[trial].kind) == kind]
            assert abs(2 * sum(sides) - len(sides)) <= 1
    # Where one side has one more, it is not the same one for all raters.
    pairs = [i for i, t in enumerate(plan) if t.kind == "pair"]
    more = {sum(swapped for trial, swapped in order if trial in pairs) for order in orders}
    assert more == {5, 6}
