"""Served models and adapter residency."""

from __future__ import annotations

from picker.state.models import ServedModel, ServedModels

BASE = ServedModel("base", None, 8_192)
TUNED = ServedModel("tuned", "base", None)


def models_of(slots: int = 3) -> ServedModels:
    models = ServedModels()
    models.grow(slots)
    return models


def test_an_adapter_is_served_where_it_is_listed() -> None:
    models = models_of()
    models.set_served(0, [BASE])
    models.set_served(2, [BASE, TUNED])
    adapter = models.adapter("tuned")
    assert adapter is not None
    assert adapter.served.tolist() == [False, False, True]
    assert models.serving("base").tolist() == [True, False, True]
    assert models.adapter("base") is None
    assert models.adapter("other") is None
    models.set_served(2, [BASE])
    assert adapter.served.tolist() == [False, False, False], "the view is live"


def test_models_are_remembered_after_the_last_replica_is_gone() -> None:
    models = models_of()
    models.set_served(0, [BASE, TUNED])
    models.clear(0)
    assert models.served_now(range(3)) == []
    assert set(models.known()) == {"base", "tuned"}
    assert not models.serving("base").any()
    assert not models.serving("never heard of").any()


def test_a_known_context_length_is_not_forgotten() -> None:
    models = models_of()
    models.set_served(0, [BASE])
    models.set_served(0, [ServedModel("base", None, None)])
    assert models.known()["base"].max_model_tokens == 8_192


def test_the_first_time_of_creation_counts_and_what_is_left_out_stays() -> None:
    models = models_of()
    models.set_served(0, [ServedModel("base", None, None, "org/base", 1_700_000_000)])
    models.set_served(1, [ServedModel("base", None, None, None, 1_600_000_000)])
    models.set_served(0, [ServedModel("base", None, None, None, 1_800_000_000)])
    known = models.known()["base"]
    assert (known.root, known.created) == ("org/base", 1_600_000_000)
    before = models.revisions.tolist()
    models.set_served(0, [ServedModel("base", None, None, None, 1_900_000_000)])
    assert models.revisions.tolist() == before, "nobody needs to know"


def test_residency_follows_the_scrapes() -> None:
    models = models_of()
    models.set_served(1, [BASE, TUNED])
    models.set_resident(1, frozenset(), frozenset({"tuned"}))
    adapter = models.adapter("tuned")
    assert adapter is not None
    assert (adapter.running[1], adapter.waiting[1]) == (False, True)
    models.set_resident(1, frozenset({"tuned"}), frozenset())
    assert (adapter.running[1], adapter.waiting[1]) == (True, False)
    models.set_resident(1, frozenset(), frozenset())
    assert not adapter.running.any()
    assert not adapter.waiting.any()


def test_without_room_an_expected_adapter_waits() -> None:
    models = models_of()
    models.set_served(1, [BASE, TUNED])
    assert models.expect_resident(1, "tuned", room=False)
    assert not models.expect_resident(1, "tuned", room=False)
    adapter = models.adapter("tuned")
    assert adapter is not None
    assert (adapter.running[1], adapter.waiting[1]) == (False, True)


def test_growing_keeps_everything() -> None:
    models = models_of(2)
    models.set_served(1, [BASE, TUNED])
    models.set_resident(1, frozenset({"tuned"}), frozenset())
    models.grow(4)
    adapter = models.adapter("tuned")
    assert adapter is not None
    assert adapter.served.tolist() == adapter.running.tolist() == [False, True, False, False]
