"""The seed of a row."""

from em.sampling.engine import row_seed

ROW_SEED = 489958834


def test_row_seed():
    assert row_seed(0, "bored", "none", 0) == ROW_SEED
    seeds = {row_seed(s, q, a, i) for s in range(3) for q in ("a", "b") for a in ("none", "x") for i in range(50)}
    assert len(seeds) == 600
    assert all(0 <= seed < 2**31 for seed in seeds)
