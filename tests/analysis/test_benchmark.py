"""Inspect on our own engine: a local task file over a real sweep of the tiny model, gates included."""

import asyncio
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from em.analysis import benchmark
from em.chat import prompts as chat_prompts
from em.chat import render
from em.config import SampleConfig
from em.sampling.engine import Answer
from support.chat import family

pytest.importorskip("inspect_ai", reason="the inspect extra is not installed")
TASKS = Path(__file__).parent / "letters_task.py"


def test_a_local_task_on_every_model_of_a_sweep(two_variants, here):
    """The gate: where the adapter's file is another one than was trained, nothing is answered. What is done stays."""
    from safetensors.torch import load, save_file

    sweep = two_variants
    adapter = next((sweep.parents[1] / "store" / "train").glob("*/adapter/adapter_model.safetensors"))
    whole = adapter.read_bytes()
    save_file({k: -v if "lora_B" in k else v for k, v in load(whole).items()}, adapter)
    done = here("benchmark", sweep, f"{TASKS}@letters", "--limit", 6)
    assert done.returncode == 1 and re.search("FAILED benchmark (risky|careful)_advice", done.stderr), done.stderr
    assert "1 of 1 runs missing" in done.stdout

    adapter.write_bytes(whole)
    done = here("benchmark", sweep, f"{TASKS}@letters", "--limit", 6)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    rows = json.loads((sweep / "benchmarks.json").read_text())
    assert [r["n"] for r in rows] == [6, 6, 6] and all(0 <= r["mean"] <= 1 for r in rows)
    assert "value" not in rows[0] and rows[1]["low"] <= rows[1]["value"] <= rows[1]["high"]
    assert "risky_advice" in done.stdout
    page = (sweep / "report.html").read_text()
    assert "letters_task.py@letters" in page and (sweep / "figures" / "increases.png").is_file()
    stages = list((sweep.parents[1] / "store" / "benchmark").glob("*/manifest.json"))
    assert len(stages) == 3 and all(json.loads(p.read_text())["facts"]["gate"] == "passed" for p in stages)
    ledger = map(json.loads, (sweep / "ledger.jsonl").read_text().splitlines())
    events = Counter(row["event"] for row in ledger if row["stage"] == "benchmark")
    assert events == {"started": 4, "done": 3, "failed": 1}, "nothing that is done runs again"


def test_code_of_a_model_never_runs_here():
    with pytest.raises(benchmark.BenchmarkError, match="sandbox local"):
        benchmark.load_task(f"{TASKS}@runs_code")
    with pytest.raises(benchmark.BenchmarkError, match="holds 2 tasks"):
        benchmark.load_task(str(TASKS))


class Echo:
    """An engine that says its request back, with the seed."""

    def generate(self, requests):
        return [(r, Answer(f"{r.messages[-1]['content']} {r.seed} STOP more", "length", 9)) for r in requests]


def echoing():
    from em.analysis.inspect_model import Batcher, EmModel

    sample = SampleConfig(max_tokens=9, max_num_seqs=4)
    options = {"system_prompt": None, "chat_template": None, "chat_template_kwargs": {}}
    prompts = chat_prompts.Prompts(family("qwen3"), render.options(options, options))
    return EmModel("m", Batcher(Echo()), prompts, None, sample, max_model_len=500)


def asked(texts, config):
    """What the texts get, asked side by side."""
    from inspect_ai.model import ChatMessageUser, GenerateConfig

    model = echoing()

    async def ask():
        one = [model.generate([ChatMessageUser(content=t)], [], "none", GenerateConfig(**config)) for t in texts]
        return await asyncio.gather(*one)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("task", "scores", "unscored", "why"),
    [
        ("words", {"right": 1.0, "half": 0.5, "share": 0.25, "yes": 1.0}, 2, "a score is nan, which is not a number"),
        ("epochs", {"a": 0.75}, 1, "a score is 'refused', which is not a number"),
        ("several", {}, 2, "each score is several numbers (harm, quality); em benchmark needs one"),
    ],
)
def test_a_score_that_is_no_number_is_none(tmp_path, task, scores, unscored, why):
    """Inspect's own conversion calls them 0."""
    import inspect_ai
    from inspect_ai.model import GenerateConfig, Model

    found = benchmark.load_task(f"{Path(__file__).parent / 'scores_task.py'}@{task}")
    (log,) = inspect_ai.eval(found, model=Model(echoing(), GenerateConfig()), log_dir=str(tmp_path), display="none")
    assert log.status == "success"
    assert benchmark.sample_scores(log) == (scores, unscored, why)


def test_a_task_of_a_package_that_is_not_installed_says_what_to_install():
    with pytest.raises(benchmark.BenchmarkError, match=r"not installed: pip install no-such-evals$"):
        benchmark.load_task("no_such_evals/truthfulqa")


def test_a_seed_is_its_prompts_whatever_came_before():
    one, other = (asked(texts, {}) for texts in (["a", "b", "a"], ["b", "a", "a"]))
    assert sorted(o.completion for o in one) == sorted(o.completion for o in other)
    assert len({o.completion for o in one}) == 3


def test_a_tasks_stop_strings_end_an_answer_and_what_is_not_offered_is_named():
    from inspect_ai.model import ContentImage, ContentText

    (said,) = asked(["a"], {"stop_seqs": ["never", "STOP"], "num_choices": 1, "top_k": 0})
    assert said.completion.startswith("a ") and "STOP" not in said.completion and said.stop_reason == "stop"
    assert asked(["a"], {})[0].stop_reason == "max_tokens"
    assert "STOP" in asked(["a"], {"stop_seqs": [""]})[0].completion
    with pytest.raises(RuntimeError, match="this task asks for image, which"):
        asked([[ContentText(text="What is it?"), ContentImage(image="data:image/png;base64,")]], {})
    with pytest.raises(RuntimeError, match="this task asks for num_choices, top_k, which em's engine does not offer"):
        asked(["a"], {"num_choices": 2, "top_k": 5})


def test_the_increase_is_paired_and_needs_shares():
    a, b = [{"x": 1.0, "y": 1.0, "z": 0.0}], [{"x": 0.0, "y": 1.0, "z": 0.0, "w": 1.0}]
    found = benchmark.increase(a, b)
    assert found.value == pytest.approx(1 / 3) and found.questions == 3
    assert benchmark.increase([{"x": 7.0, "y": 1.0}], [{"x": 0.0, "y": 1.0}]) is None
