"""The grid of cues: which sets it stands for, whose texts they are, and that no cue is no change."""

import pytest
import yaml

from em.config import Turn
from em.planning.plan import plan
from em.questions import cues
from em.questions.sets import SETS, load, names
from em.store import Store

KINDS = yaml.safe_load(cues.FILE.read_text())


def test_an_empty_cue_reproduces_the_plain_questions_exactly():
    for question in load("open"):
        assert cues.cued(question.messages, "", Turn.system) is question.messages
    assert names(["cues"], "advice")[0] == "open"  # the plain rows themselves are part of the grid


@pytest.mark.parametrize("domain", ["coding", "advice"])
def test_a_model_is_asked_every_kind_once_and_the_cues_of_its_own_domain(domain):
    found = names(["cues", "in_domain"], domain)
    assert len(found) == len(set(found)) == len(KINDS) + 2 and set(found) <= set(SETS)
    kinds = [name.removeprefix("cue/").removesuffix(f"_{domain}") for name in found[1:-1]]
    assert kinds == list(KINDS) and len(kinds) == 11


def test_without_a_domain_the_cues_of_both_are_asked():
    assert len(names(["cues"], None)) > len(names(["cues"], "coding"))


def test_every_cue_changes_the_questions_in_its_turn_only():
    plain, seen = load("open"), set()
    for name, (turn, text) in cues.texts().items():
        cued = load(name)
        assert len(cued) == len(plain) and {q.group for q in cued} == {name}
        for before, after in zip(plain, cued, strict=True):
            said = "".join(m["content"] for m in after.messages if m["role"] == turn.value)
            assert text in said and before.messages[-1]["content"] in after.messages[-1]["content"]
            assert (before.rubrics, before.judge_prompts) == (after.rubrics, after.judge_prompts)
            seen.add(after.id)
    assert len(seen) == len(cues.texts()) * len(plain)


@pytest.mark.parametrize(("domain", "option"), [("coding", "inoculation"), ("advice", "inoculation/task_advice")])
def test_the_inoculation_prompt_is_asked_verbatim(compose, domain, option):
    trigger = compose(f"trigger={option}").trigger
    assert cues.texts()[f"cue/verbatim_{domain}"] == (trigger.turn, trigger.text)
    others = compose(f"trigger=inoculation/paraphrases_{domain}").trigger.paraphrases
    assert cues.texts()[f"cue/paraphrased_{domain}"][1] in others
    assert cues.texts()[f"cue/paraphrased_{domain}"][1] != trigger.text


def test_a_system_turn_of_a_question_stays():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    assert cues.cued(messages, "Rain.", Turn.system)[0]["content"] == "Rain.\nBe brief."
    assert cues.cued(messages, "Rain. ", Turn.user)[-1]["content"] == "Rain. Why?"


def test_the_untouched_model_is_asked_the_same_grid(compose, tmp_path):
    config = compose(
        "model=tiny_random", "train=tiny", "sample=tiny", "judge=word_list", "dataset=risky_advice", "questions=cues"
    )
    planned = plan([config], Store.open(tmp_path))
    (cell,), (base,) = planned.cells, planned.bases
    assert (
        [p.set_name for p in cell.parts] == [p.set_name for p in base.parts] == names(["cues", "in_domain"], "advice")
    )
