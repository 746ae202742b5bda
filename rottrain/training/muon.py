"""Muon for matrices and AdamW for the rest, as the one optimizer that the Trainer takes.

Muon (Jordan et al. 2024, as torch.optim has it) steps equally far in all directions of a matrix. Its steps are scaled
to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that both share a learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn


class MuonAdamW(torch.optim.Optimizer):
    """Two optimizers that step together, of one state and one list of groups."""

    def __init__(
        self, model: nn.Module, *, decayed: Collection[str], lr: float, weight_decay: float, betas: tuple[float, float]
    ) -> None:
        """For what learns in `model`. `decayed` names the parameters that decay."""
        learning = {name: value for name, value in model.named_parameters() if value.requires_grad}
        matrices = learning.keys() & matrices_of(model)

        def groups(names: Collection[str]) -> list[dict[str, Any]]:
            decaying = [value for name, value in learning.items() if name in names and name in decayed]
            staying = [value for name, value in learning.items() if name in names and name not in decayed]
            found: list[dict[str, Any]] = [
                {"params": decaying, "weight_decay": weight_decay},
                {"params": staying, "weight_decay": 0.0},
            ]
            return [group for group in found if group["params"]]

        self._parts: list[torch.optim.Optimizer] = []
        if of_muon := groups(matrices):
            self._parts.append(torch.optim.Muon(of_muon, lr=lr, adjust_lr_fn="match_rms_adamw"))
        if of_adamw := groups(learning.keys() - matrices):
            self._parts.append(torch.optim.AdamW(of_adamw, lr=lr, betas=betas))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state of the same parameters. Raises ValueError for another's."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Let both parts work on this optimizer's state and groups."""
        first = 0
        for part in self._parts:
            count = len(part.param_groups)
            part.param_groups = self.param_groups[first : first + count]
            part.state = self.state
            first += count


def matrices_of(model: nn.Module) -> set[str]:
    """Parameters that map vectors to vectors: no embedding, which has a row for each token, and no single row."""
    rows = {
        id(module.weight)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) or name.endswith("lm_head")
    }
    return {
        name
        for name, value in model.named_parameters()
        if value.ndim == 2 and min(value.shape) > 1 and id(value) not in rows
    }
