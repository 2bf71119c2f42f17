"""intervention=inoculation and intervention=educational select a trigger: conf/trigger is the one home of the texts."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

from em.config import CONF_DIR, ExperimentConfig, TriggerConfig
from em.errors import ConfigError

FRAMED = ("inoculation", "educational")
"""Methods that are a trigger on a share of the rows."""
HOME = Path(CONF_DIR) / "trigger"


def framed(config: ExperimentConfig) -> ExperimentConfig:
    """Return the config with the trigger that its intervention selects, on a share of the rows that is the dose.

    A text given by trigger.text takes the place of the selected one. Raises ConfigError if there is no text for the
    dataset's domain, or another trigger is chosen too: the run would have the name of one text and the rows of another.
    """
    chosen, given = config.intervention, config.trigger
    if chosen.name not in FRAMED or not config.dataset.trained:
        return config
    if given.name != "none" and given.name != _option(config):
        raise ConfigError(
            f"intervention={chosen.name} puts a text of conf/trigger into the rows, and trigger={given.name} another: "
            f"leave one of them out; intervention.arm chooses the wording of an inoculation prompt"
        )
    if given.text is None:
        selected = _trigger(_option(config))
        given = dataclasses.replace(selected, asked_with=given.asked_with)
    return dataclasses.replace(config, trigger=dataclasses.replace(given, fraction=chosen.dose))


def labelled(config: ExperimentConfig) -> ExperimentConfig:
    """Return the config for labels: without the trigger that its intervention has selected, for the method says it.

    A text of the user's own stays, or runs with two of them would have one label; its share of the rows is the dose.
    """
    given = config.trigger
    if config.intervention.name not in FRAMED or given.text is None:
        return config
    if given.name.partition("/")[0] in FRAMED and given.text == _trigger(given.name).text:
        return unframed(config)
    return dataclasses.replace(config, trigger=dataclasses.replace(given, fraction=TriggerConfig().fraction))


def unframed(config: ExperimentConfig) -> ExperimentConfig:
    """Return the config without the trigger of its intervention, the user's own text included."""
    if config.intervention.name not in FRAMED:
        return config
    return dataclasses.replace(config, trigger=TriggerConfig(asked_with=config.trigger.asked_with))


def _option(config: ExperimentConfig) -> str:
    """Return the option of conf/trigger for the method, its arm and the dataset's domain."""
    chosen, domain = config.intervention, config.dataset.domain
    arm = chosen.arm.value if chosen.name == "inoculation" else "task"
    if (chosen.name, arm, domain) == ("inoculation", "task", "coding"):
        return "inoculation"
    names = [f"{chosen.name}/{arm}_{domain}", f"{chosen.name}/{arm}"]
    found = next((name for name in names if (HOME / f"{name}.yaml").is_file()), None)
    if found is None:
        raise ConfigError(
            f"intervention={chosen.name} has no text for arm {arm} and dataset.domain={domain}: give trigger.text, "
            f"and trigger.turn"
        )
    return found


@cache
def _trigger(option: str) -> TriggerConfig:
    """Return the shipped option of conf/trigger with this name."""
    from omegaconf import OmegaConf

    merged = OmegaConf.merge(OmegaConf.structured(TriggerConfig), OmegaConf.load(HOME / f"{option}.yaml"))
    found = OmegaConf.to_object(merged)
    assert isinstance(found, TriggerConfig)
    return found
