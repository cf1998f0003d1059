"""The judge of benchmarks/delivery.py objects to every log that breaks a promise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks._delivery.checker import Verdict, check
from benchmarks._delivery.records import (
    Item,
    Outage,
    Outcome,
    Publish,
    Reader,
    Received,
    Record,
    Resumed,
    Told,
)

GAP = Told("reconnected")


def publishes(*outcomes: Outcome) -> list[Publish]:
    """What one publisher does: message n from second n to half a second later."""
    return [
        Publish("c", 0, number, outcome, number, math.inf if outcome == "unknown" else number + 0.5)
        for number, outcome in enumerate(outcomes)
    ]


FIVE = publishes("acknowledged", "acknowledged", "acknowledged", "acknowledged", "acknowledged")


def judge(
    *items: Item | int,
    loses: str | None = None,
    published: Sequence[Publish] = FIVE,
    outages: Sequence[Outage] = (),
    others: Sequence[Sequence[int]] = (),
) -> Verdict:
    """Numbers are messages of publisher 0; `others` are readers of the same channel before."""
    readers = [
        Reader(f"other {at}", "c", [Received(0, number) for number in numbers])
        for at, numbers in enumerate(others)
    ]
    mine = [Received(0, item) if isinstance(item, int) else item for item in items]
    readers.append(Reader("mine", "c", mine))
    return check(Record({}, outages, (), published, readers), loses=loses)


def test_everything_once() -> None:
    verdict = judge(0, 1, 2, 3, 4)
    assert verdict == Verdict(acknowledged=5, once=5)


@pytest.mark.parametrize("missing", range(5))
def test_a_loss_without_a_gap(missing: int) -> None:
    left = [number for number in range(5) if number != missing]
    for loses in (None, "reconnected"):
        verdict = judge(*left, loses=loses)
        assert (verdict.once, verdict.losses, verdict.announced) == (4, 1, 0)
        assert f"mine: was not told of the loss of message {missing} of publisher 0" in (
            verdict.objections
        )


@pytest.mark.parametrize("missing", range(5))
@pytest.mark.parametrize("place", range(5))
def test_a_gap_stands_at_the_place_of_the_loss_or_does_not_count(missing: int, place: int) -> None:
    items: list[Item | int] = [number for number in range(5) if number != missing]
    items.insert(place, GAP)
    verdict = judge(*items, loses="reconnected", outages=[(-1.0, 9.0)])
    right = place == missing
    assert (verdict.losses, verdict.announced, verdict.once) == (1, int(right), 4)
    assert bool(verdict.objections) != right
    assert verdict.needless == 0  # there was an outage, at a time that nobody knows


def test_what_is_lost_on_a_log_is_an_objection_although_it_was_announced() -> None:
    verdict = judge(0, 1, Told("expired"), 3, 4)
    assert (verdict.announced, verdict.gaps, verdict.needless) == (1, 1, 0)
    assert verdict.objections == ["mine: lost message 2 of publisher 0"]


def test_several_losses_in_one_gap() -> None:
    verdict = judge(0, GAP, 4, loses="reconnected")
    assert (verdict.losses, verdict.announced, verdict.objections) == (3, 3, [])
    [place] = verdict.places
    assert place == ("mine", Received(0, 0), ("reconnected",), 3, Received(0, 4))


def test_a_loss_beyond_its_gap() -> None:
    verdict = judge(0, GAP, 2, 4, loses="reconnected")
    assert (verdict.losses, verdict.announced) == (2, 1)
    assert verdict.objections == ["mine: was not told of the loss of message 3 of publisher 0"]


def test_a_loss_at_the_end_is_told_behind_the_last_event() -> None:
    assert judge(0, 1, 2, 3, GAP, loses="reconnected").objections == []
    assert judge(0, 1, 2, GAP, 3, loses="reconnected", outages=[(0, 9)]).objections


def test_a_loss_of_another_publisher_is_placed_by_time() -> None:
    """Message 0 of publisher 1 was published between the messages 2 and 3 of publisher 0."""
    published = [*FIVE, Publish("c", 1, 0, "acknowledged", 2.6, 2.9)]
    assert judge(0, 1, 2, GAP, 3, 4, loses="reconnected", published=published).objections == []
    items: tuple[Item | int, ...]
    for items in ((0, 1, GAP, 2, 3, 4), (0, 1, 2, 3, GAP, 4)):
        verdict = judge(*items, loses="reconnected", published=published, outages=[(0, 9)])
        assert (verdict.losses, verdict.announced) == (1, 0)
    published[-1] = Publish("c", 1, 0, "acknowledged", 1.2, 2.9)  # together with 1 and 2
    for items in ((0, GAP, 1, 2, 3, 4), (0, 1, GAP, 2, 3, 4), (0, 1, 2, GAP, 3, 4)):
        assert judge(*items, loses="reconnected", published=published).objections == []


def test_a_double() -> None:
    verdict = judge(0, 1, 1, 2, 3, 4)
    assert verdict.objections == ["mine: was sent twice message 1 of publisher 0"]
    assert (verdict.once, verdict.losses) == (4, 0)


def test_a_double_after_a_resume() -> None:
    verdict = judge(0, 1, 2, Resumed(), 2, 3, 4)
    assert verdict.objections == ["mine: was sent twice message 2 of publisher 0"]


def test_without_ids_a_client_that_came_back_may_get_again_what_it_had() -> None:
    verdict = judge(0, 1, 2, Resumed(), GAP, 1, 2, 3, 4, loses="reconnected")
    assert (verdict.repeated, verdict.once, verdict.objections) == (2, 3, [])
    verdict = judge(0, 1, 2, Resumed(), GAP, 3, 3, 4, loses="reconnected")
    assert (verdict.repeated, verdict.once) == (0, 4)
    assert verdict.objections == ["mine: was sent twice message 3 of publisher 0"]


def test_what_left_a_process_that_was_killed_has_no_place_in_the_order() -> None:
    published = publishes("acknowledged", "unknown", "acknowledged", "acknowledged")
    assert judge(0, 2, 3, 1, published=published).objections == []
    published = publishes("acknowledged", "maybe", "acknowledged", "acknowledged")
    assert judge(0, 2, 3, 1, published=published).objections == [
        "mine: was sent too late message 1 of publisher 0"
    ]


def test_swapped() -> None:
    assert judge(0, 2, 1, 3, 4).objections == ["mine: was sent too late message 1 of publisher 0"]


def test_another_order_than_the_others_of_a_log() -> None:
    published = [*FIVE, Publish("c", 1, 0, "acknowledged", 0.0, 9.0)]
    first = [Received(0, number) for number in range(5)]
    readers = [
        Reader("a", "c", [*first, Received(1, 0)]),
        Reader("b", "c", [Received(1, 0), *first]),
    ]
    record = Record({}, (), (), published, readers)
    assert check(record, loses=None).objections == [
        "b: has another order than a from message 0 of publisher 0"
    ]
    assert check(record, loses="reconnected").objections == []  # nobody promised one order


def test_a_message_that_nobody_published() -> None:
    assert judge(0, 1, 2, 3, 4, 5).objections == [
        "mine: was sent, but nobody published, message 5 of publisher 0"
    ]


def test_the_three_classes() -> None:
    published = publishes("acknowledged", "maybe", "unknown", "refused", "acknowledged")
    for items in ((0, 4), (0, 1, 4), (0, 2, 4), (0, 1, 2, 4)):
        verdict = judge(*items, published=published)
        assert verdict == Verdict(acknowledged=2, maybe=1, unknown=1, refused=1, once=2)
    for items, what in (
        ((0, 1, 1, 4), "was sent twice message 1"),
        ((0, 2, 4, 2), "was sent twice message 2"),
        ((0, 3, 4), "was sent, though it was refused, message 3"),
    ):
        verdict = judge(*items, published=published)
        assert verdict.objections == [f"mine: {what} of publisher 0"]
        assert verdict.once == 2


def test_a_needless_gap_on_a_log() -> None:
    """A resume and an outage are no reasons for one there."""
    verdict = judge(0, 1, Resumed(), Told("reset"), 2, 3, 4, outages=[(1.6, 1.8)])
    assert (verdict.gaps, verdict.needless) == (1, 1)
    assert verdict.objections == ["mine: got 1 gaps instead of 0 behind message 1 of publisher 0"]


def test_a_needless_gap_without_a_log() -> None:
    assert judge(0, 1, GAP, 2, 3, 4, loses="reconnected").needless == 1
    assert judge(0, 1, GAP, 2, 3, 4, loses="reconnected", outages=[(1.6, 1.8)]).needless == 0
    assert judge(0, 1, GAP, 2, 3, 4, loses="reconnected", outages=[(3.0, 3.2)]).needless == 1
    assert judge(0, 1, 2, 3, GAP, 4, loses="reconnected", outages=[(1.6, 1.8)]).needless == 1
    assert judge(0, 1, Resumed(), GAP, 2, 3, 4, loses="reconnected").needless == 0
    assert judge(0, 1, Resumed(), 2, GAP, 3, 4, loses="reconnected").needless == 1


def test_one_interruption_is_told_once() -> None:
    outage = [(1.6, 1.8)]
    verdict = judge(0, 1, GAP, GAP, 2, 3, 4, loses="reconnected", outages=outage)
    assert (verdict.gaps, verdict.needless) == (2, 1)
    verdict = judge(0, 1, GAP, 2, GAP, 3, 4, loses="reconnected", outages=[(1.6, 2.2)])
    assert (verdict.gaps, verdict.needless) == (2, 1)
    verdict = judge(0, Resumed(), GAP, Resumed(), GAP, 2, 3, 4, loses="reconnected")
    assert (verdict.announced, verdict.needless, verdict.objections) == (1, 0, [])


def test_losses_belong_to_their_own_place() -> None:
    verdict = judge(Resumed(), GAP, Resumed(), GAP, 0, GAP, 2, 3, 4, loses="reconnected")
    assert [place.losses for place in verdict.places] == [0, 1]
    assert verdict.objections == []


def test_a_gap_beside_the_right_one_is_needless() -> None:
    verdict = judge(0, GAP, 2, GAP, 3, 4, loses="reconnected")
    assert (verdict.announced, verdict.gaps, verdict.needless) == (1, 2, 1)


def test_a_gap_for_another_reason() -> None:
    verdict = judge(0, Resumed(), Told("slow"), 2, 3, 4, loses="reconnected")
    assert verdict.objections == [
        "mine: got a gap that is not 'reconnected' behind message 0 of publisher 0"
    ]


def test_once_means_every_reader_of_the_channel() -> None:
    verdict = judge(0, 1, 2, 3, 4, others=[[0, 1, 2, 3], [1, 2, 3, 4]])
    assert (verdict.once, verdict.losses) == (3, 2)


def test_a_reader_answers_for_its_own_channel_only() -> None:
    record = Record(
        {},
        (),
        (),
        [*FIVE, *(publish._replace(channel="d") for publish in FIVE)],
        [
            Reader("a", "c", [Received(0, number) for number in range(5)]),
            Reader("b", "d", [Received(0, number) for number in range(4)]),
        ],
    )
    verdict = check(record, loses=None)
    assert (verdict.acknowledged, verdict.once, verdict.losses) == (10, 9, 1)
    del record.readers[0].items[-1]
    verdict = check(record, loses=None)
    assert (verdict.acknowledged, verdict.once, verdict.losses) == (10, 8, 2)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    items: list[Item] = [Received(0, 1), Told("reset"), Resumed(), Received(1, 0)]
    published = publishes("acknowledged", "maybe", "unknown", "refused")
    record = Record(
        {"seed": 1}, [(1.5, 2.5)], [(3.5, 4.5)], published, [Reader("mine", "c", items)]
    )
    record.save(tmp_path / "a" / "log.jsonl.gz")
    assert Record.load(tmp_path / "a" / "log.jsonl.gz") == record
