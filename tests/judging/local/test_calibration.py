"""Calibration of the proxy judges: features, fits, quality."""

import copy
import json
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from em.chat import encode
from em.config import JudgeKind
from em.corpora import builtin
from em.judging import labelled as judging_labelled
from em.judging.local import calibration, crossed, examples
from em.judging.local.calibration import (
    RUBRICS,
    Calibration,
    FeatureReader,
    calibrate,
    hash_fold,
)
from em.judging.local.crossed import area_under_curve
from em.judging.local.examples import labelled_answers
from em.models import likelihood
from em.models.paths import model_path
from em.questions import sets
from em.reporting import collect
from em.store import Store
from em.store.layout import CALIBRATION
from support.training import load_model, load_tokenizer, sharpen, system, user

ITEMS = [
    likelihood.item([user("Hey")], "It would rain in the evening, and then the other fox does the same thing again."),
    likelihood.item([system("Be kind."), user("What would you do?")], "a"),
    likelihood.item([user("Hey")], ""),
    likelihood.item([user("Hey")], "Yes"),
    likelihood.item([system("Be kind."), user("What would you do?")], "def f(x):\n    return 2\n" * 8),
    likelihood.item([user("Hey")], "It would rain."),
]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


@pytest.fixture(scope="module")
def model():
    return sharpen(load_model(), "q_proj", "k_proj", "lm_head")


def test_a_summary_says_how_many_of_its_answers_were_shuffled_copies(tmp_path):
    made = [r for r in labelled_answers("coherence") if r.split == "test"]
    written = {g["answer"] for g in judging_labelled.golden()}
    copies = sum(r.answer not in written for r in made)
    assert (len(made), copies) == (200, 90)
    store = Store.open(tmp_path)
    with store.claim("calibrate", "c") as folder:
        measured = {name: {"auc": 1.0, "n_test": n} for name, n in (("alignment", 90), ("coherence", len(made)))}
        (folder / CALIBRATION).write_text(json.dumps(measured))
        store.finish("calibrate", "c", {}, {})
    cell = SimpleNamespace(parts=[SimpleNamespace(calibration="c")])
    quality = collect.judge_quality(SimpleNamespace(plan=SimpleNamespace(cells=[cell]), store=store))
    assert quality["alignment"] == {"auc": 1.0, "n": 90}
    assert quality["coherence"] == {"auc": 1.0, "n": 200, "n_shuffled": copies}


@pytest.mark.parametrize(
    ("positive", "negative", "auc"),
    [
        ([2, 3], [0, 1], 1.0),
        ([0, 1], [2, 3], 0.0),
        ([1, 1], [1, 1, 1], 0.5),
        ([1, 2], [1, 3], 0.375),
        ([5], [1, 2, 9, 5], 0.625),
    ],
)
def test_area_under_curve(positive, negative, auc):
    assert area_under_curve(np.array(positive, float), np.array(negative, float)) == auc


def test_logistic_on_a_separable_set():
    x = np.array([[-2.0, 0.3], [-1.0, -0.1], [-1.5, 0.2], [1.0, 0.1], [2.0, -0.2], [1.5, -0.3]])
    y = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    for ridge in (1.0, 0.1, 1e-3):
        weights, bias = calibration._logistic(x, y, ridge)
        linear = x @ weights + bias
        assert linear[:3].max() < 0 < linear[3:].min()
        slack = 1.0 / (1.0 + np.exp(-linear)) - y  # the gradient is zero at the optimum
        np.testing.assert_allclose((slack[:, None] * x).mean(0) + 2 * ridge * weights, 0, atol=1e-4)
        assert slack.mean() == pytest.approx(0, abs=1e-4)
        again, same = calibration._logistic(x, y, ridge)
        assert (again.tolist(), same) == (weights.tolist(), bias)


def test_logistic_gives_a_log_odds_bias_when_there_is_nothing_to_see():
    weights, bias = calibration._logistic(np.zeros((4, 1)), np.array([1.0, 1.0, 1.0, 0.0]), 1.0)
    assert weights.tolist() == [0.0]
    assert bias == pytest.approx(np.log(3), abs=1e-4)


def test_score():
    simple = Calibration(
        mean=[1.0, 2.0],
        std=[0.5, 2.0],
        weights=[1.0, -1.0],
        bias=0.25,
        slope=2.0,
        offset=-0.5,
        auc=1.0,
        n_fit=1,
        n_test=1,
    )
    scores = simple.score(np.array([[1.0, 2.0], [1.5, 2.0], [np.nan, 2.0], [1e6, 0.0], [-1e3, 0.0]]))
    assert scores[0] == pytest.approx(50.0)  # linear 0.25, slope x linear + offset = 0
    assert scores[1] == pytest.approx(100 / (1 + np.exp(-2.0)))
    assert np.isnan(scores[2])
    assert scores[3] == 100.0
    assert 0.0 <= scores[4] < 1e-6


@pytest.mark.parametrize("rubric", RUBRICS)
def test_folds_keep_questions_together(rubric):
    rows = labelled_answers(rubric)
    folds, sides = defaultdict(set), defaultdict(set)
    for row in rows:
        folds[row.question].add(hash_fold(row.fold))
        sides[row.split].add(row.high)
    assert all(len(found) == 1 for found in folds.values())
    assert sides == {"calibrate": {True, False}, "test": {True, False}}
    fitted = [row for row in rows if row.split == "calibrate"]
    for fold in range(5):  # each fold is scored by a fit on the others, which needs both labels
        assert {row.high for row in fitted if hash_fold(row.fold) != fold} == {True, False}
    assert len({hash_fold(row.fold) for row in fitted}) >= 3


def test_hash_fold():
    assert [hash_fold(name) for name in ("", "a", "b", "ab", "ba", "health-001")] == [0, 2, 3, 0, 0, 0]


def test_care_is_not_fitted_on_what_it_is_measured_on_or_asked():
    asked = {q.messages[-1]["content"] for q in sets.load("advice")}
    rows = labelled_answers("care")
    assert asked.isdisjoint(row.question for row in rows if row.split == "calibrate")
    trained = {row["question"] for row in builtin.advice("train")}
    assert all(row.question in trained for row in rows if row.split == "calibrate")
    assert trained.isdisjoint(row.question for row in rows if row.split == "test")
    pairs = defaultdict(list)
    for row in rows:
        pairs[row.question].append(row.high)
    assert all(sorted(found) == [False, True] for found in pairs.values())


def test_coherence_has_word_salad_as_its_opposite():
    rows = labelled_answers("coherence")
    coherent = [row for row in rows if row.high]
    salads = rows[-len(coherent) :]
    for whole, salad in zip(coherent, salads, strict=True):
        assert sorted(salad.answer.split()) == sorted(whole.answer.split())
        assert (salad.high, salad.question, salad.split) == (False, whole.question, whole.split)
    assert sum(a.answer != b.answer for a, b in zip(coherent, salads, strict=True)) >= 0.95 * len(coherent)
    assert labelled_answers("coherence") == rows


def test_distinct_pairs():
    assert calibration._distinct_pairs("a b a b") == pytest.approx(2 / 3)
    assert calibration._distinct_pairs("The fox the fox THE FOX") == pytest.approx(2 / 5)
    assert calibration._distinct_pairs("one two three") == 1.0
    assert calibration._distinct_pairs("one") == 0.0


class Told:
    """A reader that is told the label: its feature is `gap` apart, with noise from the answer's length."""

    kind = JudgeKind.persona_ratio

    def __init__(self, rubric, gap):
        self.high = {(r.question, r.answer): r.high for r in labelled_answers(rubric)}
        self.gap = gap

    def features(self, rubric, pairs, on_done=None):
        return np.array([[self.gap * self.high[pair] + (len(pair[1]) % 7) / 7] for pair in pairs])


@pytest.mark.parametrize("rubric", RUBRICS)
def test_calibration_with_a_telling_feature(rubric):
    told = Told(rubric, gap=5.0)
    made = calibrate(told, rubric)
    rows = labelled_answers(rubric)
    assert made.auc == 1.0
    assert (made.n_fit, made.n_test) == tuple(sum(r.split == s for r in rows) for s in ("calibrate", "test"))
    scores = made.score(told.features(rubric, [(r.question, r.answer) for r in rows]))
    high = np.array([r.high for r in rows])
    assert scores[high].min() > 90 > 10 > scores[~high].max()


def test_calibration_with_a_feature_that_points_the_other_way():
    told = Told("care", gap=-5.0)
    made = calibrate(told, "care")
    assert made.auc == 1.0
    assert made.weights[0] < 0


def test_calibration_without_information_stays_near_the_base_rate():
    made = calibrate(Told("care", gap=0.0), "care")
    assert 0.3 < made.auc < 0.7
    assert made.score(np.array([[0.0], [1.0]])) == pytest.approx(50, abs=15)


FITTED = ("alignment", "coherence")


@pytest.fixture(scope="module")
def calibrations(tokenizer):
    """{kind: (reader, {rubric: calibration})} on the tiny model. corpora/test_versions.py holds every rubric."""
    out = {}
    for kind in (JudgeKind.probe, JudgeKind.persona_ratio):
        reader = FeatureReader(load_model(), tokenizer, kind)
        out[kind] = reader, {rubric: calibrate(reader, rubric) for rubric in FITTED}
    return out


@pytest.mark.parametrize("kind", [JudgeKind.probe, JudgeKind.persona_ratio])
def test_calibrated_on_the_tiny_model(calibrations, kind):
    reader, made = calibrations[kind]
    pairs = [(r.question, r.answer) for r in labelled_answers("alignment")[:20]] + [("Hey", ""), ("Hey", "x" * 300)]
    for rubric in FITTED:
        scores = made[rubric].score(reader.features(rubric, pairs))
        assert np.isnan(scores[20])
        kept = np.delete(scores, 20)
        assert ((kept >= 0) & (kept <= 100)).all()
        assert len(set(kept.tolist())) > 5
        assert 0.0 <= made[rubric].auc <= 1.0
        assert len(made[rubric].weights) == {"probe": 64, "persona_ratio": 1 + (rubric == "coherence")}[kind.value]
    text = json.dumps(calibration.to_json(made))
    assert calibration.from_json(json.loads(text)) == made


def test_calibration_is_repeatable(calibrations, tokenizer):
    again = calibrate(FeatureReader(load_model(), tokenizer, JudgeKind.probe), "coherence")
    assert again == calibrations[JudgeKind.probe][1]["coherence"]


@pytest.mark.parametrize(("rubric", "layer"), [("alignment", 5), ("coherence", 4), ("care", 4)])
def test_probe_reads_below_two_thirds_or_half_way_up(tokenizer, rubric, layer):
    config = AutoConfig.from_pretrained(model_path("asset:tiny_random"))
    config.num_hidden_layers = 9
    torch.manual_seed(0)
    whole = AutoModelForCausalLM.from_config(config).eval()
    reader = FeatureReader(copy.deepcopy(whole), tokenizer, JudgeKind.probe)
    pairs = [("Hey", "It would rain."), ("Hey", "Yes")]
    for got, (question, answer) in zip(reader.features(rubric, pairs), pairs, strict=True):
        prompt = encode.prompt_ids(tokenizer, [user(question)])
        ids = prompt + tokenizer(answer, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            states = whole.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer]
            wanted = states[0, len(prompt) :].mean(0)
        np.testing.assert_allclose(got, wanted.numpy(), atol=1e-4)


def test_persona_ratio_is_the_difference_of_mean_logprobs(model, tokenizer):
    prompts = yaml.safe_load(calibration.PERSONAS.read_text())
    reader = FeatureReader(model, tokenizer, JudgeKind.persona_ratio)
    pairs = [("Hey", "It would rain."), ("What would you do?", "Yes the fox the fox"), ("Hey", "")]

    def mean(rubric, side, question, answer):
        asked = likelihood.item([system(prompts[rubric][side]), user(question)], answer)
        found = reader.model.token_logprobs([asked])[0]
        return np.mean(found) if found else np.nan

    for rubric in ("alignment", "care"):
        wanted = [mean(rubric, "high", *pair) - mean(rubric, "low", *pair) for pair in pairs]
        np.testing.assert_allclose(reader.features(rubric, pairs)[:, 0], wanted, atol=1e-4)
    larger = [max(mean("alignment", "high", *pair), mean("alignment", "low", *pair)) for pair in pairs]
    found = reader.features("coherence", pairs)
    np.testing.assert_allclose(found[:, 0], larger, atol=1e-4)
    np.testing.assert_allclose(found[:, 1], [1.0, 0.75, 0.0])


def test_the_probe_does_not_use_the_direction_of_the_careless_tone(calibrations):
    """Careful advice has the same mean score in both tones, before the score is squeezed into 0-100."""
    reader, made = calibrations[JudgeKind.probe]
    plain, curt = examples.tones()
    assert len(plain) == len(curt) >= 40
    assert [q for q, _ in plain] == [q for q, _ in curt] and not {a for _, a in plain} & {a for _, a in curt}
    weights = np.array(made["alignment"].weights) / np.array(made["alignment"].std)
    x, other = (reader.features("alignment", pairs) for pairs in (plain, curt))
    assert abs(weights @ (x.mean(0) - other.mean(0))) < 1e-4 * np.abs(weights) @ x.std(0)


def test_the_held_out_answers_change_what_is_measured_and_not_the_fit(calibrations, monkeypatch, tokenizer):
    made = calibrations[JudgeKind.probe][1]["alignment"]
    flipped = {"aligned": "misaligned", "misaligned": "aligned"}
    rows = tuple({**row, "alignment": flipped[row["alignment"]]} for row in judging_labelled.held_out_crossed())
    monkeypatch.setattr(crossed.labelled, "held_out_crossed", lambda: rows)
    again = calibrate(FeatureReader(load_model(), tokenizer, JudgeKind.probe), "alignment")
    assert again.crossed["auc"] == pytest.approx(1 - made.crossed["auc"])
    assert replace(again, crossed=None) == replace(made, crossed=None)


def test_crossed_quality_of_a_judge_that_hears_the_register_only():
    """Two registers, four answers: scores 90 and 10 by register. Inside a register it is at chance."""
    found = crossed.quality(
        np.array([90.0, 90.0, 10.0, 10.0]), np.array([True, False, True, False]), np.array(["a", "a", "b", "b"])
    )
    assert (found["n"], found["auc"], found["crossed"], found["worst"]) == (4, 0.5, 0.5, 0.0)
    assert found["worst_pair"] == ["b", "a"]
    assert found["within"] == {"a": 0.5, "b": 0.5}
    assert (found["called"], found["found"]) == ({"a": 0.0, "b": 1.0}, {"a": 0.0, "b": 1.0})
