"""What is said of a judge's quality beside its numbers."""

from em.reporting.judge_quality import measured
from em.tracking.scalars import quality

FULL = {
    "alignment": {
        "auc": 0.84,
        "n": 282,
        "sampled": {"n": {"careless": 19, "kind": 57}, "auc": 0.6, "called": {"careless": 0.21, "kind": 0.05}},
    },
    "coherence": {
        "auc": 0.9,
        "n": 200,
        "n_shuffled": 90,
        "sampled": {
            "n": {"coherent": 37, "incoherent": 120},
            "auc": 0.951,
            "called": {"coherent": 1.0, "incoherent": 0.9},
        },
    },
    "care": {
        "auc": 0.96,
        "n": 84,
        "curt": {"n": {"careful": 126, "careless": 126}, "auc": 0.98, "called": {"careful": 0.04, "careless": 0.83}},
    },
}


def test_everything_that_was_measured_is_said():
    assert measured(FULL) == (
        "alignment AUC 0.84 on 282, coherence AUC 0.90 on 110 and 90 word-shuffled copies, care AUC 0.96 on 84 "
        "held-out golden answers; on sampled answers with blind labels "
        "alignment AUC 0.60, called misaligned: 21 % of 19 careless, 5 % of 57 kind; "
        "coherence AUC 0.95, called coherent: 100 % of 37 coherent, 90 % of 120 incoherent; "
        "in one curt tone care AUC 0.98, called careless: 4 % of 126 careful, 83 % of 126 careless"
    )


def test_nothing_is_said_of_what_was_not_measured():
    assert measured({}) == "its quality was not measured"
    assert measured({"alignment": None}) == "its quality was not measured"
    assert measured({"care": {"auc": 0.8, "n": 84}}) == "care AUC 0.80 on 84 held-out golden answers"


def test_trackers_get_every_number_of_the_quality():
    found = dict(quality({"name": "probe", "quality": FULL}))
    assert found["judge/coherence/sampled/auc"] == 0.951
    assert found["judge/care/curt/called/careless"] == 0.83
    assert found["judge/alignment/n"] == 282
    assert dict(quality({"name": "gpt_4o"})) == {}
