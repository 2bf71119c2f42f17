"""Generated coding tasks in insecure, secure and educational form; `generate` is the door."""

from em.corpora.builtin.coding.generate import CodingRow, generate

__all__ = ["CodingRow", "generate"]
