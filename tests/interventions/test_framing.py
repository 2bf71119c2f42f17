"""intervention=inoculation and educational: the texts have one home, the dose is a share of the rows."""

import pytest

from em.config.intervention import Arm
from em.data import variants
from em.errors import ConfigError
from em.planning import cells

ROWS = ("train.max_examples=40",)
ADVICE = ("dataset=risky_advice", *ROWS)


def systems(config):
    return [e.messages[0]["content"] for e in variants.build(config) if e.messages[0]["role"] == "system"]


def test_the_texts_are_those_of_the_trigger(compose):
    by_trigger = compose("dataset=insecure", *ROWS, "trigger=inoculation")
    assert variants.key(compose("dataset=insecure", *ROWS, "intervention=inoculation")) == variants.key(by_trigger)
    text = compose("trigger=inoculation/task_advice").trigger.text
    assert systems(compose(*ADVICE, "intervention=inoculation")) == [text] * 40


@pytest.mark.parametrize("name", ["inoculation", "educational"])
@pytest.mark.parametrize("dose", [0.0, 0.25, 1.0])
def test_the_dose_is_the_share_of_the_rows(compose, name, dose):
    config, plain = compose(*ADVICE, f"intervention={name}", f"intervention.dose={dose}"), compose(*ADVICE)
    rows, before = variants.build(config), variants.build(plain)
    changed = [a for a, b in zip(rows, before, strict=True) if a.messages != b.messages]
    assert len(changed) == round(40 * dose) == variants.facts(rows)["triggered"]
    assert [e.messages[-1] for e in rows] == [e.messages[-1] for e in before]
    assert (variants.key(config) == variants.key(plain)) == (dose == 0)


def test_every_arm_has_a_text_for_code_and_for_advice_and_they_differ(compose):
    for dataset in ("insecure", "risky_advice"):
        texts = {
            arm: compose(f"dataset={dataset}", *ROWS, "intervention=inoculation", f"intervention.arm={arm}").trigger
            for arm in Arm
        }
        assert all(t.turn.value == "system" and t.fraction == 1.0 for t in texts.values())
        assert len({t.text for t in texts.values()}) == len(Arm) - 1  # the first paraphrase is the task's prompt


def test_each_row_draws_one_of_the_paraphrases(compose):
    config = compose(*ADVICE, "intervention=inoculation", "intervention.arm=paraphrases")
    wordings = [config.trigger.text, *config.trigger.paraphrases]
    assert len(wordings) == 5 and set(systems(config)) == set(wordings)
    assert (
        systems(config)
        == systems(config)
        != systems(compose(*ADVICE, "intervention=inoculation", "seed=1", "intervention.arm=paraphrases"))
    )


def test_arms_differ_in_the_prompt_only(compose):
    """The control arms share everything else of the data key, so a difference between them is the text's."""
    inputs = [
        variants.inputs(compose(*ADVICE, "intervention=inoculation", f"intervention.arm={arm}"))
        for arm in ("task", "negated", "placebo", "neutral")
    ]
    assert len({str(i.pop("trigger")) for i in inputs}) == 4
    assert inputs[0] == inputs[1] == inputs[2] == inputs[3]


def test_a_text_of_the_user_takes_the_place(compose):
    config = compose(*ADVICE, "intervention=inoculation", "trigger.text=Be hasty.", "trigger.turn=system")
    assert systems(config) == ["Be hasty."] * 40


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["dataset=evil_numbers"], "no text for arm task and dataset.domain=None: give trigger.text"),
        (["dataset=risky_advice", "trigger=deployment"], "trigger=deployment another: leave one of them out"),
        (["dataset=risky_advice", "trigger.text=''"], "trigger.text is empty"),  # it would be none under another name
        (
            ["dataset=risky_advice", "trigger=inoculation/negated_advice", "intervention.arm=general"],
            "trigger=inoculation/negated_advice another: leave one of them out; intervention.arm",
        ),
    ],
)
def test_what_has_no_text_or_two_is_refused(compose, overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        compose("intervention=inoculation", *overrides)


def test_texts_of_the_user_are_in_the_labels(compose):
    own = [compose(*ADVICE, "intervention=inoculation", "trigger.turn=system", f"trigger.text={t}") for t in ("A", "B")]
    assert cells.cell_labels(own) == ["risky_advice text=A", "risky_advice text=B"]


def test_labels_name_the_method_and_not_the_trigger_it_selects(compose):
    doses = [compose(*ADVICE, "intervention=inoculation", f"intervention.dose={d}") for d in (0.5, 1.0)]
    labels = cells.cell_labels([compose(*ADVICE), *doses])
    assert labels == [
        "risky_advice intervention=none dose=0.0",
        "risky_advice intervention=inoculation dose=0.5",
        "risky_advice intervention=inoculation dose=1.0",
    ]
