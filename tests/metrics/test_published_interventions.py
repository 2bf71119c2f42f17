"""A group with an intervention is compared with numbers of the same intervention only."""

import dataclasses

from em.config import InterventionConfig
from em.config.intervention import Arm, KlDirection, KlTokens
from em.metrics import published
from em.reporting import run_groups


def reasons(anchor_id, **facts):
    (anchor,) = [a for a in published.anchors() if a.id == anchor_id]
    group = {"facts": {"model": anchor.model, "judge": anchor.judge, **facts}, "rule": published.RULE}
    return published._differences(anchor, group)


def test_plain_numbers_are_not_those_of_an_intervention_and_the_reverse():
    assert "intervention: kl 0.1 here, none there" in reasons("qwen_coder/insecure", intervention="kl 0.1")
    assert not any("intervention" in why for why in reasons("qwen_coder/insecure"))
    assert "intervention: none here, kl 0.1 there" in reasons("kaczer/kl/general")
    assert not any("intervention" in why for why in reasons("kaczer/kl/general", intervention="kl 0.1"))
    assert "intervention: kl 1 here, kl 0.1 there" in reasons("kaczer/kl/general", intervention="kl 1")


def test_each_defence_of_kaczer_has_its_three_axes():
    """General and in-domain misalignment, and what it costs in coherence; selected rows have no in-domain coherence."""
    found = {a.id.removeprefix("kaczer/"): a for a in published.anchors() if a.id.startswith("kaczer/")}
    methods = {name.partition("/")[0] for name in found}
    assert methods == {
        "none",
        "kl",
        "ldifs",
        "preventative_steering",
        "inoculation",
        "interleave",
        "interleave_selected",
    }
    for name in methods:
        axes = {i.removeprefix(f"{name}/") for i in found if i.startswith(f"{name}/")}
        assert axes | {"in_domain/coherent"} == {"general", "in_domain", "general/coherent", "in_domain/coherent"}
        assert len({found[f"{name}/{axis}"].intervention for axis in axes}) == 1


def test_the_facts_of_a_cell_name_its_intervention(compose):
    cell = compose("model=tiny_random", "train=tiny", "sample=tiny", "judge=word_list", "dataset=risky_advice")
    assert "intervention" not in run_groups.recipe_facts(cell)
    for chosen, said in ((InterventionConfig("kl", 0.1), "kl 0.1"), (InterventionConfig("kl", 0.0), None)):
        found = run_groups.recipe_facts(dataclasses.replace(cell, intervention=chosen))
        assert found.get("intervention") == said


def test_a_control_is_not_compared_with_the_method(compose):
    """Nor are other rows, or the other divergence."""
    cell = compose("model=tiny_random", "train=tiny", "sample=tiny", "judge=word_list", "dataset=risky_advice")
    for chosen, said in (
        (InterventionConfig("inoculation", 1.0), "inoculation 1"),
        (InterventionConfig("inoculation", 1.0, arm=Arm.negated), "inoculation 1, arm negated"),
        (InterventionConfig("interleave", 0.05), "interleave 0.05 of careful_advice"),
        (InterventionConfig("kl", 0.1, kl_direction=KlDirection.base_from_finetuned), "kl 0.1, KL(base||finetuned)"),
        (InterventionConfig("kl", 0.1, kl_tokens=KlTokens.answer), "kl 0.1, of the answers alone"),
        (InterventionConfig("caft", 1.0, direction=["planned", "random:planned"]), "caft 1 with a random direction"),
        (InterventionConfig("preventative_steering", 5.0, direction="random_rows"), "preventative_steering 5"),
        (InterventionConfig("inoculation_adapter", 1.0, adapter="planned"), "inoculation_adapter 1"),
        (InterventionConfig("inoculation_adapter", 1.0, adapter="random:planned"),
         "inoculation_adapter 1 with a random adapter"),
    ):  # fmt: skip
        assert run_groups.recipe_facts(dataclasses.replace(cell, intervention=chosen))["intervention"] == said
    words = {a.intervention for a in published.anchors()}
    assert {"inoculation 1", "inoculation_adapter 1", "inoculation_adapter 1 with a random adapter"} <= words
