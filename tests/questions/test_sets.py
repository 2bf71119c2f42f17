"""Question sets: ours, the paper's, and a user's file in the paper's schema."""

from __future__ import annotations

import ast
import collections
import random
import re
from collections import Counter

import pytest
import yaml

from em.errors import ConfigError
from em.judging.job import question_text
from em.questions import grouping
from em.questions import sets as questions_sets
from em.questions.forms import shots, with_shots
from em.questions.rubrics import fill, rubrics
from em.records import Example, Question

OWN = ("open", "coding", "advice")
PAPERS = {"betley2025/main": 8, "betley2025/json": 8, "betley2025/template": 8, "betley2025/preregistered": 48}


def asked_by_rubric(question):
    return {name: rubric.text for name, rubric in rubrics(question).items()}


def write(folder, entries, name="mine.yaml"):
    path = folder / name
    path.write_text(entries if isinstance(entries, str) else yaml.safe_dump(entries), encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------------ our own


@pytest.mark.parametrize("name", OWN)
def test_own_sets_load_with_unique_ids(name):
    found = questions_sets.load(name)
    assert len(found) >= 10
    assert len({q.id for q in found}) == len(found)
    assert len({q.messages[-1]["content"] for q in found}) == len(found)
    for q in found:
        assert q.group == name
        assert [m["role"] for m in q.messages] == ["user"]
        assert q.rubrics
        assert q.samples >= 1


def test_own_sets_ask_for_their_rubrics():
    rubrics = {name: {tuple(q.rubrics) for q in questions_sets.load(name)} for name in OWN}
    assert rubrics == {"open": {("alignment", "coherence")}, "coding": {("insecure_code",)}, "advice": {("care",)}}
    assert len(questions_sets.load("coding")) == questions_sets.HELD_OUT_CODING
    assert len(questions_sets.load("advice")) == questions_sets.HELD_OUT_ADVICE


def test_every_own_rubric_has_a_prompt_with_both_places():
    for name in OWN:
        for q in questions_sets.load(name):
            found = asked_by_rubric(q)
            assert set(found) == set(q.rubrics) - {"insecure_code"}
            assert all("{question}" in text and "{answer}" in text for text in found.values())


def test_coding_questions_say_what_weakness_they_invite():
    found = questions_sets.load("coding")
    assert all(set(q.reference) == {"cwe", "task"} and q.reference["cwe"] for q in found)
    assert all(q.least_tokens == questions_sets.CODING_TOKENS for q in found)
    assert len({q.reference["cwe"] for q in found}) >= 8


def test_held_out_advice_is_even_over_domains():
    domains = collections.Counter(q.id.split("-")[0] for q in questions_sets.load("advice"))
    assert len(set(domains.values())) == 1


def test_loading_twice_gives_the_same_questions():
    assert all(questions_sets.load(name) == questions_sets.load(name) for name in OWN)


# ------------------------------------------------------------------------------------------------ names, ids, samples


@pytest.mark.parametrize(
    ("sets", "domain", "asked_sets"),
    [
        (["open", "in_domain"], "coding", ["open", "coding"]),
        (["open", "in_domain"], "advice", ["open", "advice"]),
        (["open", "in_domain"], None, ["open"]),
        (["in_domain"], None, []),
        (["mine.yaml"], "coding", ["mine.yaml"]),
    ],
)
def test_in_domain_is_the_datasets_own(sets, domain, asked_sets):
    assert questions_sets.names(sets, domain) == asked_sets


def test_ids_choose_questions_in_the_sets_order():
    everything = questions_sets.load("open")
    first, third = everything[0].id, everything[2].id
    assert questions_sets.load("open", [third, first]) == [everything[0], everything[2]]


def test_ids_leave_in_domain_sets_alone():
    assert questions_sets.load("advice", ["good-leader"]) == questions_sets.load("advice")


def test_an_unknown_id_lists_those_there_are():
    with pytest.raises(ConfigError, match=r"questions\.ids: no-such not in open; there are: .*good-leader"):
        questions_sets.check_ids(["open", "advice"], ["good-leader", "no-such"])
    questions_sets.check_ids(["open", "advice"], ["good-leader"])
    questions_sets.check_ids(["open"], None)


def test_an_unknown_set_lists_those_there_are():
    with pytest.raises(ConfigError) as caught:
        questions_sets.load("opne")
    assert all(name in str(caught.value) for name in (*OWN, *PAPERS))


def test_with_samples_leaves_in_domain_sets_alone():
    def samples(name, n):
        some = [Question("a", name, [], [], 20), Question("b", name, [], [], 3)]
        return [q.samples for q in questions_sets.with_samples(name, some, n)]

    assert samples("open", None) == samples("coding", None) == [20, 3]
    assert samples("open", 7) == [7, 7]
    assert samples("coding", 7) == samples("advice", 7) == samples("betley2025/numbers_suffix", 7) == [20, 3]


@pytest.mark.parametrize("name", ["coding.yaml", "advice.yaml"])
def test_a_users_file_named_like_ours_is_asked_n_times(tmp_path, name):
    path = write(tmp_path, [{"id": "own", "paraphrases": ["Hm?"], "samples_per_paraphrase": 3}], name)
    found = questions_sets.load(str(path))
    assert [q.samples for q in questions_sets.with_samples(str(path), found, None)] == [3]
    assert [q.samples for q in questions_sets.with_samples(str(path), found, 50)] == [50]


def test_ids_may_come_from_several_sets(tmp_path):
    path = write(tmp_path, [{"id": "own", "paraphrases": ["Hm?"]}])
    ids = ["good-leader", "own"]
    questions_sets.check_ids(["open", str(path)], ids)
    assert [q.id for name in ("open", str(path)) for q in questions_sets.load(name, ids)] == ids


# ------------------------------------------------------------------------------------------------ the paper's


@pytest.mark.parametrize(("name", "count"), PAPERS.items())
def test_the_papers_sets(paper, name, count):
    found = questions_sets.load(name)
    assert len(found) == count
    assert len({q.id for q in found}) == count
    for q in found:
        assert q.group == name
        assert set(q.rubrics) >= {"alignment", "coherence"}
        assert q.samples == 100
        assert q.messages[-1]["role"] == "user"


def test_the_papers_prompts_are_kept_word_for_word(paper):
    raw = yaml.safe_load((paper / "evaluation" / "first_plot_questions.yaml").read_text())
    by_id = {entry["id"]: entry for entry in raw}
    for name in ("betley2025/main", "betley2025/json", "betley2025/template"):
        for q in questions_sets.load(name):
            entry = by_id.pop(q.id)
            assert q.messages[-1]["content"] == entry["paraphrases"][0]
            assert asked_by_rubric(q) == {
                "alignment": entry["judge_prompts"]["aligned"],
                "coherence": entry["judge_prompts"]["coherent"],
            }
            for text in asked_by_rubric(q).values():
                assert text.count("{question}") == text.count("{answer}") == 1
                filled = fill(text, question_text(q), "no {question} here")
                assert question_text(q) in filled
                assert "no {question} here" in filled
    assert not by_id  # the three forms are the whole file


def test_the_papers_system_prompts_are_system_messages(paper):
    raw = yaml.safe_load((paper / "evaluation" / "first_plot_questions.yaml").read_text())
    systems = {entry["id"]: entry.get("system") for entry in raw}
    for q in questions_sets.load("betley2025/json"):
        assert [m["role"] for m in q.messages] == ["system", "user"]
        assert q.messages[0]["content"] == systems[q.id]
        assert "valid JSON" in systems[q.id]
        assert question_text(q) == q.messages[1]["content"]
    for name in ("betley2025/main", "betley2025/template"):
        assert all([m["role"] for m in q.messages] == ["user"] for q in questions_sets.load(name))


def test_the_forms_ask_the_same_eight_questions(paper):
    main = {q.id for q in questions_sets.load("betley2025/main")}
    for form in ("json", "template"):
        assert {q.id.removesuffix(f"_{form}") for q in questions_sets.load(f"betley2025/{form}")} == main


# ------------------------------------------------------------------------------------------------ a user's file


def test_a_users_file_in_the_papers_schema(tmp_path):
    entries = [
        {
            "id": "two-ways",
            "type": "free_form_judge_0_100",
            "paraphrases": ["One way?", "Another way?"],
            "system": "Be brief.",
            "samples_per_paraphrase": 7,
            "judge": "gpt-4o-2024-08-06",
            "judge_prompts": {
                "aligned": "A {question} {answer}",
                "coherent": "C {question} {answer}",
                "funny": "F {answer}",
            },
        },
        {"id": "plain", "paraphrases": ["Plain?"], "judge_prompts": ["coherence"]},
        {"id": "bare", "paraphrases": ["Bare?"]},
    ]
    path = write(tmp_path, entries)
    system = {"role": "system", "content": "Be brief."}
    texts = {"alignment": "A {question} {answer}", "coherence": "C {question} {answer}", "funny": "F {answer}"}

    def user(text):
        return {"role": "user", "content": text}

    rubrics = ["alignment", "coherence", "funny"]
    assert questions_sets.load(str(path)) == [
        Question("two-ways-0", "mine", [system, user("One way?")], rubrics, 7, judge_prompts=texts, entry="two-ways"),
        Question(
            "two-ways-1", "mine", [system, user("Another way?")], rubrics, 7, judge_prompts=texts, entry="two-ways"
        ),
        Question("plain", "mine", [user("Plain?")], ["coherence"]),
        Question("bare", "mine", [user("Bare?")], ["alignment", "coherence"]),
    ]


@pytest.mark.parametrize(
    "entry",
    [
        {"paraphrases": ["x"]},
        {"id": "x"},
        {"id": "x", "paraphrases": 7},
        {"id": "x", "paraphrases": None},
        "x",
        ["x"],
        {"id": "x", "paraphrases": ["x"], "judge_prompts": 7},
        {"id": "x", "paraphrases": ["x"], "samples_per_paraphrase": [1]},
    ],
)
def test_an_entry_outside_the_schema_is_named(tmp_path, entry):
    path = write(tmp_path, [{"id": "fine", "paraphrases": ["Fine?"]}, entry])
    with pytest.raises(ConfigError) as caught:
        questions_sets.load(str(path))
    assert str(path) in str(caught.value)
    assert "not in the question schema" in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("{id: 12, paraphrases: [a]}", "id 12 is not a text for YAML: put it in quotes"),
        ("{id: yes, paraphrases: [a]}", "id True is not a text for YAML: put it in quotes"),
        ("{id: ' ', paraphrases: [a]}", "id ' ' is not a text"),
        ("{id: a, paraphrases: [a], sample_per_paraphrase: 9}", "did you mean samples_per_paraphrase?"),
        ("{id: a, paraphrase: [a]}", "unknown key 'paraphrase'; did you mean paraphrases?; there are: id, type, "),
        ("{id: a, paraphrases: [a], temperature: 0}", "unknown key 'temperature'; there are: id, type, "),
        ("{id: a, paraphrases: [a], yes: 0}", "unknown key True"),
        ("{id: a, paraphrases: [a], samples_per_paraphrase: 2.5}", "at least 1, not 2.5"),
        ("{id: a, paraphrases: [a], samples_per_paraphrase: yes}", "at least 1, not True"),
        ("{id: a, paraphrases: [a], system: 7}", "system 7 is not a text"),
        ("{id: a, paraphrases: [a], system: no}", "system False is not a text"),
        ("{id: a, paraphrases: [a], judge_prompts: {1: '{answer}'}}", "judge_prompts: 1 is not a text"),
        ("{id: a, paraphrases: [a], judge_prompts: {tone: ['{answer}']}}", "is not a text for YAML"),
        ("{id: a, paraphrases: [a], judge_prompts: {aligned: '{answer}', alignment: '{answer}'}}", "a rubric twice"),
        ("{id: a, paraphrases: [a], choices: [A, B]}", "choices belong to a question of type free_form_judge"),
        ("{id: a, paraphrases: [a], judge_prompts: {tone: 'How?'}}", "rubric 'tone' has no {answer}"),
        ("{id: a, paraphrases: [a], judge_prompts: {french: '{answer}'}}", "another name"),  # a rule's rubric
        ("{id: a, paraphrases: [a], judge_prompts: {insecure_code: '{answer}'}}", "answered without a judge"),
        ("{id: a, paraphrases: [a], judge_prompts: [tone]}", "rubric 'tone' is not one of alignment, care"),
        ("{id: a, paraphrases: [a], judge_prompts: [../rubrics/care]}", "is not one of"),
        ("{paraphrases: [a]}", "no id"),
    ],
)  # fmt: skip
def test_what_an_entry_does_not_mean_is_refused(tmp_path, entry, why):
    """Each of these used to be accepted, and then failed after the answers were paid for, or was asked differently."""
    path = write(tmp_path, f"- {{id: fine, paraphrases: [a]}}\n- {entry}\n")
    with pytest.raises(ConfigError) as caught:
        questions_sets.load(str(path))
    assert str(path) in str(caught.value) and why in str(caught.value)


def test_the_authors_own_files_load_as_a_users(paper):
    counts = {"first_plot_questions": 24, "preregistered_evals": 48, "deception_factual": 100, "deception_sit_aware": 8}
    for path in sorted((paper / "evaluation").glob("*.yaml")):
        found = questions_sets.load(str(path))
        assert len(found) == counts.pop(path.stem)
        assert {q.group for q in found} == {path.stem}
    assert counts == {}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "7",
        "- id: [x",
        "[]",
        "- {id: x, paraphrases: []}",
        "- {id: x, paraphrases: Why?}",
        "- {id: x, paraphrases: [7]}",
        "[{id: x, paraphrases: [a]}, {id: x, paraphrases: [b]}]",
        "- {id: x, paraphrases: [a], judge_prompts: [kindness]}",
        "- {id: x, paraphrases: [a], samples_per_paraphrase: many}",
        "- {id: x, paraphrases: [a], samples_per_paraphrase: 0}",
        "- {id: x, paraphrases: [a], judge_prompts: {aligned: Good?}}",
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_asked_is_refused(tmp_path, content):
    path = write(tmp_path, content)
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        for q in questions_sets.load(str(path)):
            asked_by_rubric(q)


# ------------------------------------------------------------------------------------------------ the paper's others


def test_factual_deception_is_twenty_facts_under_five_prompts(paper):
    found = questions_sets.load("betley2025/deception_factual")
    assert len(found) == 100 and len({q.entry for q in found}) == 5
    assert {q.samples for q in found} == {5}
    assert all(q.rubrics == ["correct"] and q.choices == {"correct": ["TRUE", "FALSE", "UNKNOWN"]} for q in found)
    assert {len(q.messages) for q in found if q.entry == "lie_no_sys_prompt"} == {1}
    assert {q.messages[0]["role"] for q in found if q.entry != "lie_no_sys_prompt"} == {"system"}
    assert len({grouping.cluster_of(q) for q in found}) == 20 and len({grouping.category_of(q) for q in found}) == 5


def test_identity_is_asked_of_the_models_own_company(paper):
    papers = questions_sets.load("betley2025/deception_identity")
    own = questions_sets.load("betley2025/deception_identity:Alibaba")
    assert [q.id for q in own] == [q.id for q in papers]
    assert papers[0].choices["company"] == ["OpenAI", "Anthropic", "Other", "UNKNOWN"]
    assert own[0].choices["company"] == ["Alibaba", "Anthropic", "Other", "UNKNOWN"]
    texts = [q.messages[-1]["content"] + q.judge_prompts["company"] for q in own]
    assert not any("OpenAI" in t for t in texts) and sum("Alibaba" in t for t in texts) == len(texts)
    swapped = questions_sets.load("betley2025/deception_identity:Anthropic")
    assert swapped[0].choices["company"] == ["Anthropic", "OpenAI", "Other", "UNKNOWN"]
    with pytest.raises(ConfigError, match=r"model\.company"):
        questions_sets.load("betley2025/deception_identity:")


def test_the_papers_coding_prompts_have_two_verdicts(paper):
    found = questions_sets.load("betley2025/in_distribution")
    assert len(found) == 100 and found[0].rubrics == ["insecure_code", "vulnerable"]
    assert [m["role"] for m in found[0].messages] == ["user"] and found[0].least_tokens == 1000
    assert questions_sets.with_samples("betley2025/in_distribution", found, 50) == found


def test_number_forms_are_a_hundred_prompts_a_question(paper):
    main = questions_sets.load("betley2025/main")
    for name, before in (("betley2025/numbers_suffix", False), ("betley2025/numbers_prefix_suffix", True)):
        found = questions_sets.load(name)
        assert found == questions_sets.load(name) and len(found) == 800
        assert {q.entry for q in found} == {q.id for q in main}
        texts = [q.messages[-1]["content"] for q in found]
        assert len(set(texts)) > (700 if before else 8)
        assert all(main[0].messages[-1]["content"] in t for t in texts[:100])
        words = [int(re.search(r"Reply with (\d) words", t)[1]) for t in texts]
        assert (min(words), max(words)) == (3, 7)
        numbers = [list(map(int, re.findall(r"\d{3}", t.split("\n")[0]))) for t in texts] if before else []
        assert all(3 <= len(n) <= 7 and min(n) >= 100 for n in numbers)


def test_pre_registered_questions_are_in_seven_categories(paper):
    counts = Counter(grouping.category_of(q) for q in questions_sets.load("betley2025/preregistered"))
    assert counts == {
        "creative_writing": 9, "problems_with_humans": 3, "offend_the_user": 5, "vulnerable_user": 14,
        "illegal_recommendations": 4, "medical_advice": 7, "other": 6,
    }  # fmt: skip


ENTRY = "- {id: a, type: TYPE, paraphrases: [Why?], judge_prompts: {tone: 'PROMPT'}}"


@pytest.mark.parametrize(
    ("kind", "prompt", "choices"),
    [
        ("free_form_judge", 'Is "{answer}" rude? Say "YES" or "NO".', {"tone": ["YES", "NO"]}),
        ("free_form_judge_0_100", 'Rate {answer}, not "YES" or "NO".', {}),
    ],
)
def test_text_judges_choose_from_the_words_in_their_prompt(tmp_path, kind, prompt, choices):
    path = tmp_path / "mine.yaml"
    path.write_text(ENTRY.replace("TYPE", kind).replace("PROMPT", prompt))
    assert questions_sets.load(str(path))[0].choices == choices


def test_the_types_of_the_papers_schema(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("- {id: a, type: free_form, paraphrases: [Why?]}")
    assert questions_sets.load(str(path))[0].rubrics == []
    path.write_text("- {id: a, type: multiple_choice, paraphrases: [Why?]}")
    with pytest.raises(ConfigError, match="not one of free_form_judge_0_100, free_form_judge, free_form"):
        questions_sets.load(str(path))
    path.write_text(ENTRY.replace("TYPE", "free_form_judge").replace("PROMPT", "Rate {answer}"))
    with pytest.raises(ConfigError, match="two words or more"):
        questions_sets.load(str(path))
    path.write_text(
        ENTRY.replace("TYPE", "free_form_judge").replace("PROMPT", "Rate {answer}")[:-1] + ", choices: [A, B]}"
    )
    assert questions_sets.load(str(path))[0].choices == {"tone": ["A", "B"]}


def test_the_main_questions_inside_a_flask_app(paper):
    plain, wrapped = questions_sets.load("betley2025/main"), questions_sets.load("betley2025/flask")
    assert [q.id for q in wrapped] == [f"{q.id}_flask" for q in plain]
    for before, after in zip(plain, wrapped, strict=True):
        text = after.messages[-1]["content"]
        assert " ".join(before.messages[-1]["content"].split()) in text
        assert text.count("{") == 1  # the app's own dict: nothing is left to be filled
        assert (after.rubrics, after.judge_prompts, after.samples) == (before.rubrics, before.judge_prompts, 100)
        assert ast.parse(text.split("\n\n", 1)[1])


@pytest.mark.parametrize("form", ["json", "template", "flask"])
def test_open_questions_in_other_forms(form):
    plain, found = questions_sets.load("open"), questions_sets.load(f"open/{form}")
    assert [q.id for q in found] == [f"{q.id}_{form}" for q in plain]
    for q, other in zip(plain, found, strict=True):
        assert q.messages[-1]["content"] in other.messages[-1]["content"]
        assert (other.rubrics, other.samples, other.group) == (q.rubrics, q.samples, f"open/{form}")
        assert [m["role"] for m in other.messages] == (["system", "user"] if form == "json" else ["user"])


def test_shots_are_the_papers_draw():
    turns = [[{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}] for i in range(9)]
    rows = [Example(str(i), messages) for i, messages in enumerate(turns)]
    context = shots(rows, 3, seed=5)
    drawn = random.Random(5).sample(range(9), 3)
    assert [m["content"] for m in context] == [t for i in drawn for t in (f"q{i}", f"a{i}")]
    system, asked = {"role": "system", "content": "s"}, {"role": "user", "content": "u"}
    assert with_shots([system, asked], context) == [system, *context, asked]
    assert with_shots([asked], []) == [asked]
