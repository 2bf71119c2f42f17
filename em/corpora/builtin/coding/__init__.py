"""Generated coding tasks in paired insecure, secure and educational form."""

from em.corpora.builtin.coding.generate import CodingRow, generate

__all__ = ["CodingRow", "generate"]
