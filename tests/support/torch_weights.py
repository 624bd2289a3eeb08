"""PyTorch, or a skip where it is not installed; arrays and weights on their way into it."""

from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch", reason="PyTorch is an extra: make setup EXTRAS=torch")

from experiments.versus_torch.torch_reference import weights  # noqa: E402


def tensor(x) -> Any:
    return torch.from_numpy(np.array(x))


def module_with(module, params):
    """A PyTorch module with the weights of its counterpart."""
    module.load_state_dict({name: tensor(x) for name, x in weights.from_flax(params["params"]).items()})
    return module
