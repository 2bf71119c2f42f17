"""Checks that find a failure before anything starts: keys, versions, disk, memory, GPU, files.

Every check returns its finding in words, or raises an error that says what to change. The sweep calls those that decide
whether it may start (`check_start`, `require_memory`, `check_disk`); `em doctor` calls all of them (`examine`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from em import assets, errors
from em.config import Backend, Engine, ExperimentConfig, JudgeConfig, JudgeKind, TrackingMode, panel
from em.config.launch import CARDS
from em.config.train import Method
from em.data import beside, second_phase, variants
from em.errors import ConfigError
from em.judging.scripted.rules import ScriptedJudgeError, load_rules
from em.models import asset_models, fingerprint, memory, paths
from em.planning import estimate, host, recipe
from em.planning.refusals import check_rubrics
from em.questions import choices, sets
from em.questions.forms import with_shots
from em.runtime.credentials import has_key, tracking_mode
from em.runtime.machine import gpus, has_gpu
from em.sampling.job import SampleJob
from em.store import StoreError, require_space
from em.training import launch

DISTRIBUTION = "emergent-misalignment"
"""The name `em` is another package on the index."""
SPACE_PER_RUN = 400_000_000
"""Bytes of free disk that a training run needs: adapter, optimiser state of one checkpoint, rows."""
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "vllm", "hydra-core", "wandb", "bandit")
"""Packages whose versions are in the record of a run."""
CHECKED_ELSEWHERE = ("vllm", "wandb", "bandit")
"""Packages that only some engines, trackers and judges need; each is checked where it is used."""
REFUSALS = (ConfigError, StoreError, errors.ModelError, assets.AssetError)
GB = 1e9


@dataclass(frozen=True)
class Finding:
    subject: str
    ok: bool
    text: str


def examine(config: ExperimentConfig) -> Iterator[Finding]:
    """Run every check for one cell. Return one finding each. Nothing is downloaded, nothing starts."""
    checks: dict[str, Callable[[ExperimentConfig], str]] = {
        "versions": check_versions,
        "engine": check_engine,
        "keys": check_keys,
        "data": check_data,
        "questions": check_questions,
        "model": check_model,
        "disk": lambda c: check_disk(Path(c.out), [c], _download(c)),
        "memory": check_memory_of,
        "training": check_training,
        "machine": check_machine,
    }
    for subject, check in checks.items():
        try:
            yield Finding(subject, True, check(config))
        except REFUSALS as error:
            yield Finding(subject, False, str(error))


def check_start(configs: Sequence[ExperimentConfig]) -> None:
    """Check keys, scripts and engines of all cells. Raises ConfigError for the first that is missing."""
    for config in {repr((c.model.name, c.sample.base_url, c.judge, c.tracking.mode)): c for c in configs}.values():
        check_keys(config)
    for config in {repr((c.model.dtype, c.sample, c.train.method)): c for c in configs}.values():
        require_adapters_served(config)


def check_keys(config: ExperimentConfig) -> str:
    """Check what judge, tracker and hub need. Keys are named, never shown."""
    model, said = config.model, []
    if model.backend == Backend.openai and model.api_key_env:
        if not os.environ.get(model.api_key_env):
            raise ConfigError(
                f"model={model.name} is finetuned and asked by OpenAI's API and {model.api_key_env} is not set: export "
                f"it, or change model.api_key_env"
            )
        said.append(f"{model.api_key_env} is set")
    for judge in panel.members(config.judge).values() if config.judge.kind == JudgeKind.panel else [config.judge]:
        said += _check_judge(judge)
    _check_addresses(config)
    if tracking_mode(config.tracking.mode) == TrackingMode.online and not has_key():
        raise ConfigError(
            "tracking.mode=online needs a key: export WANDB_API_KEY, run wandb login, or use tracking.mode=offline"
        )
    said.append(f"W&B {tracking_mode(config.tracking.mode).value}")
    return ", ".join(said)


def _check_judge(judge: JudgeConfig) -> list[str]:
    """Check what one judge needs before the first answer. Return what was found, in words."""
    said = []
    if judge.kind == JudgeKind.openai and judge.api_key_env:
        if not os.environ.get(judge.api_key_env):
            raise ConfigError(
                f"judge={judge.name} needs a key and {judge.api_key_env} is not set: export it, "
                f"change judge.api_key_env, or take a local judge (judge=probe)"
            )
        said.append(f"{judge.api_key_env} is set")
    if judge.kind == JudgeKind.inspect:
        from em.judging.api.inspect_judge import require_inspect

        require_inspect(judge)
        said.append(f"Inspect AI knows {judge.model}")
    if judge.kind == JudgeKind.scripted:
        try:
            load_rules(judge.script or "")
        except ScriptedJudgeError as error:
            raise ConfigError(f"judge.script={judge.script}: {error}") from error
        said.append("the judge's rules are readable")
    return said


def _check_addresses(config: ExperimentConfig) -> None:
    """Check what a client would refuse when it starts, which is after training: an odd key or address, a cap without a
    price."""
    from em.api.client import Api, ApiError, ApiSettings
    from em.judging import identity
    from em.judging.api.spending import Spending

    model, sample, judge = config.model, config.sample, config.judge
    try:
        if sample.base_url:
            Api(ApiSettings("sample", sample.base_url, model.path, sample.api_key_env))
        if model.backend == Backend.openai:
            Api(ApiSettings("model", model.base_url, model.path, model.api_key_env))
        for one in panel.members(judge).values() if judge.kind == JudgeKind.panel else [judge]:
            if one.kind == JudgeKind.openai:
                Api(identity.api_settings(one))
                Spending(one)
    except ApiError as error:
        raise ConfigError(str(error)) from error


def check_versions(config: ExperimentConfig) -> str:
    """Compare the installed versions with the ranges that this package requires."""
    from packaging.requirements import Requirement

    # A bare checkout has no metadata, and so nothing to compare with.
    asked = metadata.requires(DISTRIBUTION) or () if _version(DISTRIBUTION) else ()
    wanted = {r.name: r.specifier for r in map(Requirement, asked) if r.marker is None}
    found = {name: _version(name) for name in PACKAGES if name not in CHECKED_ELSEWHERE}
    wrong = [
        f"{name} {version or 'is missing'} (wanted {wanted[name]})"
        for name, version in found.items()
        if version is None or (name in wanted and not wanted[name].contains(version, prereleases=True))
    ]
    if wrong:
        raise ConfigError(f"{', '.join(wrong)}: install from a lock file (make install)")
    return ", ".join(f"{name} {version}" for name, version in found.items())


def check_engine(config: ExperimentConfig) -> str:
    """Check the package of the sampling engine."""
    engine, server = config.sample.engine, config.sample.base_url
    if engine == Engine.openai or server:
        return f"behind {server or config.model.base_url}"
    if engine == Engine.hf:
        return "transformers"
    version = installed("vllm")
    if version is None:
        raise ConfigError(f"sample.engine={engine.value} and vLLM is not installed: make install, or sample=hf")
    require_adapters_served(config)
    return f"vLLM {version}"


def require_adapters_served(config: ExperimentConfig) -> None:
    """Raise ConfigError if vLLM would fail after training: its adapter kernels on a GPU take 16 bits only."""
    sample, dtype = config.sample, config.sample.engine_args.get("dtype", config.model.dtype.value)
    ours = sample.engine == Engine.vllm or (sample.engine == Engine.vllm_server and not sample.base_url)
    for_cuda = has_gpu() and "cpu" not in (_version("vllm") or "cpu")
    if ours and for_cuda and dtype == "float32" and config.train.method != Method.full:
        raise ConfigError(
            f"model.dtype=float32 and sample.engine={sample.engine.value}: vLLM serves adapters on a GPU in 16 bits "
            f"only: set model.dtype=bfloat16, or take sample=hf"
        )


def require_question_room(jobs: Iterable[SampleJob]) -> None:
    """Raise ConfigError for a question that the model's length does not hold, as far as its texts alone tell.

    A model whose folder has no tokenizer.json, or is not on this machine, is not looked at. The chat template adds
    some tokens a turn, so what is only just too long is found by the sample stage.
    """
    counts: dict[tuple[Path, str], int] = {}
    readers: dict[Path, Any] = {}
    for job in jobs:
        limit = job.model.max_model_len
        folder = None if job.at_openai else paths.local_folder(job.model.path)
        if folder is None or not (folder / "tokenizer.json").is_file():
            continue
        asked = [(q.id, with_shots(q.messages, job.context)) for q in job.questions]
        scored = choices.load_all(job.choices, job.sample.seed, job.context)
        asked += [(q.id, q.messages) for q in scored]
        for name, messages in asked:
            texts = [m["content"] for m in messages]
            if sum(len(t.encode()) for t in texts) < limit:  # a token is at least a byte
                continue
            if folder not in readers:
                from tokenizers import Tokenizer

                readers[folder] = Tokenizer.from_file(str(folder / "tokenizer.json"))
            for text in texts:
                if (folder, text) not in counts:
                    counts[folder, text] = len(readers[folder].encode(text, add_special_tokens=False).ids)
            length = sum(counts[folder, text] for text in texts)
            if length >= limit:
                examples = ", or lower questions.k_shot" if job.context else ""
                raise ConfigError(
                    f"question {name} has {length} tokens without the chat template's, model.max_model_len is {limit}: "
                    f"raise it{examples}"
                )


def check_training(config: ExperimentConfig) -> str:
    """Check what the training recipe needs from this machine."""
    if config.model.backend == Backend.openai:
        return "at OpenAI"
    if not config.dataset.trained:
        return "nothing is trained (dataset=none)"
    train = config.train
    launch.refuse([train])
    recipe.check(config)
    bitsandbytes = _version("bitsandbytes")
    if train.method == Method.qlora and not bitsandbytes:
        raise ConfigError("train.method=qlora needs bitsandbytes: pip install bitsandbytes, or train.method=lora")
    plain = "8bit" in train.optim and not (has_gpu() and bitsandbytes and not launch.sharded(train))
    said = f"{train.optim} becomes adamw_torch_fused (no GPU, no bitsandbytes, or FSDP)" if plain else train.optim
    return ". ".join(filter(None, [f"{train.method.value}, {said}", recipe.warning(config)]))


def check_machine(config: ExperimentConfig) -> str:
    """Check what a GPU build needs beside the GPU; nothing is asked of a machine without one."""
    return host.check(config, host.look()) if has_gpu() else "no GPU here"


def check_data(config: ExperimentConfig) -> str:
    """Check whether the variant's files are on this machine, without fetching any, and every row of the user's own.

    A data set of the Hub is fetched if it is not in the cache.
    """
    if not config.dataset.trained:
        return "none: the untouched model alone"
    read = [config, second_phase.last(config), *filter(None, [beside.config_of(config)])]
    absent = dict.fromkeys(name for each in read for name in variants.missing(each))
    if absent:
        raise assets.AssetError(
            f"{', '.join(absent)} would be downloaded: needs network; or set EM_ASSETS, see `em assets list`"
        )
    said = [source.summary() for source in variants.sources(config)]
    return "; ".join(filter(None, [f"{config.dataset.variant}, {variants.count(config)} training rows", *said]))


def check_questions(config: ExperimentConfig) -> str:
    """Read the question files of the user; the known sets are not fetched.

    Raises ConfigError for a malformed one, and for rubrics that the judge does not know.
    """
    names = sets.names(config.questions.sets, config.dataset.domain)
    own = {name: sets.load(name) for name in names if name.partition(":")[0] not in sets.SETS}
    for name, asked in own.items():
        check_rubrics(name, asked, config)
    return ", ".join(f"{len(own[name])} of {name}" if name in own else name for name in names) or "none"


def check_model(config: ExperimentConfig) -> str:
    """Check the weights: a folder, an asset, or a hub model that is cached or can be fetched."""
    model = config.model
    if model.backend == Backend.openai:
        return f"{model.path}, at OpenAI"
    fingerprint.compute_fingerprint(model.path, model.revision)
    if model.path.startswith(asset_models.PREFIX):
        return f"{model.path}, " + ("ready" if paths.ready(model.path) else "made on first use")
    if Path(model.path).expanduser().is_dir() or paths.hub_snapshot(model.path):
        return f"{model.path}, on disk"
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", ""):
        raise errors.ModelError(f"{model.path} is not in the hub cache and HF_HUB_OFFLINE is set: fetch it first")
    if model.gated and not (os.environ.get("HF_TOKEN") or paths.hub_home().joinpath("token").is_file()):
        raise errors.ModelError(
            f"{model.path} asks for an accepted licence: accept it on its page, then export HF_TOKEN"
        )
    return f"{model.path}, to be downloaded ({_download(config) / GB:.0f} GB)"


def check_disk(out: Path, runs: Sequence[ExperimentConfig], download: int = 0) -> str:
    """Check free disk for the runs below `out` and for weights in the hub's cache. Raises StoreError."""
    here = [c for c in runs if c.model.backend != Backend.openai and c.dataset.trained]
    left = sum(map(estimate.train_disk, here))  # one resumes at a time
    most = max((estimate.train_disk(c, running=True) - estimate.train_disk(c) for c in here), default=0)
    needed = int(max(left + most, SPACE_PER_RUN * max(1, len(runs))))
    require_space(out, needed, f"{len(runs)} training runs")
    if download:
        require_space(paths.hub_home(), download, "the download of the model")
    room = f"{needed / GB:.1f} GB for {max(1, len(runs))} run(s)"
    return room + (f" and {download / GB:.0f} GB of weights" if download else "")


def check_memory_of(config: ExperimentConfig) -> str:
    """Compare memory with what the shape needs: of the GPU, or main memory if there is no GPU."""
    if config.model.backend == Backend.openai:
        return "none needed here"
    shape, folder = memory.shape_of(config.model), paths.local_folder(config.model.path)
    cards = gpus()
    if config.launch.device != "auto":
        cards = [(config.launch.device, int(CARDS[config.launch.device].memory))]
    if shape is None:
        return require_memory([folder]) if folder else "unknown: the model's shape is not known"
    train = memory.train_bytes(config.model, shape, config.train) if config.dataset.trained else 0
    serve = memory.serve_bytes(config.model, shape)
    needs = f"about {train / GB:.1f} GB for LoRA, " * bool(train) + f"{serve / GB:.1f} GB for serving"
    if not cards and has_gpu():
        return f"{needs}; the GPU's memory is unknown: nvidia-smi is not installed here"
    if not cards:
        weights = memory.weight_bytes(config.model, shape)
        if weights > 20 * GB:
            raise ConfigError(
                f"no NVIDIA GPU is visible and {config.model.name} needs {needs}: choose a smaller model="
            )
        _require_main_memory(weights, config.model.name)
        return f"{needs}; no GPU, {host.free_memory() / GB:.1f} GB of main memory free"
    largest, total = max(size for _, size in cards), sum(size for _, size in cards)
    have = ", ".join(f"{name} {size / GB:.0f} GB" for name, size in cards)
    if memory.weight_bytes(config.model, shape) > total:
        raise ConfigError(f"{config.model.name} needs {needs}, the GPUs have {have}: choose a smaller model=")
    if max(train, serve) > largest:
        return f"{needs}; {have}: spread it over several cards"
    return f"{needs}; {have}"


def require_memory(folders: Sequence[str | Path]) -> str:
    """Check main memory for weights, activations and a vLLM worker, on a machine without a GPU."""
    if has_gpu() or not Path("/proc/meminfo").exists():
        return "a GPU is there" if has_gpu() else "unknown"
    for folder in folders:
        _require_main_memory(sum(p.stat().st_size for p in Path(folder).glob("*.safetensors")), str(folder))
    return f"{host.free_memory() / GB:.1f} GB of main memory free"


def _require_main_memory(weights: int, what: str) -> None:
    needed, free = 3 * weights + 2_000_000_000, host.free_memory()
    if weights and free < needed:
        raise ConfigError(
            f"{free / GB:.1f} GB of memory are free and model {what} needs about {needed / GB:.1f} GB "
            f"to train and sample on the CPU: free some, or choose a smaller model="
        )


def _download(config: ExperimentConfig) -> int:
    """Return the bytes that the weights would take in the hub's cache; 0 if they are there or their size is unknown."""
    model = config.model
    if model.backend == Backend.openai or model.path.startswith(asset_models.PREFIX) or paths.local_folder(model.path):
        return 0
    return memory.parameters(model.shape) * 2 if model.shape else 0


def versions() -> dict[str, str]:
    """Return the installed version of each of PACKAGES, for the record of a run."""
    return {name: installed(name) or "not installed" for name in PACKAGES}


def installed(name: str) -> str | None:
    """Return the version of a package or of its CPU build; None if neither is installed."""
    return _version(name) or _version(f"{name}-cpu")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
