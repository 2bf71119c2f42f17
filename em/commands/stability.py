"""`em stability`: compare adapters by their loss at equal length and under noise, e.g. narrow against general ones."""

from __future__ import annotations

import argparse
import random
from typing import TYPE_CHECKING, Any

from em.commands import add_sweep, example, reading
from em.errors import ConfigError
from em.store import content_key, layout, read_jsonl

if TYPE_CHECKING:
    from em.chat.encode import Tokens
    from em.commands.reading import Trained
    from em.reporting.figures.stability import Measured

FOLDER = "stability"
"""In the sweep's folder: a folder per setting with losses.csv and the figure."""
LENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
MOST_NAMED = 4
"""Models whose ids are in a folder's name; of more, their hash is."""
NOISE = (0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
HEAD = ("model", "kind", "at", "seed", "loss")


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "stability",
        help="compare adapters by their loss at equal length and under noise",
        description="Loss on training rows with each adapter scaled to the same length, and turned by orthogonal noise "
        "(arXiv 2602.07852).",
        epilog=example(
            "em stability em-1a2b3c4d --model 'insecure intervention=none' --model 'insecure intervention=kl'"
        ),
    )
    add_sweep(sub)
    sub.add_argument("--model", action="append", required=True, help="label or id of a cell; give it again for more")
    sub.add_argument("--rows", type=int, default=32, help="training rows of the first model that are scored (32)")
    sub.add_argument("--seeds", type=int, default=3, help="draws of the noise (3; published: 10)")


def run(arguments: argparse.Namespace) -> int:
    from em.directions.stage import Models
    from em.reporting.figures import stability as figures
    from em.reporting.figures.figures import draw

    if arguments.rows < 1 or arguments.seeds < 1:
        raise ConfigError("--rows and --seeds must be at least 1")
    cells = {cell.subject.label: cell for cell in (reading.trained(arguments.folder, n) for n in arguments.model)}
    first = next(iter(cells.values()))
    if len({cell.subject.config.model.path for cell in cells.values()}) > 1:
        raise ConfigError("em stability compares adapters of one base model: give cells with one model=")
    models = Models(first.subject.config.model)
    rows = _rows(first, models.tokenizer, arguments.rows)
    found = _measured(cells, models, rows, arguments.seeds)
    for name in cells:
        own = {m.at: m.loss for m in found if m.model == name and m.kind == "length"}
        print(f"{name}\n  loss at length " + ", ".join(f"{100 * at:.0f} %: {x:.4g}" for at, x in own.items()))
        mean = {at: sum(values) / len(values) for at, values in figures.relative(found, name).items()}
        print("  increase at noise " + ", ".join(f"{at:g}: {100 * x:+.3g} %" for at, x in mean.items()))
    target = arguments.folder / FOLDER / _setting(cells, arguments)
    drawn = draw([figures.of(found, first.subject.config.dataset.variant)], target)
    table = reading.write_table(target / "losses.csv", HEAD, ([getattr(m, k) for k in HEAD] for m in found))
    for path in (table, *drawn):
        print(path)
    return 0


def _setting(cells: dict[str, Trained], arguments: argparse.Namespace) -> str:
    """Return the name of a result's folder: the models in their order, and the options that change it."""
    ids = "-".join(cell.subject.id for cell in cells.values())
    models = ids if len(cells) <= MOST_NAMED else f"{len(cells)}-{content_key(models=ids)[:10]}"
    return reading.setting(models=models, rows=arguments.rows, seeds=arguments.seeds)


def _rows(cell: Trained, tokenizer: Any, count: int) -> list[Tokens]:
    """Return `count` training rows of a cell as it was trained on them, drawn with seed 0."""
    from em.chat import encode, render
    from em.planning import keys
    from em.records import Example

    config = cell.subject.config
    data = cell.plan.train(str(cell.subject.train_key)).data_key
    every = list(read_jsonl(cell.store.path("data", data) / layout.DATASET, Example))
    drawn = random.Random(0).sample(every, min(count, len(every)))
    chat = render.ChatTokenizer(tokenizer, keys.chat_options(config))
    return encode.encode_all(chat, drawn, config.train.max_length, config.train.extra_assistant_turn).rows


def _measured(cells: dict[str, Trained], models: Any, rows: list[Tokens], seeds: int) -> list[Measured]:
    """Return the losses of all models: at each length, and at each noise, ε = 0 included."""
    from em.directions import stability
    from em.reporting.figures.stability import Measured

    lengths = {}
    for name, cell in cells.items():
        with models.finetuned(cell.store, cell.weights()) as model:
            lengths[name] = stability.length(stability.layers_of(model))
    mean = sum(lengths.values()) / len(lengths)
    found = []
    steps = len(cells) * (len(LENGTHS) + 1 + seeds * len(NOISE))
    with reading.progress("measuring", steps, "losses") as on_done:
        for name, cell in cells.items():
            with models.finetuned(cell.store, cell.weights()) as model:
                layers = stability.layers_of(model)
                for at in LENGTHS:
                    with stability.at_length(layers, at * mean):
                        loss = stability.loss(model, rows)
                    found.append(Measured(model=name, kind="length", at=at, seed=0, loss=loss))
                    on_done(1)
                for at, seed in [(0.0, 0), *((at, seed) for at in NOISE for seed in range(seeds))]:
                    with stability.moved(layers, at, seed):
                        loss = stability.loss(model, rows)
                    found.append(Measured(model=name, kind="noise", at=at, seed=seed, loss=loss))
                    on_done(1)
    return found
