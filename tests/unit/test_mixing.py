"""Quotas of tokens: weights, caps and shares by hand, and what must hold whatever the sources."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayloom.data.corpus.document_selection import Supply, quotas, settled
from rayloom.specs.cleaning.output import Mixture


def _supply(domain: str, tokens: int, weight: float = 1, cap: int | None = None) -> Supply:
    return Supply(domain, tokens, weight, min(tokens, cap or tokens))


@pytest.mark.parametrize(
    ("supplies", "mixture", "expected"),
    [
        # Nothing asked: everything.
        ([_supply("web", 700), _supply("prose", 49)], {}, [700, 49]),
        # Half as likely as the other; the heavier source is taken whole.
        ([_supply("web", 700, 0.5), _supply("prose", 100)], {}, [350, 100]),
        ([_supply("web", 700, 49), _supply("prose", 98, 1)], {}, [700, 2]),
        # A budget is shared as the sources are.
        ([_supply("web", 600), _supply("prose", 300)], {"total_tokens": 90}, [60, 30]),
        # With weights 1 and 4: 600·1 against 300·4.
        ([_supply("web", 600), _supply("prose", 300, 4)], {"total_tokens": 90}, [30, 60]),
        # What a capped source cannot give, the other does.
        ([_supply("web", 600, cap=20), _supply("prose", 300)], {"total_tokens": 90}, [20, 70]),
        # A budget above what there is.
        ([_supply("web", 60), _supply("prose", 30)], {"total_tokens": 1000}, [60, 30]),
        # At most 40 %: 60 of others allow 40.
        ([_supply("encyclopedia", 500), _supply("web", 60)], {"max_domain_share": {"encyclopedia": 0.4}}, [40, 60]),
        # Two sources of the domain share its 40.
        (
            [_supply("encyclopedia", 300), _supply("encyclopedia", 100), _supply("web", 60)],
            {"max_domain_share": {"encyclopedia": 0.4}},
            [30, 10, 60],
        ),
        # A share that is not reached limits nothing.
        ([_supply("encyclopedia", 30), _supply("web", 60)], {"max_domain_share": {"encyclopedia": 0.4}}, [30, 60]),
        # Budget and share: 100 in all, 40 of them.
        (
            [_supply("encyclopedia", 500), _supply("web", 500)],
            {"max_domain_share": {"encyclopedia": 0.4}, "total_tokens": 100},
            [40, 60],
        ),
    ],
)  # fmt: skip
def test_quotas_by_hand(supplies: list[Supply], mixture: dict[str, object], expected: list[int]) -> None:
    found = quotas(supplies, Mixture.model_validate(mixture))
    assert found == [pytest.approx(value, abs=1) for value in expected]


SUPPLIES = st.lists(
    st.builds(
        _supply,
        st.sampled_from(["encyclopedia", "code", "web"]),
        st.integers(0, 3000),
        st.floats(0.01, 20),
        st.none() | st.integers(1, 3000),
    ),
    min_size=1,
    max_size=6,
)


@given(SUPPLIES, st.none() | st.integers(1, 5000), st.integers(1, 200), st.floats(0.05, 0.9))
def test_shares_hold_of_what_is_taken_in_whole_documents(
    supplies: list[Supply], total: int | None, document_tokens: int, share: float
) -> None:
    mixture = Mixture(total_tokens=total, max_domain_share={"encyclopedia": share, "code": 0.5})

    def take(wanted: list[int]) -> list[int]:
        return [quota // document_tokens * document_tokens for quota in wanted]

    wanted, taken = settled(supplies, mixture, take)
    assert taken == take(wanted)
    for domain, limit in mixture.max_domain_share.items():
        mine = sum(tokens for tokens, supply in zip(taken, supplies, strict=True) if supply.domain == domain)
        assert mine <= limit * sum(taken)
    assert sum(taken) <= (total or 10**9)
    assert all(tokens <= supply.most_tokens for tokens, supply in zip(taken, supplies, strict=True))


@given(SUPPLIES, st.integers(1, 5000), st.integers(1, 5000))
def test_a_smaller_budget_takes_a_part_of_what_a_larger_one_takes(supplies: list[Supply], one: int, other: int) -> None:
    small, large = (quotas(supplies, Mixture(total_tokens=total)) for total in sorted((one, other)))
    assert all(a <= b for a, b in zip(small, large, strict=True))


@given(SUPPLIES, st.integers(1, 5000))
def test_a_budget_is_used_up_where_there_is_enough(supplies: list[Supply], total: int) -> None:
    found = quotas(supplies, Mixture(total_tokens=total))
    there = sum(supply.most_tokens for supply in supplies)
    assert min(total, there) - len(supplies) <= sum(found) <= total
