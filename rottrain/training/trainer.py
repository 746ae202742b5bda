"""The loop: a learner and its rows on transformers.Trainer, in runs that can be stopped, resumed and watched.

While a run lasts, its folder holds checkpoint-STEP folders, the Trainer's own state (states.py), and the best weights
so far, which each state has too. What is learnt, and what becomes of it, stands in stages.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from rotdata.console import say
from rotdata.errors import CheckpointError, Interrupted, TrainingError, UsageError
from rotdata.shards import write_atomically
from rotdata.shards.files import file_sha256
from rottrain.data.rows import RowOrder
from rottrain.model import tensors
from rottrain.model.checkpoints import Reached
from rottrain.training import states
from rottrain.training.arguments import KEPT_STATES, arguments
from rottrain.training.history import Losses, write_history
from rottrain.training.muon import MuonAdamW
from rottrain.training.objective import Learner
from rottrain.training.own_loss import Loss, checked
from rottrain.training.sft import TextLearner
from rottrain.training.sharding import check_sharded, gather, put, whole
from rottrain.training.trackers import Table, takers
from rottrain.training.validation import kept, warnings_of

BEST, NOT_FINITE = "best.safetensors", "not-finite.json"
_STATE = "trained.safetensors"
_VALIDATION = "validation_"
_STOPS = (signal.SIGTERM, signal.SIGINT)
_KEPT = 2  # states of a run
_SHOWN = ("loss", "alignment", "answer", "glyphs", "halt")


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What is trained, and on what."""

    learner: Learner | TextLearner
    rows: Dataset[Any]
    order: RowOrder
    collate: Callable[[Sequence[Any]], Any]
    """Rows -> a batch, with their ids."""
    held_out: list[Any]
    """Rows, none of those."""
    validate: Callable[[], dict[str, float]]
    """Figures of the learner on the rows held out."""
    tell: Callable[[], Table]
    """What some of these rows come to, in words."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run came to."""

    result: Reached
    step_seconds: float | None
    """Median of the steps after the first one; None if there was none."""


def train(
    lesson: Lesson,
    out: Path,
    *,
    run: str,
    resume: str,
    report_to: Sequence[str],
    workers: int,
    callbacks: Sequence[TrainerCallback] = (),
    loss: Loss | None = None,
) -> Trained:
    """Run the Trainer to its end, in a run of that SHA-256. Raises Interrupted, TrainingError, CheckpointError.

    It ends early where one of `callbacks`, the caller's, says so.
    """
    learner = lesson.learner
    keeper = _RunKeeper(out, run, kept=learner.recipe.trainer.get(KEPT_STATES) or _KEPT)
    clock = _Clock()
    trainer = StageTrainer(
        learner,
        lesson.order,
        _arguments(out, learner, report_to, workers),
        own_loss=loss,
        train_dataset=lesson.rows,
        data_collator=lesson.collate,
        callbacks=[clock, keeper, _Epochs(lesson.order), _Progress(), *callbacks],
    )
    validating = _Validating(trainer, lesson, keeper) if lesson.held_out else None
    if validating is not None:
        trainer.add_callback(validating)
    trainer.remove_callback(PrinterCallback)  # it prints on stdout
    check_sharded(sharded=trainer.is_fsdp_enabled and trainer.accelerator.distributed_type == DistributedType.FSDP)
    state_folder = _resume_from(out, run, resume)
    if state_folder is None and is_main():
        trainer.best.drop()
    with keeper.listening():
        trainer.train(resume_from_checkpoint=state_folder)
        state = trainer.state
        if keeper.stopped_early:
            raise Interrupted(
                f"stopped at step {state.global_step} of {state.max_steps}; the same command resumes {out}"
            )
        validation = validating.take_best() if validating is not None else None
        gather(learner, keep=is_main())
        if is_main():
            found = [entry for entry in state.log_history if f"{_VALIDATION}accuracy" in entry]
            write_history(out, trainer.losses, found, every=learner.recipe.log_steps)
    last = trainer.losses.latest(learner.recipe.log_steps)["loss"]
    result = Reached(steps=state.global_step, loss=last, validation=validation)
    return Trained(result=result, step_seconds=clock.step_seconds)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave SIGTERM and SIGINT aside while what has been learnt is written: there may be no state to go on from."""
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class StageTrainer(Trainer):
    """Trainer that logs the loss's parts, shuffles row groups, and saves nothing that is frozen."""

    loss_is_scaled_for_ga = False  # losses are means over a batch

    def __init__(
        self,
        learner: Learner | TextLearner,
        order: RowOrder,
        arguments: TrainingArguments,
        *,
        own_loss: Loss | None = None,
        **rest: Any,
    ) -> None:
        self.recipe = learner.recipe
        self._own_loss = own_loss
        self.losses = Losses()
        """Of all processes' rows."""
        self._row_order = order
        self.best = _Best(Path(str(arguments.output_dir)))
        super().__init__(model=learner, args=arguments, **rest)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 -- the Trainer's signature
        num_items_in_batch: Tensor | int | None = None,  # noqa: ARG002
    ) -> Any:
        """The learner's loss; it and its parts are noted. Raises TrainingError if it is not finite."""
        learner = self.accelerator.unwrap_model(model)
        if isinstance(learner, Learner):
            learner.step = self.state.global_step
            learner.progress = self.state.global_step / max(1, self.state.max_steps)
        ids = inputs.pop("ids")
        try:
            outputs = model(**inputs)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{len(ids)} rows a step are too many for the memory of {learner.backbone.device}: lower --batch-size "
                "and raise --accumulate to match, or train with --gradient-checkpointing, --precision mixed or bfloat16"
            ) from error
        if self._own_loss is not None:
            outputs["loss"] = checked(self._own_loss(dict(outputs), inputs))
        loss = outputs["loss"]
        if not torch.isfinite(loss):
            file = Path(str(self.args.output_dir)) / NOT_FINITE
            content = {"step": self.state.global_step + 1, "loss": str(loss.item()), "ids": ids}
            write_atomically(file, (json.dumps(content, indent=2) + "\n").encode())
            raise TrainingError(
                f"the loss of step {self.state.global_step + 1} is {loss.item()}: lower --lr, or look at the rows "
                f"whose ids are in {file}"
            )
        values = torch.stack([value.detach().float() for value in outputs.values()])
        means = self.accelerator.reduce(values, "mean").tolist()
        self.losses.note(self.state.global_step + 1, dict(zip(outputs, means, strict=True)))
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the loss and its parts as they were noted: the Trainer forgets what came before a run was resumed."""
        if "loss" in logs:
            logs |= self.losses.latest(self.args.logging_steps)
        super().log(logs, start_time)

    def _run_epoch(self, *arguments: Any, **options: Any) -> None:
        """An epoch; none where all steps are done, as in a state of the last one: the Trainer would take one more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*arguments, **options)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:  # noqa: ARG002
        return self._row_order

    def create_optimizer(self, *arguments: Any, **options: Any) -> torch.optim.Optimizer:
        """The optimizer that the recipe names, or its `trainer`. Raises UsageError if it can't be made."""
        if self.recipe.optimizer == "muon":
            return self._muon()
        try:
            return super().create_optimizer(*arguments, **options)
        except (ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UsageError(f"the optimizer {self.args.optim} can't be made: {error}") from error

    def _muon(self) -> torch.optim.Optimizer:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise UsageError("muon takes steps of whole matrices, which are cut among processes here: use adamw")
        self.optimizer = MuonAdamW(
            self.model,
            decayed=self.get_decay_parameter_names(self.model),
            lr=self.args.learning_rate,
            weight_decay=self.args.weight_decay,
            betas=(self.args.adam_beta1, self.args.adam_beta2),
        )
        return self.optimizer

    def create_scheduler(self, *arguments: Any, **options: Any) -> Any:
        """The learning rate's course. Raises UsageError if it can't be made."""
        try:
            return super().create_scheduler(*arguments, **options)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"the scheduler {self.args.lr_scheduler_type} can't be made: {error}") from error

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:  # noqa: FBT001, FBT002
        """Save what learns, whole, however it is cut among processes."""
        with whole(self.accelerator.unwrap_model(self.model)):
            self._save(output_dir)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        if is_main():  # two processes would write one file
            states.unseal(folder)
            tensors.save(_detached(self.accelerator.unwrap_model(self.model)), folder / _STATE)
            self.losses.save(folder)
            self.best.put_into(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        learner = self.accelerator.unwrap_model(model or self.model)
        saved = load_file(Path(resume_from_checkpoint) / _STATE)
        if saved.keys() != learner.trained().keys():
            raise CheckpointError(
                f"{resume_from_checkpoint} holds other weights than this run trains: use --resume never"
            )
        _put(saved, learner)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """What else a state has to go on from, whatever it is that loads its weights."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        self.losses.load(Path(checkpoint))
        if is_main():
            self.best.take_from(Path(checkpoint))


class _Best:
    """The best weights so far, in a file beside the states. A state keeps those of its time: later ones may be lost."""

    def __init__(self, out: Path) -> None:
        self._file = out / BEST
        self._sha256: str | None = None
        """None in a process that has not written it."""

    def keep(self, weights: dict[str, Tensor]) -> None:
        """From now on these are the best."""
        tensors.save(weights, self._file)
        self._sha256 = file_sha256(self._file)

    def load(self) -> dict[str, Tensor]:
        """The best weights. Raises CheckpointError if they are not what was written."""
        if self._sha256 not in (None, file_sha256(self._file)):
            raise CheckpointError(f"{self._file} is not what was written: run the same command again")
        return load_file(self._file)

    def put_into(self, state: Path) -> None:
        """Have a state keep them, if there are any."""
        if self._file.exists():
            _link(self._file, state / BEST)

    def take_from(self, state: Path) -> None:
        """Go back to those of a state, if it has any."""
        self.drop()
        if (state / BEST).exists():
            _link(state / BEST, self._file)
            self._sha256 = file_sha256(self._file)

    def drop(self) -> None:
        """Forget those of an earlier run."""
        self._file.unlink(missing_ok=True)


class _Clock(TrainerCallback):
    """Times steps, from the first batch to the optimizer's end; comes before callbacks that take time."""

    def __init__(self) -> None:
        self._started = 0.0
        self._seconds: list[float] = []

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Start."""
        self._started = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Stop."""
        self._seconds.append(time.perf_counter() - self._started)

    @property
    def step_seconds(self) -> float | None:
        """Median, without the first step, which warms up."""
        return round(statistics.median(self._seconds[1:]), 4) if len(self._seconds) > 1 else None


class _Epochs(TrainerCallback):
    """Tells the rows' order which epoch begins: accelerate loses its way to it where several processes go on in one."""

    def __init__(self, order: RowOrder) -> None:
        self._order = order

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Choose the epoch's order."""
        self._order.set_epoch(int(state.epoch or 0))


class _RunKeeper(TrainerCallback):
    """Marks complete states, stops on SIGTERM and SIGINT with a state saved, and keeps the last few."""

    def __init__(self, out: Path, run: str, *, kept: int) -> None:
        self._out = out
        self._run = run
        self._kept = kept
        self.stopped = False
        self.stopped_early = False
        """Whether the run was stopped before its last step."""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT as a request to finish the step in hand, save and stop."""
        previous = {number: signal.signal(number, self._request_stop) for number in _STOPS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _request_stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stopped = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Act on a stop request; log the last step."""
        if state.global_step >= state.max_steps:
            control.should_log = True
        elif _any_rank(self.stopped):
            control.should_save = True
            control.should_training_stop = self.stopped_early = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Mark the state as complete, and only then drop older ones."""
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # every process has written its part
        if not is_main():
            return
        states.seal(self._out / f"checkpoint-{state.global_step}", run=self._run, processes=processes())
        for older in states.complete_states(self._out)[: -self._kept]:
            states.remove(older)


class _Validating(TrainerCallback):
    """Validates on schedule, logs what it found, warns of collapse, and keeps the best weights."""

    def __init__(self, trainer: StageTrainer, lesson: Lesson, keeper: _RunKeeper) -> None:
        self._trainer = trainer
        self._keeper = keeper
        self._validate = lesson.validate
        self._tell = lesson.tell
        self._rows = len(lesson.held_out)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Validate where it is due, always after the last step."""
        every = self._learner.recipe.validation_steps or max(1, state.max_steps // 10)
        ended = control.should_training_stop and not self._keeper.stopped_early  # a run that is resumed has not ended
        if state.global_step % every == 0 or state.global_step >= state.max_steps or ended:
            self._look(state, control)

    def _look(self, state: TrainerState, control: TrainerControl) -> None:
        with whole(self._learner):
            figures = self._validate()
        due = control.should_log
        self._trainer.log({f"{_VALIDATION}{name}": value for name, value in figures.items()})
        control.should_log = due  # logging takes it for done
        if takers(self._trainer.callback_handler.callbacks):
            with whole(self._learner):
                table = self._tell()
            for tell in takers(self._trainer.callback_handler.callbacks) if is_main() else ():
                tell(table, state.global_step)
        found = self._found(state)
        if kept(found, self._rows) is found[-1]:
            with whole(self._learner):
                if is_main():
                    self._trainer.best.keep(_detached(self._learner))
        if is_main():
            say(f"step {state.global_step}: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))
            for warning in warnings_of(figures):
                say(f"warning: {warning}")

    def take_best(self) -> dict[str, float]:
        """Put the best weights back; their figures."""
        state = self._trainer.state
        found = self._found(state)
        if not found or found[-1]["step"] < state.global_step:  # a callback ended an epoch and the run
            self._look(state, self._trainer.control)
            found = self._found(state)
        best = kept(found, self._rows)
        if best is not found[-1]:
            _put(self._trainer.best.load(), self._learner)
        return best

    @property
    def _learner(self) -> Learner | TextLearner:
        learner: Learner | TextLearner = self._trainer.accelerator.unwrap_model(self._trainer.model)
        return learner

    def _found(self, state: TrainerState) -> list[dict[str, float]]:
        """All figures so far, those of an earlier part of the run too, whose state has lost their order."""
        return [
            {name.removeprefix(_VALIDATION): entry[name] for name in sorted(entry) if name.startswith(_VALIDATION)}
            | {"step": entry["step"]}
            for entry in state.log_history
            if f"{_VALIDATION}accuracy" in entry
        ]


class _Progress(TrainerCallback):
    """A bar with rate and ETA on a terminal, a line a log elsewhere; on stderr, since stdout is for results."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Open the bar where the run starts, a resumed one included."""
        if not is_main():
            return
        self._bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", desc="train", disable=None)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(1)

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Show the losses."""
        shown = {name: logs[name] for name in _SHOWN if logs and name in logs}
        if not shown or self._bar is None:
            return
        if self._bar.disable:
            values = ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
            say(f"step {state.global_step} of {state.max_steps}: {values}")
        else:
            self._bar.set_postfix({name: f"{value:.4f}" for name, value in shown.items()})

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


def _arguments(out: Path, learner: Learner | TextLearner, report: Sequence[str], workers: int) -> TrainingArguments:
    recipe = learner.recipe
    device = learner.backbone.device.type
    return arguments(
        recipe,
        output_dir=str(out),
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.accumulate,
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps or -1,
        learning_rate=recipe.lr,
        weight_decay=recipe.weight_decay,
        adam_beta2=recipe.adam_beta2,
        max_grad_norm=recipe.max_grad_norm,
        lr_scheduler_type=recipe.scheduler,
        warmup_steps=recipe.warmup_steps,
        seed=recipe.seed,
        logging_steps=recipe.log_steps,
        save_strategy="steps" if recipe.save_steps else "no",
        save_steps=recipe.save_steps or 1,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        report_to=list(report) or "none",
        use_cpu=device == "cpu",
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        dataloader_pin_memory=device != "cpu",
        disable_tqdm=True,
    )


def _resume_from(out: Path, run: str, resume: str) -> str | None:
    """The state folder that --resume names: auto is the newest whole one, if any. Raises CheckpointError."""
    if resume == "never":
        if is_main():
            states.remove_all(out)
        return None
    if is_main():
        states.remove_incomplete(out)
    if resume == "auto":
        found = states.newest_whole(out, run=run, processes=processes(), aloud=is_main())
        return str(found) if found else None
    if not (Path(resume) / states.COMPLETE).exists():
        known = ", ".join(path.name for path in states.complete_states(out)) or "none"
        raise CheckpointError(f"{resume} is no complete training state; in {out} there are: {known}")
    states.check(Path(resume), run=run, processes=processes())
    return resume


def is_main() -> bool:
    """Whether this is the only process of a run, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def processes() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leave_group() -> None:
    """End this process's part in a run of several, cleanly; nothing where there is but one."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _any_rank(flag: bool) -> bool:  # noqa: FBT001
    """Whether any process of the run says so: all must agree on when to stop."""
    if not torch.distributed.is_initialized():
        return flag
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    said = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(said, op=torch.distributed.ReduceOp.MAX)
    return bool(said.item())


def _detached(learner: Learner | TextLearner) -> dict[str, Tensor]:
    """Copies of what learns, on the CPU."""
    return {name: value.detach().cpu().clone().contiguous() for name, value in learner.trained().items()}


def _put(saved: dict[str, Tensor], learner: Learner | TextLearner) -> None:
    trained = learner.trained()
    for name, value in saved.items():
        put(value, trained[name])


def _link(file: Path, to: Path) -> None:
    """Give a file a second name; a copy where the disk has one name a file."""
    to.unlink(missing_ok=True)
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)
