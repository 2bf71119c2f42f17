"""One table of stages; other lists must agree with it."""

import importlib.util

from em import slurm
from em.config import launch
from em.planning import stages


def test_launch_stages_are_those_of_the_table_and_the_report():
    assert (*(s.name for s in stages.SCHEDULED), "report") == launch.STAGES


def test_what_is_submitted_is_in_the_table():
    assert slurm.CELL_STAGES == ("train", "sample", "judge") and slurm.BASE_STAGES == ("sample", "judge")


def test_every_worker_is_a_module():
    assert set(stages.WORKERS) == {
        *("prepare", "train", "finetune", "sample", "judge", "benchmark", "track", "live", "direction", "adapter"),
        *("data", "scores"),
    }
    assert all(importlib.util.find_spec(module) for module in stages.WORKERS.values())


def test_the_rows_of_a_stage_are_in_the_file_it_names(tmp_path):
    from em.store import layout

    named = {stages.TRAIN: layout.TRAIN_LOG, stages.SAMPLE: layout.COMPLETIONS, stages.JUDGE: layout.JUDGEMENTS}
    assert {stage.name: stage.rows for stage in named} == {stage.name: file for stage, file in named.items()}
    assert stages.TRAIN.verified == (layout.TRAIN_LOG,)


def test_a_damaged_stage_is_looked_at_before_its_inputs():
    order = [stage.name for stage in stages.VERIFY_ORDER]
    assert set(order) == set(stages.BY_NAME)
    assert order.index("sample") < order.index("scores") < order.index("train") < order.index("data")
