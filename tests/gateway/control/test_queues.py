"""The queues of several workers, as one."""

from __future__ import annotations

from gateway.control.queues import from_sight, together
from picker.admission.sight import ClassSight, FlowSight, PoolSight


def test_workers_add_up() -> None:
    one = PoolSight(
        "p",
        0.5,
        (ClassSight(0, (FlowSight("a", 2, 20.0, 1.0, 3.0), FlowSight("", 1, 1, 1, 1)), 7),),
    )
    other = PoolSight(
        "p",
        1.0,
        (
            ClassSight(3, (FlowSight("c", 1, 5.0, 0.5, 0.25),), 0.0),
            ClassSight(
                0, (FlowSight("b", 9, 90.0, 4.0, 2.0), FlowSight("a", 1, 10.0, 2.0, 1.0)), 5
            ),
        ),
    )
    assert together(map(from_sight, (one, other, PoolSight("q", 0.0)))) == {
        "p": PoolSight(
            "p",
            1.0,
            (
                ClassSight(3, (FlowSight("c", 1, 5.0, 0.5, 0.25),), 0.0),
                ClassSight(
                    0,
                    (
                        FlowSight("b", 9, 90.0, 4.0, 2.0),
                        FlowSight("a", 3, 30.0, 2.0, 3.0),
                        FlowSight("", 1, 1.0, 1.0, 1.0),
                    ),
                    7.0,
                ),
            ),
        ),
        "q": PoolSight("q", 0.0),
    }
