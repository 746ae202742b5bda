"""A run on the Hub while it lasts: its states as they are saved, and in their place, at the end, what it has made.

A state that does not arrive costs no training: it is said and counted, and the next upload carries what lacks. Only
the end insists.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rotdata import hub
from rotdata.console import say
from rotdata.hub import HubError

_WHILE_IT_LASTS = ("run.json", "checkpoint-*")
"""What is there, and here, until a run is finished: whoever fetches it can go on."""


class Publisher(TrainerCallback):
    """Uploads the states of a run, of its first process; comes after what completes them."""

    def __init__(self, out: Path, repo: str, *, private: bool) -> None:
        """See that the model can be written, before anything is trained. Raises UsageError, HubError."""
        self._out, self._repo, self._private = out, repo, private
        self.failed = 0
        """States that did not arrive when they were saved."""
        hub.make_model(repo, private=private)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Have the states there that are here."""
        try:
            hub.push_model(
                self._out,
                self._repo,
                private=self._private,
                files=_WHILE_IT_LASTS,
                stale=["checkpoint-*"],
                message=f"State of step {state.global_step}",
            )
        except HubError as error:
            self.failed += 1
            say(f"warning: the state of step {state.global_step} is not on the Hub ({error}); training goes on")

    def finish(self) -> str:
        """Put the finished checkpoint in the states' place; its address. Raises HubError."""
        try:
            url = hub.push_model(self._out, self._repo, private=self._private, stale=_WHILE_IT_LASTS)
        except HubError as error:
            raise HubError(
                f"{self._out} is finished, but not on the Hub, as {self.failed} of its states were not: {error}"
                if self.failed
                else f"{self._out} is finished, but not on the Hub: {error}"
            ) from error
        if self.failed:
            say(f"{self.failed} states did not reach the Hub when they were saved; the finished checkpoint has")
        return url
