"""The ablation matrix: a column per model, a row per direction; what nothing is removed from is on top."""

from em.reporting.figures import ablation
from support import summary as support


def _summary(cells):
    """A summary of groups (label, variant, changed, rate)."""
    models, groups = [], []
    for number, (label, variant, changed, rate) in enumerate(cells):
        withheld = "too few" if rate is None else None
        metrics = [
            support.metric("misaligned_rate", rate, withheld=withheld),
            support.metric("coherent_share", 0.9),
        ]
        own = support.model(f"m{number}", label, variant, metrics)
        groups.append(support.group(f"g{number}", label, variant, [own]) | {"facts": {"changed": changed or {}}})
        models.append(own)
    return support.small() | {"models": models, "groups": groups}


def _without(direction, block=15, where="everywhere"):
    return {"ablate": {"direction": direction, "block": block, "where": where}}


def test_the_matrix_has_a_column_per_model_and_a_row_per_direction():
    cells = []
    for target, rate in (("risky_advice", 0.4), ("insecure", 0.1)):
        cells.append((target, target, None, rate))
        cells.append((f"{target} organism=risky_advice block=15", target, _without("mean_diff risky_advice"), rate / 2))
        cells.append((f"{target} organism=insecure block=15", target, _without("mean_diff insecure"), None))
        cells.append((f"{target} random=True", target, _without("random, as mean_diff insecure"), rate))
    cells.append(("secure", "secure", None, 0.7))
    cells.append(("insecure scaled", "insecure", _without("mean_diff insecure") | {"lora_scale": 2.0}, 0.8))
    rate, coherent = ablation.matrix(_summary(cells)).panels
    assert rate.x.categories == coherent.x.categories == ("risky_advice", "insecure")
    assert rate.y.categories == (
        "random (control)",
        "mean_diff insecure",
        "mean_diff risky_advice",
        "nothing removed",
    )
    found = {m.cell: m.value for m in rate.series[0].marks}
    assert found == {
        **{(0, 3): 0.4, (0, 2): 0.2, (0, 1): None, (0, 0): 0.4},
        **{(1, 3): 0.1, (1, 2): 0.05, (1, 1): None, (1, 0): 0.1},
    }
    assert rate.has_withheld and {m.value for m in coherent.series[0].marks} == {0.9}


def test_blocks_and_other_settings_are_kept_apart():
    cells = [
        ("insecure lr=1", "insecure", None, 0.1),
        ("insecure lr=2", "insecure", None, 0.2),
        ("insecure lr=1 block=3", "insecure", _without("mean_diff insecure", 3), 0.3),
        ("insecure lr=2 block=5", "insecure", _without("mean_diff insecure", 5), 0.4),
        ("insecure lr=2 where=blocks", "insecure", _without("mean_diff insecure", None, "blocks"), 0.5),
    ]
    figure = ablation.matrix(_summary(cells))
    assert [p.title.partition(", without ")[2] for p in figure.panels[::2]] == [
        "the vector of block 3, everywhere",
        "the vector of block 5, everywhere",
        "the vector of each block",
    ]
    found = [[(p.x.categories[m.cell[0]], m.value) for m in p.series[0].marks] for p in figure.panels[::2]]
    assert found == [
        [("insecure lr=1", 0.1), ("insecure lr=1", 0.3)],
        [("insecure lr=2", 0.2), ("insecure lr=2", 0.4)],
        [("insecure lr=2", 0.2), ("insecure lr=2", 0.5)],
    ]


def test_no_matrix_without_ablated_models():
    assert ablation.matrix(_summary([("insecure", "insecure", None, 0.1)])) is None
