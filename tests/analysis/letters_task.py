"""A task for Inspect that needs no download: does the answer hold this letter?"""

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

LETTERS = "abcdefgh"


@task
def letters() -> Task:
    samples = [Sample(id=c, input=f"Say the letter {c}.", target=c) for c in LETTERS]
    return Task(dataset=MemoryDataset(samples), solver=generate(max_tokens=12), scorer=includes())


@task
def runs_code() -> Task:
    return Task(dataset=MemoryDataset([Sample(id="x", input="x", target="x")]), solver=generate(), sandbox="local")
