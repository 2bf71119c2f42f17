"""Compose the cells of a sweep from overrides, as `python -m em.run -m` does; `cells` is the door.

Hydra needs 50 to 100 ms of CPU time per cell. Cells that choose options of the same groups are composed once: we copy
the first config, replace the chosen options, and then apply the cell's values, in Hydra's order. An option that changes
more than its own group (a defaults list, an experiment) goes through Hydra again.
"""

from __future__ import annotations

import pickle
import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import get_type_hints

from hydra import compose, initialize_config_dir

# Private to Hydra and checked with hydra-core 1.3.8; pyproject pins hydra-core to >= 1.3.8, < 1.5. No public function
# splits "a=1,2" into cells, and a splitter of our own could disagree with `-m`. tests/config/test_compose.py compares
# the result with Hydra's own; run it before raising the upper bound. Likewise for --config-dir.
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, OverrideType
from hydra.errors import HydraException, SearchPathException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from em.config.base import CONF_DIR
from em.config.experiment import ExperimentConfig
from em.errors import ConfigError, nearest

PLAIN = {f.name for f in fields(ExperimentConfig) if isinstance(f.default, int | str) and f.default != MISSING}
"""Top-level keys that are values, not groups."""
HYDRAS = [f"~hydra/{name}" for name in ("env", "help", "hydra_help", "launcher", "output", "sweeper")]
"""Hydra's own groups, which do not change a cell. Leaving them out saves a sixth of the composition time."""
Options = dict[str, str]
"""Config group → chosen option."""


def cells(overrides: Sequence[str], config_dir: Path | None = None) -> list[DictConfig]:
    """Return every cell of overrides that may hold commas, ranges and globs. Raises ConfigError with a one-line
    message.

    `config_dir`: a folder with further options, as for Hydra's --config-dir.
    """
    try:
        with initialized(config_dir) as loader:
            parser = OverridesParser.create(config_loader=loader)
            parsed = parser.parse_overrides(list(overrides))
            require_matches(parsed)
            require_options(parsed)
            return compose_all([v for batch in BasicSweeper.split_arguments(parsed, None) for v in batch])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(message(error)) from error
    except (AssertionError, AttributeError) as error:
        if not of_null_group(error):
            raise
        raise ConfigError(null_group_message(overrides)) from error


def of_null_group(error: Exception) -> bool:
    """Whether an error comes of setting a key of a group that is null (model.shape): OmegaConf has no words for it."""
    return "omegaconf" in Path(traceback.extract_tb(error.__traceback__)[-1].filename).parts


def null_group_message(overrides: Sequence[str]) -> str:
    """Return the message for keys of a group that is null."""
    given = [text for text in overrides if re.match(r"[+]*\w+\.\w+(\.[\w.]+=|=\{)", text)]
    return (
        f"{' '.join(given)}: this part of the config is null here and cannot be set key by key. Write all of it into "
        f"an option of your own, e.g. my_conf/model/mine.yaml, and give --config-dir my_conf model=mine"
    )


@contextmanager
def initialized(config_dir: Path | None) -> Iterator[ConfigLoader]:
    """Initialise Hydra with our configs and those of `config_dir`. Its loader is yielded."""
    with initialize_config_dir(version_base="1.3", config_dir=CONF_DIR):
        if config_dir:
            if not config_dir.is_dir():
                raise SearchPathException(f"Additional config directory '{config_dir}' not found")  # Hydra's words
            path = create_config_search_path(CONF_DIR)
            path.prepend("command-line", f"file://{config_dir.absolute()}", SearchPathQuery(provider="schema"))
            GlobalHydra.instance().clear()
            Hydra.create_main_hydra2("app", path)
        yield GlobalHydra.instance().config_loader()


def require_matches(parsed: Sequence[Override]) -> None:
    """Raise HydraException if a glob matches no option: Hydra would make no cells at all and say nothing."""
    for override in parsed:
        if isinstance(override.value(), Glob) and not list(override.sweep_iterator()):
            group, loader = override.key_or_group, override.config_loader
            options = loader.get_group_options(group) if loader else []
            there = f"{group} has {', '.join(options)}" if options else f"there is no config group {group}"
            raise HydraException(f"{override.input_line} matches no option; {there}")


def require_options(parsed: Sequence[Override]) -> None:
    """Raise HydraException if a config group is set to null, for which Hydra has no message."""
    for override in parsed:
        if override.key_or_group in groups() and override.type == OverrideType.CHANGE and override.value() is None:
            raise HydraException(
                f"{override.input_line}: {override.key_or_group} is a config group and needs an option"
            )


def message(error: Exception) -> str:
    """Return Hydra's message about a wrong override on one line; for an unknown key, with the known ones.

    Hydra advises to append an unknown key with +. Our typed groups refuse that; a free mapping accepts it.
    """
    text = " ".join(str(error).partition("Config search path")[0].split()).removeprefix("In 'config': ")
    why = str(error.__cause__ or "").partition("\n")[0] if isinstance(error.__cause__, OmegaConfBaseException) else ""
    unknown = re.match(r"Could not override '([\w.]+)'\. To append", text)
    if unknown and re.match(r"Key '\w+' not in", why):
        key, (group, _, rest) = unknown[1], unknown[1].partition(".")
        if group in groups():
            names = [f.name for f in fields(groups()[group])]
            return f"there is no option {key}{nearest(rest, names)}; {group} has {', '.join(names)}"
        near = nearest(group, [f.name for f in fields(ExperimentConfig)])
        return f"there is no option {key} (em run --help lists them){near}"
    if absent := re.match(r"Could not find '(\w+)/([^']*)'\.? ?(?:Available options in '\w+': (.*))?$", text):
        return no_such_option(absent[1], absent[2], (absent[3] or "").split())
    if bare := re.match(r"Error parsing override '([^'=]*)' missing EQUAL", text):
        return f"{bare[1]}: write key=value, e.g. dataset=insecure"
    missing = re.fullmatch(r"Additional config directory '(.+)' not found", text)
    if missing:
        return f"--config-dir: there is no folder {missing[1]}"
    several = re.match(r"Ambiguous value for argument '(.+?)' 1\. ", text)
    if several:
        return f"{several[1]} gives several values: add -m for a sweep over them, or write key=[a,b] for a list"
    text = text.replace("' Available options", "'. Available options")
    return text if unknown or not why else f"{text}: {why}"


def no_such_option(group: str, option: str, listed: Sequence[str]) -> str:
    """Return the message for an option that a config group does not have.

    `listed`: the options that Hydra names. Those in folders, e.g. experiment=betley2025/e1_insecure, are added.
    """
    known = set(options_of(group)) | {name for name in listed if not (Path(CONF_DIR) / group / name).is_dir()}
    given = f"{group} has no option {option}" if option else f"{group}= needs an option"
    names = sorted(known, key=lambda name: (name.count("/"), name))
    inside = option.rpartition("/")[0]
    shown = [name for name in names if group == "experiment" or name.rpartition("/")[0] in ("", inside)]
    shown += sorted({f"{name.partition('/')[0]}/*" for name in names if name not in shown})
    return f"{given}{_near_option(option, names)}; {group} has {', '.join(shown)}"


def options_of(group: str, config_dir: Path | None = None) -> list[str]:
    """Return the options of a config group, those in folders too: betley2025/e1_insecure. [] for what is no group."""
    folders = [root / group for root in (Path(CONF_DIR), config_dir) if root and group]
    found = {path.relative_to(f).with_suffix("").as_posix() for f in folders for path in f.rglob("*.yaml")}
    return sorted(found, key=lambda name: (name.count("/"), name))


def _near_option(option: str, names: Sequence[str]) -> str:
    """Return "; did you mean X?"; the name may lack its folder: e1_insecure stands for betley2025/e1_insecure."""
    inside = [name for name in names if option and (name.endswith(f"/{option}") or name.startswith(option))]
    return f"; did you mean {inside[0]}?" if inside else nearest(option, names)


def compose_all(vectors: Sequence[Sequence[str]], config_name: str = "config") -> list[DictConfig]:
    """Compose one config per vector of overrides. Hydra must be initialised; its exceptions pass through."""
    composer = Composer(config_name)
    return [composer.cell(vector) for vector in vectors]


@dataclass
class Composer:
    """Composes cell after cell, Hydra only what it has not composed before. The folders of options must not change."""

    config_name: str
    firsts: dict[tuple[str, ...], tuple[Options, bytes]] = field(default_factory=dict)
    """Configs that Hydra composed; the key is a cell without its chosen options and its values."""
    made: dict[tuple[str, ...], bytes] = field(default_factory=dict)
    """Configs by what a cell has besides its values. Pickled, as all: to read one takes a fifth of a deep copy."""

    def cell(self, vector: Sequence[str]) -> DictConfig:
        """Compose one cell, a list of overrides. Hydra must be initialised; its exceptions pass through."""
        parsed = OverridesParser.create().parse_overrides(list(vector))
        values = [o for o in parsed if _sets_a_value(o)]
        chosen = [(o.key_or_group, str(o.value())) for o in parsed if _chooses_an_option(o)]
        options = dict(chosen) if len(chosen) == len(dict(chosen)) else {}  # chosen twice: Hydra reports it
        texts = tuple(text for text, o in zip(vector, parsed, strict=True) if o not in values)
        if texts not in self.made:
            others = [t for t, o in zip(vector, parsed, strict=True) if not (o in values or o.key_or_group in options)]
            self.made[texts] = self._choose((*others, "", *sorted(options)), options, texts)
        made: DictConfig = pickle.loads(self.made[texts])
        try:
            for override in values:
                OmegaConf.update(made, override.key_or_group, override.value(), merge=True)
        except OmegaConfBaseException:
            return compose(self.config_name, overrides=list(vector))  # Hydra's own error is clearer
        return made

    def _choose(self, kind: tuple[str, ...], options: Options, texts: Sequence[str]) -> bytes:
        """Return the pickled config of these options: the first of its kind, changed, if its files allow it, else
        Hydra's."""
        if kind in self.firsts:
            first, found = self.firsts[kind]
            cell: DictConfig = pickle.loads(found)
            changed = {group for group, option in options.items() if option != first[group]}
            if all(plain(group, first[group]) == OmegaConf.to_container(cell[group]) for group in changed):
                nodes = {group: _option(group, options[group]) for group in changed}
                if None not in nodes.values():
                    for group, node in nodes.items():
                        cell[group] = node
                    return pickle.dumps(cell)
        known = [] if any("hydra/" in text for text in texts) else HYDRAS
        made = pickle.dumps(compose(self.config_name, overrides=[*texts, *known]))
        self.firsts.setdefault(kind, (options, made))
        return made


def _chooses_an_option(override: Override) -> bool:
    """Whether it has the form `dataset=secure`: one option of one of our groups."""
    return (
        override.key_or_group in groups()
        and override.type == OverrideType.CHANGE
        and override.package is None
        and isinstance(override.value(), str)
    )


@cache
def groups() -> dict[str, type]:
    """Return config group → its type in the schema."""
    hints = get_type_hints(ExperimentConfig)
    folders = {path.name for path in Path(CONF_DIR).iterdir()}
    return {f.name: hints[f.name] for f in fields(ExperimentConfig) if f.name in folders}


@cache
def _option(group: str, option: str) -> DictConfig | None:
    """Return a group's option merged into its schema; None if its file has more than values, or is wrong."""
    path = Path(CONF_DIR) / group / f"{option}.yaml"
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    if "\ndefaults:" in f"\n{text}" or "@package" in text:
        return None
    try:
        merged = OmegaConf.merge(OmegaConf.structured(groups()[group]), OmegaConf.create(text))
    except OmegaConfBaseException:
        return None
    assert isinstance(merged, DictConfig)
    return merged


def plain(group: str, option: str) -> object:
    """Return a group's option as plain values; None where `_option` has none."""
    node = _option(group, option)
    return None if node is None else OmegaConf.to_container(node)


def _sets_a_value(override: Override) -> bool:
    """Whether it has the form `a.b=value` or `seed=value`: no group option, no added or deleted key, no key of
    Hydra."""
    key = override.key_or_group
    plain = key in PLAIN or ("." in key and not key.startswith("hydra."))
    return plain and override.type == OverrideType.CHANGE and override.package is None
