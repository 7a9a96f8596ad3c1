"""All processes act at one place, in whatever order they come to it and whoever wishes it."""

import random

import pytest
from torch.distributed import HashStore

from ovi_lab.strategies.joint_action import JointAction

WISH = 10


def acted_after(seed: int, in_step: bool) -> tuple[int, list[int]]:
    """How far the processes of a random schedule act beyond the first that wished, and where each of them does.

    Args:
        seed: of the number of processes, who wishes, and the order in which they come to their next index.
        in_step: none begins an index before all have been at the one before the last.
    """
    draw, store = random.Random(seed), HashStore()
    world = draw.choice([2, 3, 8])
    joint = [JointAction(store, rank, world) for rank in range(world)]
    wishing = draw.choice([{0}, {world - 1}, set(range(world))])
    first, speeds = draw.randrange(1, 6), [draw.choice([1, 1, 3]) for _ in range(world)]
    at, acted = [0] * world, [0] * world
    while not all(acted):
        able = [r for r in range(world) if not acted[r] and (not in_step or at[r] <= min(at))]
        (rank,) = draw.choices(able, [speeds[r] for r in able])
        at[rank] += 1
        assert at[rank] < 5000
        if joint[rank].at(at[rank], WISH * (rank in wishing and at[rank] >= first), 0) == (WISH, 0):
            acted[rank] = at[rank]
    return acted[0] - first, acted


@pytest.mark.parametrize("in_step", [True, False])
def test_all_act_at_one_index_in_any_order(in_step):
    delays = []
    for seed in range(500):
        delay, acted = acted_after(seed, in_step)
        assert len(set(acted)) == 1, (seed, acted)
        delays.append(delay)
    assert min(delays) >= 1
    if in_step:
        assert max(delays) <= 2


def test_a_wish_that_comes_later_is_agreed_on_next_and_one_process_waits_for_nobody():
    store = HashStore()
    two = [JointAction(store, rank, 2) for rank in range(2)]
    seen = [[one.at(i, WISH * (i == 3), i >= 6) for one in two] for i in range(1, 10)]
    assert all(first == second for first, second in seen)
    assert [i for i, ((number, _), _) in enumerate(seen, 1) if number] == [4]
    assert [i for i, ((_, save), _) in enumerate(seen, 1) if save] == [7, 9]
    assert JointAction(None).at(1, WISH, 0) == (WISH, 0)
