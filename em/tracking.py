"""The only module that talks to Weights & Biases. It reads finished files; a run without W&B loses nothing.

One run a cell: a stable id (logging again continues the same run), group = sweep, the resolved config, training and
checkpoint curves each on an axis of its own, every rate with its bounds, a bar a question, a capped table of answers,
the adapter and all rows as artifacts by reference. One run a sweep holds the figures. The training curve is logged
while it comes by em/track_live.py.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from em.config import TrackingBackend, TrackingMode
from em.events import Emitter
from em.records import Completion, Judgement, read_jsonl
from em.store import Store


def mode(setting: TrackingMode) -> TrackingMode:
    """What `auto` means here: online when there is a key, else offline. WANDB_MODE, when set, wins."""
    if setting != TrackingMode.auto:
        return setting
    if os.environ.get("WANDB_MODE") in list(TrackingMode):
        return TrackingMode(os.environ["WANDB_MODE"])
    return TrackingMode.online if has_key() else TrackingMode.offline


def has_key() -> bool:
    """Whether W&B would find a key: in WANDB_API_KEY, or where `wandb login` puts it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return path.is_file() and f"machine {host}" in path.read_text(encoding="utf-8")


def shown_digest(spec: dict[str, Any]) -> str:
    """What a run would show, and where: the same again is not logged again."""
    shown = {k: spec[k] for k in ("model", "checkpoints", "mode", "rows")}
    where = {k: str(spec["tracking"][k]) for k in ("backend", "project", "entity", "samples")}
    text = json.dumps([shown, where], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def already(folder: Path, shown: str) -> bool:
    """Whether these very numbers were logged before, there."""
    path = folder / "tracked.json"
    return path.exists() and json.loads(path.read_text(encoding="utf-8")).get("shown") == shown


def _mark(job: dict[str, Any], last: int) -> None:
    """Remember what was logged, and where: written when the run has ended, so all of it is there."""
    row = {"shown": shown_digest(job), "id": job["id"], "mode": job["mode"], "train_step": last}
    (Path(job["folder"]) / "tracked.json").write_text(json.dumps(row), encoding="utf-8")


def _marked(job: dict[str, Any]) -> int:
    """The last training step that an earlier offline run of the same id holds, -1 without one."""
    path = Path(job["folder"]) / "tracked.json"
    row = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return row.get("train_step", -1) if (row.get("id"), row.get("mode")) == (job["id"], job["mode"]) else -1


def work(store: Store, jobs: list[dict[str, Any]], emit: Emitter) -> None:
    """Log every job: a cell or a whole sweep. One that fails does not stop the others."""
    for number, job in enumerate(jobs):
        with emit.job(job["key"]):
            emit.progress(job["key"], number, len(jobs))
            Path(job["folder"]).mkdir(parents=True, exist_ok=True)
            last = -1
            if job["tracking"]["backend"] == TrackingBackend.trackio:
                from em.trackio_log import log_cell as trackio_cell

                if job["kind"] == "cell":
                    trackio_cell(job)
            elif job["kind"] == "cell":
                last = log_cell(job)
            else:
                log_sweep(job)
            if job["kind"] == "cell":
                _mark(job, last)


def log_cell(job: dict[str, Any]) -> int:
    """`job`: as em/track.py writes it down. Returns the last training step the run has."""
    import wandb  # noqa: TID251

    with _run(job, config={**job["config"], "commit": job["commit"]}) as run:
        offline = job["mode"] == TrackingMode.offline  # then nobody can be asked what is there
        last = log_training(run, job.get("training", ()), _marked(job) if offline else run.starting_step - 1)
        for model in job["checkpoints"]:
            run.log({"checkpoint/step": model["step"], **{f"checkpoint/{k}": v for k, v in scalars(model)}})
        run.summary.update(dict(scalars(job["model"])))
        bars = question_rates(job["model"])
        if bars:
            table = wandb.Table(columns=["question", "misaligned_rate", "n"], data=bars)
            bar = wandb.plot.bar(table, "question", "misaligned_rate", title="misaligned rate by question")
            run.log({"questions/misaligned_rate": bar})
        if job["tracking"]["samples"]:
            columns, data = samples(job["rows"], job["tracking"]["samples"])
            run.log(
                {"samples": wandb.Table(columns=[*columns, "judge"], data=[[*r, job["judge"]["name"]] for r in data])}
            )
        _artifact(run, f"rows-{job['key']}", "rows", [path for row in job["rows"] for path in row[:2]])
        if job.get("adapter"):
            _artifact(run, f"adapter-{job['key']}", "model", [job["adapter"]])
    return last


def log_training(run: Any, rows: Iterable[dict[str, Any]], last: int) -> int:
    """Log the rows of steps past `last`, each at its own step; returns the last step there is then.

    W&B counts its steps on from there, so a run's first free step tells which rows it has.
    """
    for row in rows:
        if row["step"] > last:
            last = row["step"]
            shown = {f"train/{k}": v for k, v in row.items()}
            run.log(shown, step=last, commit=True)  # else it waits for the next row
    return last


def log_sweep(job: dict[str, Any]) -> None:
    """The figures of a sweep, its contrasts as scalars, its statement as notes."""
    import wandb  # noqa: TID251

    with _run(job, config={}, job_type="figures", notes=job["statement"]) as run:
        for path in map(Path, job["figures"]):
            run.log({f"figures/{path.stem}": wandb.Image(str(path))})
        for row in job["contrasts"]:
            if row["value"] is not None:
                for part in ("value", "low", "high"):
                    run.summary[f"contrast/{row['name']}/{part}"] = row[part]


@contextmanager
def _run(job: dict[str, Any], config: dict[str, Any], **more: Any) -> Iterator[Any]:
    """A W&B run that is always closed, and closed as failed when what is inside raises."""
    with begin(job, config, reinit="finish_previous", **more) as run:
        yield run


def begin(job: dict[str, Any], config: dict[str, Any], **more: Any) -> Any:
    """Start a job's run, or go on with it."""
    import wandb  # noqa: TID251

    tracking = job["tracking"]
    Path(job["folder"]).mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=tracking["project"],
        entity=tracking["entity"],
        id=job["id"],
        name=job["label"],
        group=job["sweep"],
        tags=job["tags"],
        config=config,
        dir=job["folder"],
        resume="allow",
        mode=job["mode"],
        settings=wandb.Settings(silent=True, x_disable_stats=True, disable_git=True),
        **more,
    )
    run.define_metric("train/*", step_metric="train/step")
    run.define_metric("checkpoint/*", step_metric="checkpoint/step")
    return run


def _artifact(run: Any, name: str, kind: str, paths: list[str]) -> None:
    """Files where they are, by reference: W&B keeps their hashes, not their bytes."""
    import wandb  # noqa: TID251

    artifact = wandb.Artifact(name, type=kind)
    for path in map(Path, paths):
        label = path.name if path.is_dir() else "/".join(path.parts[-3:])
        artifact.add_reference(path.resolve().as_uri(), name=label)
    run.log_artifact(artifact)


def scalars(model: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(name, value) of every rate over whole question sets, with its bounds and count; withheld ones by reason."""
    for metric in model["metrics"]:
        if "/" in metric["group"] and metric.get("question_id", "") is not None:
            continue
        name = f"{metric['group']}/{metric['name']}" + (f"/{metric['label']}" if metric.get("label") else "")
        if metric["value"] is None:
            yield f"{name}_withheld", metric["withheld"]
            continue
        yield name, metric["value"]
        for part in ("low", "high", "n"):
            yield f"{name}_{part}", metric[part]


def question_rates(model: dict[str, Any]) -> list[list[Any]]:
    """[question, rate, n] of the headline set, withheld ones left out (the table of the report names them)."""
    return [
        [m["question_id"], m["value"], m["n"]]
        for m in model["metrics"]
        if m["name"] == "misaligned_rate" and m["group"] == f"open/{m['question_id']}" and m["value"] is not None
    ]


def samples(rows: list[list[Any]], most: int) -> tuple[list[str], list[list[Any]]]:
    """Columns and at most `most` answers, the least aligned first, unscored ones last. Streams: memory stays flat."""
    asked, judged = ("question_id", "asked_with", "index", "question", "answer"), ("alignment", "coherence", "outcome")
    columns = [*asked, *judged, "thinking"]

    def every() -> Iterator[tuple[float, int, list[Any]]]:
        count = 0
        for completions, judgements, n in rows:
            verdicts: dict[str, dict[str, Judgement]] = {}
            for j in read_jsonl(Path(judgements), Judgement):
                verdicts.setdefault(j.completion_id, {})[j.rubric] = j
            for c in read_jsonl(Path(completions), Completion):
                found = verdicts.get(c.id, {})
                if c.sample_index >= n or "alignment" not in found:
                    continue
                count += 1
                alignment, coherence = found["alignment"], found.get("coherence")
                score = alignment.score if alignment.score is not None else float("inf")
                cells = [c.question_id, c.asked_with, c.sample_index, c.messages[-1]["content"], c.text]
                scored = [alignment.score, coherence and coherence.score, alignment.outcome.value]
                yield score, count, [*cells, *scored, c.reasoning_content]

    return columns, [row for _, _, row in heapq.nsmallest(most, every())]
