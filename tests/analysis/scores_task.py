"""Tasks for Inspect whose scores are numbers, words, several numbers at once, or nothing of the kind."""

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import Score, mean, scorer

VALUES = {"right": "C", "half": "P", "share": 0.25, "yes": True, "refused": "refused", "nan": float("nan")}


def _task(values, epochs=1):
    @scorer(metrics=[mean()])
    def given():
        async def score(state, target):
            found = values[state.sample_id]
            return Score(value=found[state.epoch - 1] if isinstance(found, tuple) else found)

        return score

    return Task(
        dataset=MemoryDataset([Sample(id=name, input=name, target="") for name in values]),
        scorer=given(),
        epochs=epochs,
    )


@task
def words() -> Task:
    return _task(VALUES)


@task
def several() -> Task:
    return _task({"a": {"harm": 0.2, "quality": 1.0}, "b": {"harm": 0.4, "quality": 0.0}})


@task
def epochs() -> Task:
    return _task({"a": ("refused", {"accuracy": 1.0}, 0.5)}, epochs=3)
