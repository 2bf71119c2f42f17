"""Options that no file lists: judge=inspect/<provider>/<model> is conf/judge/inspect.yaml with that model."""

from __future__ import annotations

import re
from pathlib import Path

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

from em.config.base import CONF_DIR

OPTION = re.compile(r"judge/inspect/(?P<model>[^/]+/.+?)(\.yaml)?")


class UnlistedOptions(ConfigSource):
    """Any model of Inspect AI as an option of `judge`. conf/config.yaml names it in Hydra's search path."""

    @staticmethod
    def scheme() -> str:
        return "em"

    def load_config(self, config_path: str) -> ConfigResult:
        found = OPTION.fullmatch(config_path)
        assert found, config_path
        made = OmegaConf.load(Path(CONF_DIR) / "judge" / "inspect.yaml")
        made.name, made.model = f"inspect/{found['model']}", found["model"]
        return ConfigResult(provider=self.provider, path=self.full_path(), config=made, header={"package": "judge"})

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return False

    def is_config(self, config_path: str) -> bool:
        return OPTION.fullmatch(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return []
