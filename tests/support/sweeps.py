"""A sweep folder as a run leaves it, with stages finished by hand: no model is loaded."""

from em.planning.plan import folder_of, plan
from em.sweep import state, sweep


def finish(store, made, *stages):
    """Finish the jobs of these stages with a file of one byte."""
    for job in made.jobs.values():
        if job.stage in stages and not store.has(job.stage, job.key):
            with store.claim(job.stage, job.key) as folder:
                (folder / "file").write_text("x")
                store.finish(job.stage, job.key, job.spec.inputs, {"rows": 16, "tokens": 4, "resumed_from": None})


def write_sweep(configs, store):
    """Write the folder of a planned sweep; nothing has run."""
    made = state.Sweep(folder_of(configs), store, plan(configs, store))
    sweep.make_folder(made.folder)
    sweep._write_cells(made)
    return made
