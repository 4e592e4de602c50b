"""Names in groups that fit into memory."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.inner import chunks


@settings(derandomize=True, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(0, 40)), max_size=30), st.integers(1, 50))
def test_a_chunk_holds_no_more_than_it_may(sizes: list[int | None], held: int) -> None:
    """What is unknown, or larger than that, is alone."""
    names = [f"v{i}" for i in range(len(sizes))]
    nbytes = {n: s for n, s in zip(names, sizes, strict=True) if s is not None}
    groups = list(chunks(names, nbytes, held))
    assert [n for chunk in groups for n in chunk] == names
    assert all(len(chunk) == 1 or sum(nbytes.get(n, held) for n in chunk) <= held for chunk in groups)
