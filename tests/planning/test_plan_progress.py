"""Planning reports how far it is by one count, however many choices it measures."""

from __future__ import annotations

import pytest

from loraedit.families.card import NANO, read_card
from loraedit.planning import Cost, Limits, Shape, make_plan, work_of
from loraedit.planning.progress import GrowingCount
from loraedit.settings import Resources, make_settings
from loraedit.types import OnStep, Size

GB = 10**9
SHAPE = Shape(9, Size(64, 64))


def test_the_count_grows_with_every_choice_and_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Resources] = []

    def measure(*given: object, on_cpu: bool, uses: object) -> dict[str, Cost]:  # noqa: ARG001
        *_, resources, on_step = given
        assert isinstance(resources, Resources) and callable(on_step)
        measured.append(resources)
        for done in range(5):
            on_step(done, 5)
        size = 30 * GB - 10 * GB * resources.swap_blocks
        return {name: Cost(1, size, 1) for name in ("text_encode", "vae_encode", "train", "sample", "vae_decode")}

    monkeypatch.setattr("loraedit.planning.plan.measure_cost", measure)
    card, events = read_card(NANO), list[tuple[int, int]]()
    work = work_of(card, make_settings({}).resolved(card.recipe), SHAPE.size, [9], 0)
    make_plan(
        card, "nano", SHAPE.size, work, Limits(24 * GB), lambda chosen: chosen,
        on_step=lambda done, total: events.append((done, total)),
    )  # fmt: skip
    assert len(measured) == len(set(measured)) > 2
    assert events == sorted(events) and events[-1] == (5 * len(measured), 5 * len(measured))
    assert all(done < total for done, total in events[:-1])


def test_parts_that_are_to_come_are_known_to_have_a_step() -> None:
    events: list[tuple[int, int]] = []
    count = GrowingCount(lambda done, total: events.append((done, total)), parts=2)
    first: OnStep = count.next_part()
    first(0, 3)
    first(3, 3)
    count.next_part()(0, 2)
    count.end()
    assert events == [(0, 4), (3, 4), (3, 5), (5, 5)]
