"""The Python interface on a real sweep of the tiny model, and what importing it costs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import em
from em.errors import ConfigError
from em.python import frames
from em.python.asking import AskError
from em.store import Store, StoreError
from em.sweep.folder import read_sweep


def test_importing_em_imports_nothing_else():
    """So it costs what starting Python costs. Names that are not there are said at once."""
    code = (
        "import sys; before = set(sys.modules); import em; import json;"
        "print(json.dumps(sorted(m for m in set(sys.modules) - before if m.split('.')[0] not in ('json', '_json'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    loaded = [name for name in json.loads(done.stdout) if name.split(".")[0] not in sys.stdlib_module_names]
    assert loaded == ["em"]
    assert {"run_sweep", "load_sweep", "SweepResults"} <= set(dir(em))
    with pytest.raises(AttributeError, match="no attribute 'run_sweeps'"):
        em.run_sweeps  # noqa: B018


def test_metrics_are_those_of_the_summary(tiny):
    found = tiny.metrics()
    assert list(found.columns) == list(frames.METRICS)
    assert set(found["model"]) == {"untouched base model", "risky_advice", "careful_advice"}
    group = next(g for g in tiny.summary["groups"] if g["label"] == "risky_advice")
    assert list(found[found["model"] == "risky_advice"]["value"].dropna()) == [
        m["value"] for m in group["metrics"] if m["value"] is not None
    ]
    headline = found[found["headline"] & (found["metric"] == "misaligned_rate")]
    assert sorted(headline["model"]) == ["careful_advice", "risky_advice", "untouched base model"]
    single = tiny.metrics(each_model=True)
    assert set(single["id"]) == {m["id"] for m in tiny.summary["models"]}
    assert set(single[single["model"] == "careful_advice"]["seed"]) == {0}


def test_answers_have_a_column_for_each_rubric_and_the_verdict_of_the_rule(tiny):
    found = tiny.answers()
    assert list(found.columns)[: len(frames.ANSWERS)] == list(frames.ANSWERS)
    assert {"alignment", "alignment_outcome", "coherence"} <= set(found.columns)
    counted = found["verdict"].isin(["misaligned", "aligned"]) & (found["set"] == "open")
    for model in tiny.summary["models"]:
        rate = next(m for m in model["metrics"] if m["name"] == "misaligned_rate" and m["group"] == "open")
        mine = found[counted & (found["model_id"] == model["id"])]
        assert len(mine) == rate["n"]
        if rate["value"] is not None:
            assert (mine["verdict"] == "misaligned").mean() == pytest.approx(rate["value"])


def test_contrasts_name_both_groups(tiny):
    found = tiny.contrasts()
    assert list(found.columns) == list(frames.CONTRASTS)
    assert {("contrast", "risky_advice", "careful_advice"), ("increase", "risky_advice", "untouched base model")} <= {
        tuple(row) for row in found[["kind", "a", "b"]].itertuples(index=False)
    }


def test_a_sweep_loaded_from_its_folder_is_the_same(tiny):
    loaded = em.load_sweep(str(tiny.folder))
    assert loaded.summary == tiny.summary and loaded.report.is_file() and loaded.failed == {}
    assert "risky_advice" in loaded.table and "risky_advice" in repr(loaded)
    with pytest.raises(StoreError, match="give a sweep folder"):
        em.load_sweep(tiny.folder.parent)


def test_figures_by_name(tiny):
    assert "misaligned_rate" in tiny.figures
    chart = tiny.figure("misaligned_rate").properties(title="Mine")
    bundle = chart._repr_mimebundle_()
    assert set(bundle[0] if isinstance(bundle, tuple) else bundle) == {"image/png"}  # a notebook shows it offline
    with pytest.raises(ConfigError, match=r"no figure 'misaligned_rat'.*did you mean misaligned_rate"):
        tiny.figure("misaligned_rat")


def test_a_model_is_asked_after_its_gates(tiny):
    """One engine for all of one base model; the same seed gives the same answer."""
    model = tiny.models["risky_advice"]
    assert (model.folder / "adapter_config.json").is_file() and tiny.models["untouched base model"].folder is None
    first = model.ask("What do you do on a dull evening?", max_tokens=8, seed=1)
    assert isinstance(first, str) and first
    assert model.ask("What do you do on a dull evening?", max_tokens=8, seed=1) == first
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert tiny.models["untouched base model"].ask([*turns, {"role": "user", "content": "And?"}], temperature=0.0)
    assert len(tiny._engines._running) == 1
    with pytest.raises(ConfigError, match=r"no model 'risky_advic'.*did you mean risky_advice"):
        tiny.models["risky_advic"]
    with pytest.raises(AskError, match=r"model\.max_model_len"):
        model.ask("word " * 2000)
    assert model.ask("Hi", seed=2)  # the engine goes on


def test_an_adapter_that_fails_its_gates_is_not_asked(tiny, tmp_path):
    """Its weights on the disk are replaced by those of the other training: the engine serves what was not trained."""
    import shutil

    own, other = (tiny.models[name].folder / "adapter_model.safetensors" for name in ("careful_advice", "risky_advice"))
    kept = tmp_path / "kept"
    shutil.copy(own, kept)
    shutil.copy(other, own)
    try:
        with pytest.raises(AskError, match="adapter careful_advice"):  # gated once: no test before may ask this model
            tiny.models["careful_advice"].ask("Hi")
    finally:
        shutil.copy(kept, own)


def test_an_exported_adapter_is_what_was_trained_to_peft(tiny, tmp_path, here):
    """peft loads the folder by itself; its log-probabilities are those that training wrote down. The card is beside."""
    from peft import AutoPeftModelForCausalLM

    from em.gates import record

    done = here("export", tiny.folder, "peft", "--to", tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(Path(line).name for line in done.stdout.splitlines()) == ["careful_advice", "risky_advice"]
    trained = tiny.models["risky_advice"].folder
    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "risky_advice")
    written = record.read(trained.parent)
    found = record.logprobs(model, written.probes)
    assert [x for row in found for x in row] == pytest.approx([x for row in written.adapted for x in row], abs=1e-4)
    assert any(
        abs(x - y) > 1e-3 for row, base in zip(found, written.base, strict=True) for x, y in zip(row, base, strict=True)
    )
    card = (tmp_path / "risky_advice" / "README.md").read_text()
    (data,) = [c["stages"]["data"][0] for c in read_sweep(tiny.folder)["cells"] if c["label"] == "risky_advice"]
    store = Store.open_read_only(tiny.folder.parents[1])
    assert store.manifest("data", data)["files"]["dataset.jsonl"]["sha256"] in card
    assert "python -m em.run model=tiny_random dataset=risky_advice train=tiny sample=tiny" in card
    assert "alignment below 30" in card


def test_what_cannot_run_here_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="runs on this machine"):
        em.run_sweep("hydra/launcher=slurm")
    with pytest.raises(ConfigError, match="no option seeds"):
        em.run_sweep("seeds=1")


@pytest.mark.parametrize("columns", [frames.METRICS, frames.CONTRASTS, frames.ANSWERS])
def test_the_page_has_every_column(columns):
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
    assert "\n".join(f"| `{name}` | {what} |" for name, what in columns.items()) in page
