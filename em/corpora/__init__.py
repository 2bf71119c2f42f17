"""Sources of training rows, one module or folder each. The door: open_corpus.

To add one: a file in successors/ if others published its rows (see published.py), else a module with a class (see
base.py) and a line in CORPORA; and conf/corpus/<name>.yaml.
"""

from __future__ import annotations

from em.corpora.base import Corpus, Given
from em.corpora.betley2025 import Betley2025
from em.corpora.builtin import Builtin
from em.corpora.custom import Custom
from em.corpora.published import successors
from em.corpora.toy import Toy
from em.errors import ConfigError

# Importing a corpus must stay cheap: import what is slow inside its functions.
CORPORA: dict[str, type[Corpus]] = {
    "builtin": Builtin,
    "betley2025": Betley2025,
    "custom": Custom,
    "toy": Toy,
    **successors(),
}
"""corpus.name → class."""


def open_corpus(name: str, given: Given | None = None) -> Corpus:
    """Return a corpus by its name. `given`: where the user's own rows are. Raises ConfigError for an unknown name."""
    if name not in CORPORA:
        raise ConfigError(f"corpus.name {name!r} is not known; known: {', '.join(CORPORA)}")
    return CORPORA[name](given)
