"""A sample stage that a test writes row by row."""

import os

from em.store import checked_rows, write_jsonl
from em.store.layout import COMPLETIONS


class Sampler:
    """Writes a sample stage by hand, the way the sample stage does."""

    def __init__(self, store, key="s"):
        self.store, self.key = store, key
        self.claim = store.claim("sample", key)
        self.path = self.claim.__enter__() / COMPLETIONS
        self.rows = []

    def draw(self, *rows):
        self.rows += rows
        file = checked_rows.RowWriter(self.path)
        for completion in rows:
            file.append(completion)
        file.close()

    def seal(self, extra=()):
        temporary = self.path.with_suffix(".sorted")
        write_jsonl(temporary, sorted([*self.rows, *extra], key=lambda c: c.id))
        os.replace(temporary, self.path)
        checked_rows.remove_checksums(self.path)
        self.store.finish("sample", self.key, {}, {})
        self.claim.__exit__(None, None, None)
