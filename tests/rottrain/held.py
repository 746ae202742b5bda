"""`python -m tests.rottrain.held ...`: rottrain, whose first process waits at the end of step 3 until told to stop."""

from __future__ import annotations

import time
from typing import Any

from rottrain.cli import main
from rottrain.training import trainer

STEP = 3


def hold() -> None:
    """Have training wait there; other processes then wait for the first."""
    act = trainer._RunKeeper.on_step_end

    def wait(self: trainer._RunKeeper, args: Any, state: Any, control: Any, **more: Any) -> None:
        while state.global_step == STEP and trainer.is_main() and not self.stopped:
            time.sleep(0.01)
        act(self, args, state, control, **more)

    trainer._RunKeeper.on_step_end = wait  # type: ignore[method-assign]


if __name__ == "__main__":
    hold()
    main()
