"""Read, add to, and project out of the residual stream of a transformers model, with hooks on its blocks.

A hook that never runs is an error: a change that silently does nothing would pass as a model that resists it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

Change = Callable[[torch.Tensor], torch.Tensor]


def decoder(model: Any) -> Any:
    """Return the text model that holds `layers` and `embed_tokens`, below adapters and output heads."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    found = base.get_decoder()
    if not hasattr(found, "layers"):
        raise ValueError(f"{type(base).__name__} has no list of blocks named layers: directions need one")
    return found


def blocks(model: Any) -> Sequence[Any]:
    """Return the model's blocks in order."""
    layers: Sequence[Any] = decoder(model).layers
    return layers


def shape(model: Any) -> tuple[int, int]:
    """Return (blocks, hidden size) of a model."""
    return len(blocks(model)), int(model.config.get_text_config().hidden_size)


def states_of(output: Any) -> torch.Tensor:
    """Return the stream in a module's output: a tensor, or the first entry of a tuple (older models)."""
    states = output[0] if isinstance(output, tuple) else output
    assert isinstance(states, torch.Tensor)
    return states


def _changed(output: Any, change: Change) -> Any:
    new = change(states_of(output))
    return (new, *output[1:]) if isinstance(output, tuple) else new


@contextmanager
def reading(model: Any, on_states: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
    """Call `on_states(block, states)` after every block inside the scope. `states`: [batch, tokens, hidden]."""
    fired: set[int] = set()

    def hook(block: int) -> Any:
        def run(_module: Any, _inputs: Any, output: Any) -> None:
            fired.add(block)
            on_states(block, states_of(output))

        return run

    layers = blocks(model)
    with _hooks([(layer, hook(b)) for b, layer in enumerate(layers)]):
        yield
    _require(fired, range(len(layers)))


@contextmanager
def changing(model: Any, changes: Mapping[int, Change]) -> Iterator[None]:
    """Replace the stream after each block of `changes` by the change of it. Raises RuntimeError if one never ran."""
    fired: set[int] = set()

    def hook(block: int, change: Change) -> Any:
        def run(_module: Any, _inputs: Any, output: Any) -> Any:
            fired.add(block)
            return _changed(output, change)

        return run

    layers = blocks(model)
    if wrong := [b for b in changes if not 0 <= b < len(layers)]:
        raise ValueError(f"block {wrong[0]} does not exist: the model has the blocks 0 to {len(layers) - 1}")
    with _hooks([(layers[b], hook(b, change)) for b, change in changes.items()]):
        yield
    _require(fired, changes)


@contextmanager
def removing_from_writes(model: Any, basis: torch.Tensor) -> Iterator[None]:
    """Project the rows of `basis` out of every write to the stream: the embedding, and each attention and MLP output.

    `basis`: orthonormal rows [k, hidden]. So the stream never has a part along them. Removing it from block outputs
    alone is another intervention: the attention's write reaches the MLP of its block first.
    """
    fired: set[int] = set()

    def hook(number: int) -> Any:
        def run(_module: Any, _inputs: Any, output: Any) -> Any:
            fired.add(number)
            return _changed(output, lambda x: project_out(x, basis))

        return run

    inner, places = decoder(model), [(decoder(model).embed_tokens, hook(0))]
    for layer in inner.layers:
        for module in (layer.self_attn, layer.mlp):
            places.append((module, hook(len(places))))
    with _hooks(places):
        yield
    _require(fired, range(len(places)))


def add(vector: torch.Tensor) -> Change:
    """Return the change that adds a vector [hidden] at every token."""
    return lambda states: states + vector.to(states.dtype).to(states.device)


def remove(basis: torch.Tensor) -> Change:
    """Return the change that projects orthonormal rows [k, hidden] out of every token."""
    return lambda states: project_out(states, basis)


def in_turn(changes: Sequence[Change]) -> Change:
    """Return one change that makes several, one after the other."""

    def run(states: torch.Tensor) -> torch.Tensor:
        for change in changes:
            states = change(states)
        return states

    return run


def project_out(states: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Return states [..., hidden] without their part along the orthonormal rows of `basis` [k, hidden]."""
    rows = basis.to(states.dtype).to(states.device)
    return states - (states @ rows.T) @ rows


@contextmanager
def _hooks(places: Sequence[tuple[Any, Any]]) -> Iterator[None]:
    with ExitStack() as stack:
        for module, hook in places:
            stack.callback(module.register_forward_hook(hook).remove)
        yield


def _require(fired: set[int], wanted: Any) -> None:
    if missing := [n for n in wanted if n not in fired]:
        raise RuntimeError(f"a hook on the residual stream did not run ({missing[:5]}): nothing was changed there")
