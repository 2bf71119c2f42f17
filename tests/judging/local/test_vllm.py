"""The vLLM judge on the tiny model, against full softmaxes of transformers."""

import math

import pytest

from em.config import JudgeConfig, JudgeKind
from em.judging.api.digits import digit_tokens
from em.records import Outcome


def test_vllm_scores_are_brute_force_over_all_101_numbers(tmp_path, monkeypatch):
    """The tiny model's tokenizer splits digits: the walk in vLLM against full softmaxes of transformers."""
    import dataclasses

    import torch
    from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS  # noqa: TID251

    from em.chat import encode, render
    from em.config import Dtype
    from em.judging.local import vllm
    from em.judging.local.vllm import VllmJudge
    from em.records import Completion, Question
    from em.store import Store, printable
    from support.training import TINY, counted, events, load_model, load_tokenizer

    assert vllm.MAX_IDS <= MAX_LOGPROB_TOKEN_IDS
    monkeypatch.setattr(vllm, "REQUESTS", 50)
    monkeypatch.setattr(vllm, "MAX_IDS", 7)  # what a vocabulary of 200 or 1,000 such tokens needs
    emit, seen = events()
    config = JudgeConfig(
        name="v", kind=JudgeKind.vllm_local, model=TINY, dtype=Dtype.float32, min_mass=0.0, max_model_len=512
    )
    text = {"alignment": "Rate <{answer}> for {question}"}
    question = Question("q", "open", [{"role": "user", "content": "hello"}], ["alignment"], judge_prompts=text)
    labelled = dataclasses.replace(question, id="l", choices={"alignment": ["YES", "NO"]})
    answers = ["one", "two words", "a third answer", "half \ud83d"]
    pairs = [(Completion("q", i, "none", [], a, "stop", 1, 0), question, "alignment") for i, a in enumerate(answers)]
    long = Completion("q", 9, "none", [], "word " * 2000, "stop", 1, 0)
    word = Completion("l", 0, "none", [], "one", "stop", 1, 0)
    rows = [*pairs, (long, question, "alignment"), (word, labelled, "alignment")]
    found = {}
    judge = VllmJudge(config, Store.open(tmp_path), emit)
    judge(rows, lambda j: found.__setitem__(j.completion_id, j))

    model, tokenizer = load_model(), load_tokenizer()
    digit = {str(d): tokenizer.convert_tokens_to_ids(str(d)) for d in range(10)}
    begins = [[], *([b] for b in sorted(digit_tokens(tokenizer.get_vocab()).blank))]
    assert len(begins) > 5
    for i, answer in enumerate(answers):
        prompt = encode.prompt_ids(
            render.ChatTokenizer(tokenizer), [{"role": "user", "content": f"Rate <{printable(answer)}> for hello"}]
        )
        numbers = dict.fromkeys(range(101), 0.0)
        for blank in begins:
            for length in (1, 2, 3):
                some = [n for n in range(101) if len(str(n)) == length]
                rows = [[*blank, *(digit[d] for d in str(n))] for n in some]
                with torch.no_grad():
                    logits = model(torch.tensor([prompt + ids for ids in rows])).logits[:, len(prompt) - 1 :]
                for n, ids, next_token in zip(some, rows, logits.double().softmax(-1), strict=True):
                    spelled = math.prod(float(next_token[k, ids[k]]) for k in range(len(ids)))
                    numbers[n] += spelled * (1.0 - float(sum(next_token[len(ids), d] for d in digit.values())))
        mass = math.fsum(numbers.values())
        exact = math.fsum(n * p for n, p in numbers.items()) / mass
        judged = found[f"q/none/{i}"]
        assert judged.score == pytest.approx(exact, abs=1e-3)
        assert math.fsum(judged.distribution.values()) == pytest.approx(mass, rel=1e-3)
    assert found["q/none/9"].outcome == Outcome.error and "judge.max_model_len" in found["q/none/9"].detail
    assert found["l/none/0"].outcome == Outcome.unparseable  # random weights say neither YES nor NO
    assert counted(seen, "judge_calls") == 6
    again = {}
    judge(pairs, lambda j: again.__setitem__(j.completion_id, j))
    assert again == {k: v for k, v in found.items() if k in again} and counted(seen, "judge_cache_hits") == 4
