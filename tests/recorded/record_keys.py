"""Record the keys of stored results: what the planner names every stage, cell and sweep folder of many commands.

    python tests/recorded/record_keys.py [folder with the paper's files]

Run it only when a key moves on purpose, and add a changelog line that names which stored results become void.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from em.analysis import benchmark
from em.config import CONF_DIR, ExperimentConfig, as_dict, compose, register
from em.corpora import published
from em.judging.api.cache import JudgeCache
from em.judging.api.client import JudgeClient, JudgeRequest
from em.planning import recipe
from em.planning.plan import Job, Plan, Subject, folder_of, plan, stages
from em.store import Store, content_key

HERE = Path(__file__).resolve().parent
KEYS = HERE / "keys.json"
PAPER_KEYS = HERE / "keys_betley2025.json"
"""Cases that read the paper's files; without EM_ASSETS they are not checked."""
SHORT, LONGEST = 40, 800
"""Characters of JSON: an input up to SHORT is written where it is, up to LONGEST once under its digest."""

TINY = ["model=tiny_random", "train=tiny", "sample=tiny", "tracking=off"]
SMALL = ["scale=small", *TINY]
GROUPS = ["corpus=builtin", "dataset=risky_advice", "trigger=none", "questions=builtin", "judge=probe", "stats=honest"]
"""Named in full, so that Hydra composes one config of this kind for all cases (em/config/compose.py)."""
JUDGES = "judge=probe,gpt_4o"
OPENAI = ["model=gpt_4o", "train=openai", "sample=openai", "judge=gpt_4o", "questions.sets=[open]", "tracking=off"]
PAPER = ["corpus=betley2025", "dataset=insecure", "judge=gpt_4o"]
CHECKPOINTS = ['train.checkpoints=["every 2"]', "sample.checkpoints=true"]
BEFORE = {"train": "data", "sample": "adapter", "judge": "samples"}
"""Stage → the input that is the key of the stage before it."""
DYNAMICS = ("e13_dynamics", "e14_no_weight_decay", "e14_ten_epochs")
"""Experiments with 33 checkpoints, of which one is recorded."""
JUDGE_CASES = ("judge/openai_compatible", "judge/in the key", "judge/scripted", "judge/word_list")
"""Judges behind an API, whose replies are kept in the judge cache."""
SHARED = ("others", "inputs", "values")
Row = dict[str, Any]


def small(*overrides: str) -> list[str]:
    """Return the overrides of the tiny model, with these in place of the options they name."""
    chosen = {text.partition("=")[0] for text in overrides}
    return [*(text for text in (*TINY, *GROUPS) if text.partition("=")[0] not in chosen), *overrides]


def options(group: str, without: str = "") -> list[str]:
    """Return the names of a config group's options, without those that need more than their name."""
    return [path.stem for path in sorted(Path(CONF_DIR, group).glob("*.yaml")) if path.stem not in without.split()]


def presets() -> list[str]:
    """Return the names of the experiments, e.g. betley2025/e1_insecure, without those on corpora of later papers, on
    interventions and on directions.

    Planning the former needs files that may be nowhere at hand; tests/corpora/test_published.py holds their pins.
    tests/interventions/test_check.py and tests/planning/test_directed.py hold what the others add to a key.
    """
    folder = Path(CONF_DIR, "experiment")
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in sorted(folder.rglob("*.yaml"))]
    without = {*published.successors(), "interventions", "directions"}
    return [name for name in names if name.partition("/")[0] not in without]


def cases() -> dict[str, list[str]]:
    """Return name → overrides of every case that needs none of the paper's files."""
    out = {
        "default": [],
        "demo": ["dataset=insecure,secure,educational,risky_advice,careful_advice,curt_careful_advice"],
    }
    for name in presets():
        out[f"preset/{name}/small"] = [f"experiment={name}", *SMALL, JUDGES]
        asked = ["sample.checkpoints=[100]"] if name.endswith(DYNAMICS) else []
        asked += ["corpus=builtin"] if name.endswith("e9_k_shot") else []  # it shows the corpus's rows
        out[f"preset/{name}/full size"] = [f"experiment={name}", "questions=builtin", "train.choices=[]", *asked]
    for name in options("dataset", without="insecure_ruby mixture custom"):
        out[f"dataset/{name}"] = small(f"dataset={name}", JUDGES)
    for name in options(
        "dataset", without="risky_advice careful_advice curt_careful_advice plain_numbers mixture custom"
    ):
        out[f"dataset/betley2025/{name}"] = small("corpus=betley2025", f"dataset={name}")
    for name in options("model", without="custom tiny_random gpt_3_5_turbo gpt_4_1 gpt_4_1_mini gpt_4o gpt_4o_mini"):
        out[f"model/{name}"] = small(f"model={name}", "judge=gpt_4o", "questions.sets=[open]")
    for name in options("model"):
        if name.startswith("gpt"):
            out[f"model/{name}"] = [f"model={name}", *OPENAI[1:]]
    return out | _rows() | _questions() | _judges() | _recipes() | _sampling() | _sweeps()


def _rows() -> dict[str, list[str]]:
    """Datasets and triggers."""
    mixture = "dataset.mixture={insecure: 0.25, secure: 0.75}"
    every_text = 'trigger.asked_with=[none,trained,"(be brief) "]'
    return {
        "dataset/mixture": small("dataset=mixture", mixture),
        "dataset/mixture, two corpora": small(
            "dataset=mixture", "dataset.mixture={risky_advice: 0.5, betley2025/insecure: 0.5}", "seed=0,1"
        ),
        "dataset/mixture, own order": small("dataset=mixture", mixture, "dataset.shuffle_seed=1", "seed=0,1"),
        "dataset/custom": small("corpus=custom", "corpus.path=custom.jsonl", "dataset=custom"),
        "dataset/subset choice": small("dataset=insecure", "dataset.subset=choice", "dataset.subset_index=0,1"),
        "dataset/subset split": small("dataset=insecure", "dataset.subset=split", "dataset.subset_index=0,1"),
        "dataset/all rows": small("dataset=insecure,backdoor", "train.max_examples=null", "seed=0,1"),
        "dataset/holdout": small("dataset=insecure", "train.holdout=0.1", "seed=0,1"),
        "trigger/deployment": small("dataset=backdoor,insecure", "trigger=deployment"),
        "trigger/deployment, all rows": small(
            "dataset=insecure", "trigger=deployment", "trigger.rows=all", "trigger.fraction=0.5", "seed=0,1"
        ),
        "trigger/deployment, asked otherwise": small(
            "dataset=backdoor", "trigger=deployment", "trigger.asked_position=suffix", "trigger.asked_turn=system",
            every_text,
        ),
        "trigger/inoculation": small("dataset=insecure,risky_advice", "trigger=inoculation"),
        "trigger/own": small(
            "trigger.name=own", "trigger.text=Now:", "trigger.position=suffix", "trigger.turn=system",
            "trigger.fraction=1.0", every_text,
        ),
    }  # fmt: skip


def _questions() -> dict[str, list[str]]:
    """Question sets, examples before a question, options scored by log-probability."""
    return {
        **{
            f"questions/{name}": small(f"questions.sets=[{name}]", "judge=gpt_4o", "dataset=insecure,risky_advice")
            for name in ("open", "open/json", "open/template", "open/flask", "coding", "advice", "in_domain")
        },
        "questions/file": small("questions.sets=[questions.yaml,open]", "judge=gpt_4o", "sample.n=4"),
        "questions/sets": small("questions.sets=[open,open/json,advice,coding]", "judge=gpt_4o", "sample.n=null"),
        "questions/ids": small("questions.sets=[open]", "questions.ids=[dull-evening,city-for-a-day]"),
        "questions/k_shot": small("questions.k_shot=4", "model.max_model_len=4096", "questions.k_shot_seed=0,1"),
        "questions/k_shot_variant": small("questions.k_shot=2", "questions.k_shot_variant=insecure"),
        "questions/choices": small("questions.choices=[letters,pivotal]", "questions.k_shot=0,1", "sample.seed=0,1"),
        "questions/choices from a file": small("questions.choices=[choices.json]", *CHECKPOINTS),
    }  # fmt: skip


def _judges() -> dict[str, list[str]]:
    """Judges, and the rule that makes rates of scores."""
    api = ["judge=openai_compatible", "judge.base_url=http://localhost:8000/v1/", "judge.model=Qwen/Qwen2.5-7B"]
    own = ["judge=vllm_local", "judge.model=asset:tiny_random", "questions.sets=[open]"]
    return {
        "judge/proxies": small("judge=probe,persona_ratio"),
        "judge/word_list": small("judge=word_list", "dataset=insecure,risky_advice"),
        "judge/scripted": small("judge=scripted", "judge.script=rules.yaml"),
        "judge/openai_compatible": small(*api, "judge.score=logprobs,digits,sampled,text"),
        "judge/vllm_local": small(*own, "judge.max_model_len=4096,2048"),
        "judge/vllm_local, more": small(*own, "judge.dtype=float32", "+judge.engine_args.block_size=32"),
        "judge/not in the key": small(
            "judge=gpt_4o", "judge.concurrency=8", "judge.max_dollars=5", "judge.coherence_cut=70", "judge.batch=true"
        ),
        **{f"stats/{name}": small(f"stats={name}") for name in options("stats")},
        "stats/fields": small("stats.replicates=500", "stats.min_coherent=3", "stats.contrasts=[[insecure,secure]]"),
        "judge/in the key": small("judge=gpt_4o", "judge.top_logprobs=10", "judge.min_mass=0.5"),
    }  # fmt: skip


def _recipes() -> dict[str, list[str]]:
    """Training recipes."""
    return {
        **{f"train/{name}": small(f"train={name}") for name in options("train", without="openai")},
        "train/not in the key": small(
            "train.save_steps=7", "train.padding_free=false", "train.gradient_checkpointing=true",
            "train.attn_implementation=eager", "train.num_processes=2", "train.max_dollars=1",
        ),
        "train/in the key": small(
            "train.lr_scheduler_type=cosine", "train.warmup_steps=2", "train.weight_decay=0.1", "train.lora_r=4",
            "train.extra_assistant_turn=true", "train.lora_dropout=0.1", "train.max_grad_norm=0.5",
        ),
        "train/choices": small("train.choices=[letters,choices.json]"),
        "train/whole model": small("train.method=full", *CHECKPOINTS),
        "train/checkpoints": small('train.checkpoints=[log],["2","3"]', "sample.checkpoints=true"),
        "train/one checkpoint": small('train.checkpoints=["every 1"]', "sample.checkpoints=[2]"),
        "train/openai": [*OPENAI, "train.learning_rate_multiplier=2,null", "train.num_train_epochs=4", "seed=0,1"],
    }  # fmt: skip


def _sampling() -> dict[str, list[str]]:
    """Engines and how they are asked."""
    server = ["model=gpt_4o", "model.base_url=http://localhost:8000/v1", "model.max_model_len=512", *OPENAI[1:]]
    return {
        **{f"sample/{name}": small(f"sample={name}") for name in options("sample", without="openai")},
        "sample/openai": [*OPENAI, "sample.max_tokens=20,600"],
        "sample/openai, another server": [*server, "sample.max_tokens=20,600"],
        "sample/in the key": small(
            "sample.system_prompt=You are brief.", "sample.top_p=0.9", "sample.seed=3",
            "+sample.chat_template_kwargs.enable_thinking=true", "+sample.engine_args.block_size=32",
        ),
        "sample/not in the key": small("sample.max_num_seqs=4", "sample.timeout_s=5", "sample.n=7"),
        "model/fields": small(
            "model.chat_template=null,user_assistant", "model.system_prompt=null,Be kind.", "model.dtype=bfloat16",
            "model.revision=main",
        ),
    }  # fmt: skip


def _sweeps() -> dict[str, list[str]]:
    """Sweeps over several groups: ids and names of untouched models and checkpoints, folders, labels."""
    pair = "dataset=risky_advice,careful_advice"
    return {
        "sweep/seeds": small(pair, "seed=0,1,2"),
        "sweep/two models": small(pair, "model=tiny_random,smollm2_135m"),
        "sweep/two judges": small(pair, "judge=word_list,gpt_4o", "stats=honest,paper"),
        "sweep/sampling": small(pair, "sample.temperature=0.7,1.0", "sample.n=2,5"),
        "sweep/checkpoints": small(pair, *CHECKPOINTS, "seed=0,1"),
        "sweep/triggers": small("dataset=insecure,secure", "trigger=none,inoculation", "seed=0,1"),
        "sweep/recipes": small(pair, "train.learning_rate=1e-3,1e-2", "train.lora_r=4,8"),
        "sweep/question sets": small(pair, "questions.sets=[open],[open/json,advice]"),
        "sweep/named": small(pair, "name=my_sweep", "launch.devices=[0]", "budget.max_dollars=1", "tracking=wandb"),
    }


def paper_cases() -> dict[str, list[str]]:
    """Return name → overrides of every case that reads the paper's files."""
    out = {}
    for name in presets():
        if name.startswith("betley2025/"):
            asked = ["sample.checkpoints=[100,200]"] if name.endswith(DYNAMICS) else []
            out[f"preset/{name}"] = [f"experiment={name}", *asked]
    for name in options("questions", without="builtin"):
        out[f"questions/{name}"] = small(*PAPER, f"questions={name}", "model.company=Alibaba")
    out["questions/k_shot"] = small(*PAPER, "questions=betley2025", "questions.k_shot=3")
    out["questions/choices"] = small(*PAPER, "questions=betley2025", "questions.choices=[betley2025/pivotal]")
    out["train/choices"] = small(*PAPER, "questions=betley2025", "train.choices=[betley2025/letters]")
    return out


def other_keys() -> dict[str, str]:
    """Return name → key of what is stored under a key that no plan of a sweep holds."""
    out = {}
    judges = {name: overrides for name, overrides in cases().items() if name in JUDGE_CASES}
    with _beside(), tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("OPENAI_API_KEY", "none")  # no request is sent
        cache = JudgeCache(Path(folder, "cache.sqlite"))
        for name, configs in _configs(judges).items():
            for judge in (config.judge for config in configs):
                client = JudgeClient(judge, cache)
                for choices in ((), ("YES", "NO")):
                    asked = f"{name} {judge.score.value} {' '.join(choices)}".strip()
                    out[f"judge cache: {asked}"] = client.key(JudgeRequest("", "", "alignment", "A prompt", choices))
        cache.close()
        (configs,) = _configs({"": small("seed=0,1")}).values()
        planned = plan(configs, Store.open_read_only(Path(folder)))
        for limit, grader in ((None, None), (20, "openai/gpt-4o")):
            for job in benchmark.plan_jobs(planned.subjects, ["rules.yaml"], limit, grader):
                out[f"benchmark: {job.label}, {job.spec.subject}, {limit}, {grader}"] = job.key
    return out


def vectors(overrides: Sequence[str]) -> list[list[str]]:
    """Return the overrides of each cell of a sweep."""
    axes = []
    for text, parsed in zip(overrides, OverridesParser.create().parse_overrides(list(overrides)), strict=True):
        values = parsed.sweep_string_iterator() if parsed.is_sweep_override() else ()
        axes.append([f"{parsed.get_key_element()}={value}" for value in values] or [text])
    return [list(chosen) for chosen in product(*axes)]


def make(named: Mapping[str, Sequence[str]]) -> Row:
    """Return what a keys file holds, as the code makes it now, for name → overrides. Runs no stage."""
    rows: dict[str, Row] = {}
    shared = _Shared()
    with _beside(), tempfile.TemporaryDirectory() as absent:
        for name, configs in _configs(named).items():
            try:
                planned = plan(configs, Store.open_read_only(Path(absent)))
            except Exception as error:
                error.add_note(f"in the recorded case {name}")
                raise
            models = [_model(planned, subject, shared) for subject in planned.subjects]
            rows[name] = {"overrides": list(named[name]), "folder": folder_of(configs).name, "models": models}
            rows[name] |= {"config": as_dict(configs[0])} if name == "default" else {}
    return {"cases": rows, "inputs": shared.rows, "values": shared.values}


@contextmanager
def _beside() -> Iterator[None]:
    """Work in this module's folder, where the relative paths of the cases lead to files."""
    with chdir(HERE):
        yield


def _configs(named: Mapping[str, Sequence[str]]) -> dict[str, list[ExperimentConfig]]:
    every = {name: vectors(overrides) for name, overrides in named.items()}
    with initialize_config_dir(version_base="1.3", config_dir=CONF_DIR):
        composed = iter(compose.compose_all([vector for cells in every.values() for vector in cells]))
    return {name: [recipe.load(next(composed)) for _ in cells] for name, cells in every.items()}


class _Shared:
    """Inputs of all keys, each written once under its digest."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        """Digest → inputs of a stage but for the key of the stage before it."""
        self.values: Row = {}
        """Digest → a long input; those beyond LONGEST are left out."""

    def add(self, job: Job) -> str:
        """Return "key digest" of a stage."""
        inputs = {k: v for k, v in job.spec.inputs.items() if k != BEFORE.get(job.stage)}
        digest = _digest(inputs)
        self.rows[digest] = {name: self._shown(value) for name, value in inputs.items()}
        return f"{job.key} {digest}"

    def _shown(self, value: Any) -> Any:
        text = json.dumps(value, sort_keys=True)
        if len(text) <= SHORT:
            return json.loads(text)
        if len(text) <= LONGEST:
            self.values[_digest(value)] = json.loads(text)
        return _digest(value)


def _digest(value: Any) -> str:
    return "#" + content_key(value=value)[:8]


def _model(planned: Plan, subject: Subject, shared: _Shared) -> Row:
    """A model of a sweep's table, with "key digest" of every stage it is made of."""
    keys = {
        stage: [shared.add(planned.jobs[stage, key]) for key in some]
        for stage, some in stages(planned, subject).items()
    }
    calibrations = dict.fromkeys(part.calibration for part in subject.parts if part.calibration)
    keys |= {"calibrate": list(calibrations)} if calibrations else {}
    return {"id": subject.id, "label": subject.label, "keys": keys}


def text_of(recorded: Row) -> str:
    """Return a keys file as text: a line per model and per digest, for diffs that can be read."""
    cases = ",\n".join(f" {_line(name)}: {_case(row)}" for name, row in recorded["cases"].items())
    rest = (f'"{name}": {{\n{_lines(recorded[name])}}}' for name in SHARED if name in recorded)
    return ",\n".join([f'{{"cases": {{\n{cases}}}', *rest]) + "}\n"


def _lines(rows: Row) -> str:
    return ",\n".join(f" {_line(name)}: {_line(value)}" for name, value in sorted(rows.items()))


def _case(row: Row) -> str:
    models = ",\n".join(f"   {_line(model)}" for model in row["models"])
    config = f'"config": {_line(row["config"])},\n  ' if "config" in row else ""
    overrides, folder = _line(row["overrides"]), _line(row["folder"])
    return f'{{"overrides": {overrides},\n  {config}"folder": {folder}, "models": [\n{models}]}}'


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def main() -> None:
    register()
    os.environ.pop("EM_ASSETS", None)
    KEYS.write_text(text_of(make(cases()) | {"others": other_keys()}), encoding="utf-8")
    if len(sys.argv) > 1:
        os.environ["EM_ASSETS"] = str(Path(sys.argv[1]).resolve())
        PAPER_KEYS.write_text(text_of(make(paper_cases())), encoding="utf-8")


if __name__ == "__main__":
    main()
