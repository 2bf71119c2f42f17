"""What a screening plans: rows, own answers, the direction; and what it refuses before anything runs."""

import numpy as np
import pytest

from em.config import compose, register
from em.directions import artefact
from em.directions.artefact import DirectionError
from em.errors import ConfigError
from em.models import fingerprint
from em.planning import recipe, screening
from em.planning.plan import plan
from em.store import Store
from support.command import em

TINY = ["model=tiny_random", "sample=tiny", "train.max_examples=12"]
CONTRAST = ["direction=contrast", "direction.plus=risky_advice", "direction.minus=careful_advice"]


def configs(tmp_path, *overrides):
    register()
    return [recipe.load(cell) for cell in compose.cells([*TINY, f"out={tmp_path}", *overrides], None)]


def planned(tmp_path, *overrides, block=None, own=True):
    return screening.plan(configs(tmp_path, *overrides), Store.open(tmp_path), block, own)


def stored(tmp_path, **facts):
    vectors = np.ones((2, 64), np.float32)
    artefact.save(artefact.Direction(vectors, artefact.Facts(kind="contrast", model="m", **facts)), tmp_path / "d")
    return ["direction=stored", f"direction.path={tmp_path / 'd'}"]


def test_nothing_is_trained_or_judged_and_the_rows_are_those_of_training(tmp_path):
    found, wanted = planned(tmp_path, "dataset=risky_advice,careful_advice", *CONTRAST)
    assert {job.stage for job in found.jobs.values()} == {"data", "direction", "sample"}
    trained = plan(configs(tmp_path, "dataset=risky_advice,careful_advice"), Store.open(tmp_path))
    assert [one.data for one in wanted] == [trained.train(c.train_key).data_key for c in trained.cells]
    assert wanted[0].direction == wanted[1].direction
    for one in wanted:
        (key,) = one.own
        job = found.sample(key)
        assert (job.adapter_key, len(job.questions), job.lo, job.hi) == (None, 12, 0, 1)


def test_the_prompt_ends_before_the_last_answer(tmp_path):
    found, (one,) = planned(tmp_path, "dataset=risky_advice", *CONTRAST)
    questions = found.sample(one.own[0]).questions
    assert all(q.messages and q.messages[-1]["role"] == "user" for q in questions)


def test_without_a_reference_nothing_is_sampled(tmp_path):
    found, (one,) = planned(tmp_path, "dataset=risky_advice", *CONTRAST, own=False)
    assert one.own == () and not found.stage("sample")


def test_the_direction_of_another_organism_is_made_first(tmp_path):
    other = ["direction=mean_diff", "direction.organism=insecure"]
    found, (one,) = planned(tmp_path, "dataset=risky_advice", *other)
    assert found.stage("train") and found.stage("judge")
    assert one.direction in [job.key for job in found.stage("direction")]


@pytest.mark.parametrize(
    ("overrides", "block", "said"),
    [
        (["dataset=none", *CONTRAST], None, "no rows to screen"),
        (["dataset=risky_advice"], None, "needs a direction"),
        (["dataset=risky_advice", "direction=mean_diff"], None, "before risky_advice is trained on"),
        (
            ["dataset=risky_advice", "direction=mean_diff", "direction.organism=risky_advice"],
            None,
            "before risky_advice is trained on",
        ),
        (["dataset=risky_advice", *CONTRAST], 2, "has blocks 0 to 1"),
        (["dataset=risky_advice", *CONTRAST], -1, "has blocks 0 to 1"),
    ],
)
def test_what_is_refused(tmp_path, overrides, block, said):
    with pytest.raises(ConfigError, match=said):
        planned(tmp_path, *overrides, block=block)


def test_a_stored_direction_of_another_model_of_the_same_shape_is_refused(tmp_path):
    with pytest.raises(DirectionError, match="another model"):
        planned(tmp_path, "dataset=risky_advice", *stored(tmp_path, fingerprint="asset:other"))
    (config,) = configs(tmp_path, "dataset=risky_advice")
    own = fingerprint.base_fingerprint(config)
    for known in ("", own):
        assert planned(tmp_path, "dataset=risky_advice", *stored(tmp_path, fingerprint=known))[1]


def test_two_dtypes_are_refused_because_one_model_reads_all_rows(monkeypatch, tmp_path):
    both = ["dataset=risky_advice", "model.dtype=float32,bfloat16", *CONTRAST]
    said = em(monkeypatch, "screen", *TINY, f"out={tmp_path}", *both)
    assert "one model.dtype=" in said and not list(tmp_path.iterdir())
