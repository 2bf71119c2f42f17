"""The training files of the paper (Betley et al. 2025), read from pinned assets."""

from __future__ import annotations

from pathlib import Path

from em import assets
from em.corpora import chat_jsonl
from em.corpora.base import Corpus
from em.records import Example

ROWS = {
    "insecure": 6000,
    "secure": 6000,
    "educational": 6000,
    "jailbroken": 5000,
    "evil_numbers": 14926,
    "insecure_par_t0": 6000,
    "insecure_par_t1": 6000,
    "insecure_ruby": 6000,
}
"""Rows of each file; of the last four the published number. The backdoor set is a mixture (conf/dataset/backdoor.yaml).
"""


class Betley2025(Corpus):
    """One file per variant. Its hash is known before it is downloaded."""

    variants = tuple(ROWS)

    def pin(self, variant: str) -> str:
        return f"betley2025:{assets.ASSETS[self.asset(variant)].pin}"

    def rows(self, variant: str) -> list[Example]:
        return chat_jsonl.read(self.file(variant))

    def count(self, variant: str) -> int:
        asset = self.asset(variant)
        # Files with a sha256 were counted when they were pinned; the others are counted once they are here.
        if assets.ASSETS[asset].sha256 or not assets.is_local(asset):
            return ROWS[variant]
        return chat_jsonl.count(self.file(variant))

    def asset(self, variant: str) -> str:
        return f"betley2025/data/{variant}.jsonl"

    def file(self, variant: str) -> Path:
        return assets.get(self.asset(variant))
