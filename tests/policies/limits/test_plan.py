"""Which limits a request counts against, in which buckets, and how much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from policies.limits.expression import Expression, Unit
from policies.limits.plan import (
    By,
    LimitRule,
    Meter,
    PriceList,
    Subject,
    TenantPolicy,
    charges,
    matches,
    takes,
)
from policies.limits.prices import Price, Usage
from policies.limits.types import (
    MAX_AMOUNT,
    CalendarWindow,
    Concurrency,
    Dimension,
    Period,
    TokenBucket,
    check_takes,
)

PER_MINUTE = TokenBucket.per(Period.MINUTE, 1_000)
SUBJECT = Subject("acme", key="k1", user="ann", model="llama-3", pool="chat")
USAGE = Usage(100, 20, cached_tokens=40, reasoning_tokens=5)


def rule(
    name: str = "r",
    dimension: Dimension = Dimension.TOTAL_TOKENS,
    by: tuple[By, ...] = (),
    models: tuple[str, ...] = (),
    pools: tuple[str, ...] = (),
    weights: Price | None = None,
) -> LimitRule:
    return LimitRule(name, dimension, PER_MINUTE, by, models, pools, weights=weights)


@pytest.mark.parametrize(
    ("by", "subject", "key", "name"),
    [
        ((), SUBJECT, "r|r", "r of tenant acme"),
        ((By.USER,), SUBJECT, "r|r|user=ann", "r of tenant acme, user ann"),
        (
            (By.POOL, By.KEY, By.MODEL),
            SUBJECT,
            "r|r|key=k1|model=llama-3|pool=chat",
            "r of tenant acme, key k1, model llama-3, pool chat",
        ),
    ],
)
def test_a_bucket_for_each_value(by: tuple[By, ...], subject: Subject, key: str, name: str) -> None:
    bucket = rule(by=by).bucket(subject)
    assert (bucket.key, bucket.name) == (key, name)


def test_rules_of_one_thing_have_one_tally_and_keys_of_their_own() -> None:
    buckets = [
        LimitRule(name, Dimension.REQUESTS, kind, (By.USER,), thing="requests").bucket(SUBJECT)
        for name, kind in (("per-minute", PER_MINUTE), ("per-month", CalendarWindow(5, Period.DAY)))
    ]
    assert [bucket.key.partition("|")[0] for bucket in buckets] == ["per-minute", "per-month"]
    assert {bucket.tally for bucket in buckets} == {"requests|user=ann"}
    alone = LimitRule("r", Dimension.REQUESTS, PER_MINUTE, (By.USER,)).bucket(SUBJECT)
    assert alone.tally == "r|user=ann"
    user = replace(SUBJECT, user="a|b|c")
    assert rule(by=(By.USER,)).bucket(user).tally == "r|user=a|b|c"


def test_the_order_of_by_makes_no_other_bucket() -> None:
    one = rule(by=(By.KEY, By.USER)).bucket(SUBJECT)
    assert one == rule(by=(By.USER, By.KEY)).bucket(SUBJECT)


@pytest.mark.parametrize(
    ("limit", "subject", "counts"),
    [
        (rule(), Subject("acme"), True),
        (rule(by=(By.USER,)), Subject("acme", key="k1"), False),
        (rule(by=(By.KEY,)), Subject("acme", user="ann"), False),
        (rule(by=(By.KEY, By.USER)), SUBJECT, True),
        (rule(models=("llama-*",)), SUBJECT, True),
        (rule(models=("qwen*", "llama-?")), SUBJECT, True),
        (rule(models=("llama",)), SUBJECT, False),
        (rule(models=("LLAMA-3",)), SUBJECT, False),
        (rule(models=("*",)), Subject("acme"), True),
        (rule(models=("llama-*",)), Subject("acme"), False),
        (rule(pools=("batch",)), SUBJECT, False),
        (rule(pools=("batch", "chat")), SUBJECT, True),
    ],
)
def test_whether_a_request_counts(limit: LimitRule, subject: Subject, counts: bool) -> None:
    assert limit.applies(subject) is counts
    assert bool(TenantPolicy("acme", (limit,)).meters(subject)) is counts


@pytest.mark.parametrize(
    ("dimension", "amount"),
    [
        (Dimension.REQUESTS, 1),
        (Dimension.CONCURRENCY, 1),
        (Dimension.INPUT_TOKENS, 100),
        (Dimension.OUTPUT_TOKENS, 20),
        (Dimension.TOTAL_TOKENS, 120),
        (Dimension.MONEY, 60 * 2 + 40 * 1 + 20 * 10),
        (Dimension.WEIGHTED_TOKENS, 60 + 4 + 80),
    ],
)
def test_how_much_a_request_counts(dimension: Dimension, amount: int) -> None:
    weights = Price(1_000_000, 4_000_000, cached_input_micros=100_000)
    policy = TenantPolicy(
        "acme",
        (rule(dimension=dimension, weights=weights),)
        if dimension is Dimension.WEIGHTED_TOKENS
        else (rule(dimension=dimension),),
        prices=PriceList([("llama-*", Price(2_000_000, 10_000_000, 1_000_000))]),
    )
    meters = policy.meters(SUBJECT)
    assert [take.amount for take in takes(meters, USAGE)] == [amount]
    assert charges(meters, USAGE) == {"r|r": amount}


def test_a_model_without_a_price_is_free() -> None:
    policy = TenantPolicy("acme", (rule(dimension=Dimension.MONEY),), prices=PriceList())
    assert charges(policy.meters(SUBJECT), USAGE) == {"r|r": 0}
    assert PriceList().of("llama-3") is None


def test_the_first_price_that_fits() -> None:
    dear, cheap = Price(2_000_000, 0), Price(1_000_000, 0)
    prices = PriceList([("llama-3", dear), ("llama-*", cheap)])
    assert prices.of("llama-3") is dear
    assert prices.of("llama-2") is cheap
    assert prices.of("qwen") is None


def test_many_made_up_model_names_do_not_fill_the_memory() -> None:
    prices = PriceList([("llama-*", Price(1, 1))])
    for number in range(10_000):
        prices.of(f"llama-{number}")
    assert len(prices._found) <= 4_096
    assert prices.of("llama-1") == Price(1, 1)


def test_amounts_are_bounded() -> None:
    bucket = LimitRule("r", Dimension.MONEY, Concurrency(1)).bucket(SUBJECT)
    square = Expression("double(total_tokens) * double(total_tokens)", Unit.MONEY)
    for cost in (Price(10**12, 10**12), square):
        assert Meter(bucket, cost).amount(Usage(10**9, 0)) == MAX_AMOUNT


@pytest.mark.parametrize(
    ("name", "patterns", "fits"),
    [
        ("llama-3", ("*",), True),
        ("", ("*",), True),
        ("llama-3", (), False),
        ("llama-3", ("llama",), False),
        ("org/llama-3", ("org/*",), True),
        ("llama-3", ("llama-[0-9]",), True),
        ("llama-x", ("llama-[0-9]",), False),
    ],
)
def test_patterns_fit_whole_names(name: str, patterns: tuple[str, ...], fits: bool) -> None:
    assert matches(name, patterns) is fits


values = st.text(max_size=8)
subjects = st.builds(Subject, st.just("acme"), values, values, values, values)
rules = st.lists(
    st.builds(
        rule,
        name=st.text("abc-", min_size=1, max_size=3),
        by=st.lists(st.sampled_from(By), unique=True).map(tuple),
    ),
    max_size=6,
    unique_by=lambda limit: limit.name,
)


@given(rules, subjects)
def test_a_request_never_takes_twice_from_a_bucket(limits: list[LimitRule], who: Subject) -> None:
    check_takes(takes(TenantPolicy("acme", tuple(limits)).meters(who), USAGE))


@given(st.lists(st.sampled_from(By), unique=True), subjects, subjects)
def test_two_requests_share_a_bucket_only_when_their_values_are_the_same(
    by: list[By], one: Subject, other: Subject
) -> None:
    limit = rule(by=tuple(by))
    same = all(one.of(kind) == other.of(kind) for kind in by)
    if not any("|" in value for who in (one, other) for value in (who.key, who.user, who.model)):
        assert (limit.bucket(one).key == limit.bucket(other).key) is same
