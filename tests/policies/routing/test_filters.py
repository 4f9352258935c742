"""Filters, one behaviour at a time."""

from __future__ import annotations

import numpy as np

from policies.routing.filters import AdapterServed, MaxKvUsage, MaxWaiting
from tests.policies.routing.pools import adapter_on, everyone, pool_of, request_for


def test_adapter_requests_go_only_where_it_is_loaded() -> None:
    pool = pool_of((0, 0), (0, 0), (0, 0))
    request = request_for(pool, adapter=adapter_on(pool, served={1}))
    assert AdapterServed().keep(request, pool, everyone(pool)).tolist() == [1]
    assert AdapterServed().keep(request, pool, np.array([0, 2])).tolist() == []
    assert AdapterServed().keep(request_for(pool), pool, everyone(pool)).tolist() == [0, 1, 2]


def test_saturated_endpoints_are_left_out_but_never_all_unless_asked() -> None:
    pool = pool_of((3, 0.5), (9, 0.99))
    request, slots = request_for(pool), everyone(pool)
    assert MaxWaiting(limit=3).keep(request, pool, slots).tolist() == [0]
    assert MaxWaiting(limit=2).keep(request, pool, slots).tolist() == [0, 1]
    assert MaxWaiting(limit=2, strict=True).keep(request, pool, slots).tolist() == []
    assert MaxKvUsage(limit=0.9).keep(request, pool, slots).tolist() == [0]
    assert MaxKvUsage(limit=0.1).keep(request, pool, slots).tolist() == [0, 1]
    assert MaxKvUsage(limit=0.1, strict=True).keep(request, pool, slots).tolist() == []
