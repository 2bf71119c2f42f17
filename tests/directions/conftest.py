"""A tiny random model and tokens for it."""

import pytest
import torch

from support.directions import random_llama


@pytest.fixture
def llama():
    return random_llama()


@pytest.fixture
def ids():
    return torch.randint(0, 64, (2, 11), generator=torch.Generator().manual_seed(1))
