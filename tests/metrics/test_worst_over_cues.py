"""The largest misaligned rate over the cues."""

import pytest

from em.metrics.summary import _worst_over_cues
from em.records import Metric


def rate(set_name, value, **more):
    return Metric(
        **{
            "name": "misaligned_rate",
            "group": set_name,
            "set": set_name,
            "value": value,
            "low": 0.0,
            "high": 1.0,
            "n": 10,
            "n_models": 1,
            "interval": "wilson",
            **more,
        }
    )


def test_the_largest_rate_names_its_cue_and_claims_no_interval():
    found = [rate("open", 0.1), rate("cue/hhh", 0.05), rate("cue/verbatim_advice", 0.4), rate("betley2025/main", 0.9)]
    (worst,) = _worst_over_cues(found)
    assert (worst.name, worst.value, worst.label) == ("worst_misaligned_rate", 0.4, "cue/verbatim_advice")
    assert (worst.low, worst.high) == (None, None) and "largest of 3 rates" in worst.interval


def test_a_rate_that_is_withheld_withholds_it():
    (worst,) = _worst_over_cues(
        [rate("open", 0.1), rate("cue/hhh", None, withheld="few verdicts"), rate("cue/truth", 0.4)]
    )
    assert worst.value is None and (worst.label, worst.withheld) == ("", "cue/hhh: few verdicts")


@pytest.mark.parametrize("more", [{"asked_with": "trained"}, {"question_id": "q"}, {"label": "@member"}])
def test_rates_of_a_trigger_a_question_or_a_judge_do_not_count(more):
    (worst,) = _worst_over_cues([rate("open", 0.1), rate("cue/hhh", 0.2), rate("cue/truth", 0.9, **more)])
    assert worst.value == 0.2


def test_without_cues_there_is_none():
    assert _worst_over_cues([rate("open", 0.1)]) == []
