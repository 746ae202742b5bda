"""The two stages on transformers.Trainer: what is trained, the loss of a step, runs that can be stopped and resumed.

--out becomes the finished checkpoint (checkpoints.py). While a run lasts it holds run.json, what was asked for, and
checkpoint-STEP folders, the Trainer's own state; one counts only once its COMPLETE file is there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Sampler
from tqdm import tqdm
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from rotdata import hub
from rotdata.console import say
from rotdata.encoders import tower_sha256
from rotdata.errors import CheckpointError, Interrupted, OutputOccupied, ShardMismatch, TrainingError, UsageError
from rotdata.models import ModelFolder, find_model
from rotdata.shards import EmbeddingShards, locked, write_atomically
from rottrain import checkpoints
from rottrain.backbone import Backbone
from rottrain.batches import Collator, Example, GroupShuffle, ShardRows
from rottrain.checkpoints import CheckpointConfig
from rottrain.config import (
    LoraSettings,
    Stage1Config,
    Stage2Config,
    as_yaml,
    from_dict,
    what_decides,
)
from rottrain.glyphs import GlyphProbe
from rottrain.head import ProjectionHead
from rottrain.learner import Learner
from rottrain.precision import load_backbone
from rottrain.supply import Supply
from rottrain.validation import validate, warnings_of

RUN, RECIPE = "run.json", "recipe.yaml"
_COMPLETE = "COMPLETE"
_STATE = "trained.safetensors"
BEST, NOT_FINITE = "best.safetensors", "not-finite.json"
_VALIDATION = "validation_"
_SHOWN = ("loss", "alignment", "answer", "glyphs", "halt")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training command reports."""

    steps: int
    loss: float
    """Mean training loss of the last logged steps."""
    seconds: float
    checkpoint: str
    validation: dict[str, float] | None = None
    """Figures of the weights that were kept, on the rows held out."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do, from one step on the data that changed nothing."""

    rows: int
    validation_rows: int
    steps: int
    trainable_parameters: int
    parameters: int
    memory_gib: dict[str, float]
    """Of weights, gradients, Adam's two moments, and what the step's backward pass keeps."""
    step_seconds: float
    eta_seconds: float


@dataclass(frozen=True, kw_only=True)
class Running:
    """How a run is carried out; what is learnt does not depend on it, but for `limit`."""

    resume: str = "auto"
    """auto, never, or a checkpoint-STEP folder."""
    limit: int | None = None
    """Use no more than this many rows."""
    report_to: str = "none"
    """A tracker, as transformers names it."""


AS_USUAL = Running()


def run_stage1(shards: Path | str, model: str, out: Path, config: Stage1Config, running: Running = AS_USUAL) -> Outcome:
    """Train the projection head towards the shards' latents, in the paper's recipe on a frozen language model.

    `shards` is a folder, or a dataset of the Hub as `rotdata.hub.locate` takes it, which is then streamed.
    """
    return _run(_stage1(shards, model, config, running), out)


def plan_stage1(shards: Path | str, model: str, config: Stage1Config, running: Running = AS_USUAL) -> Plan:
    """What `run_stage1` would do."""
    return _plan(_stage1(shards, model, config, running))


def run_stage2(
    shards: Path | str, model: str, start: Path, out: Path, config: Stage2Config, running: Running = AS_USUAL
) -> Outcome:
    """Train the language model to answer from its own latents, from the stage-1 checkpoint `start` on."""
    return _run(_stage2(shards, model, start, config, running), out)


def plan_stage2(shards: Path | str, model: str, start: Path, config: Stage2Config, running: Running = AS_USUAL) -> Plan:
    """What `run_stage2` would do."""
    return _plan(_stage2(shards, model, start, config, running))


def _stage1(shards: Path | str, model: str, config: Stage1Config, running: Running) -> _Wanted:
    data, folder = _open(shards, model)

    def build() -> _Ready:
        set_seed(config.seed)
        backbone = load_backbone(folder, config.precision, trainable=config.trainable)
        head = ProjectionHead(
            width_in=backbone.width,
            width_out=data.width,
            hidden=config.head.hidden,
            activation=config.head.activation,
        ).to(backbone.device)
        supply = Supply.of(data, backbone, config, limit=running.limit)
        if config.scaling != "none":
            head.set_scale(*supply.scale(per_dimension=config.scaling == "dimension"))
        return _ready(backbone, head, config, supply, supply.probe(head))

    return _Wanted(stage="stage1", model=model, recipe=config, data=data, running=running, build=build)


def _stage2(shards: Path | str, model: str, start: Path, config: Stage2Config, running: Running) -> _Wanted:
    origin = checkpoints.load_config(start)
    if origin.stage != "stage1":
        raise CheckpointError(f"{start} is a {origin.stage} checkpoint: stage 2 starts --from one of stage 1")
    data, folder = _open(shards, model)
    encoding = data.manifest.encoding_fingerprint
    if origin.encoding != encoding:
        raise ShardMismatch(
            f"{start} was trained on latents of encoding {origin.encoding[:12]}, the shards in {shards} are of "
            f"{encoding[:12]}: use the shards that stage 1 used, or train stage 1 on these"
        )
    known = from_dict(LoraSettings, origin.run["recipe"]["lora"])
    if "adapter" in origin.learnt and config.trainable == "lora" and known != config.lora:
        raise UsageError(
            f"stage 2 goes on with the adapter of {start}, which has rank {known.rank}, alpha {known.alpha} and "
            f"dropout {known.dropout}: give the same ones, not {config.lora.rank}, {config.lora.alpha} and "
            f"{config.lora.dropout}"
        )
    head = checkpoints.load_head(start, origin)

    def build() -> _Ready:
        set_seed(config.seed)
        backbone = load_backbone(folder, config.precision, trainable=config.trainable)
        head.to(backbone.device)
        checkpoints.check_backbone(start, origin, backbone)
        checkpoints.load_learnt(start, origin, backbone, trainable=config.trainable == "lora")
        probe = checkpoints.load_probe(start, origin)
        supply = Supply.of(data, backbone, config, limit=running.limit, probe=probe)
        return _ready(backbone, head, config, supply, supply.probe(head))

    return _Wanted(
        stage="stage2",
        model=model,
        recipe=config,
        data=data,
        running=running,
        build=build,
        start=checkpoints.weights_sha256(start),
    )


class StageTrainer(Trainer):
    """Trainer that logs the loss's parts, shuffles row groups, and saves nothing that is frozen."""

    loss_is_scaled_for_ga = False  # losses are means over a batch

    def __init__(self, learner: Learner, rows: ShardRows, seed: int, arguments: TrainingArguments, **rest: Any) -> None:
        self._parts: dict[str, list[float]] = defaultdict(list)
        self._row_order = GroupShuffle(rows.group_sizes, seed=seed)
        super().__init__(model=learner, args=arguments, train_dataset=rows, **rest)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 -- the Trainer's signature
        num_items_in_batch: Tensor | int | None = None,  # noqa: ARG002
    ) -> Any:
        """The learner's loss; its parts are kept for the log. Raises TrainingError if it is not finite."""
        learner = self.accelerator.unwrap_model(model)
        learner.step = self.state.global_step
        learner.progress = self.state.global_step / max(1, self.state.max_steps)
        ids = inputs.pop("ids")
        try:
            outputs = model(**inputs)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{len(ids)} rows a step are too many for the memory of {learner.backbone.device}: lower --batch-size "
                "and raise --accumulate to match, or train with --precision mixed or bfloat16"
            ) from error
        loss = outputs["loss"]
        if not torch.isfinite(loss):
            file = Path(str(self.args.output_dir)) / NOT_FINITE
            content = {"step": self.state.global_step + 1, "loss": str(loss.item()), "ids": ids}
            write_atomically(file, (json.dumps(content, indent=2) + "\n").encode())
            raise TrainingError(
                f"the loss of step {self.state.global_step + 1} is {loss.item()}: lower --lr, or look at the rows "
                f"whose ids are in {file}"
            )
        for name, value in outputs.items():
            if name != "loss":
                self._parts[name].append(value.detach().item())
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of each part since the last log, over all processes."""
        if "loss" in logs and self._parts:
            means = torch.tensor([sum(values) / len(values) for values in self._parts.values()])
            means = self.accelerator.reduce(means.to(self.accelerator.device), "mean")
            logs |= dict(zip(self._parts, means.tolist(), strict=True))
            self._parts.clear()
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:  # noqa: ARG002
        return self._row_order

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        learner = self.accelerator.unwrap_model(self.model)
        save_file(_detached(learner), folder / _STATE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        learner = self.accelerator.unwrap_model(model or self.model)
        saved = load_file(Path(resume_from_checkpoint) / _STATE)
        if saved.keys() != learner.trained().keys():
            raise CheckpointError(
                f"{resume_from_checkpoint} holds other weights than this run trains: use --resume never"
            )
        _put(saved, learner)


class _RunKeeper(TrainerCallback):
    """Marks complete states, stops on SIGTERM and SIGINT with a state saved, and keeps the last two."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self.stopped = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT as a request to finish the step in hand, save and stop."""
        numbers = (signal.SIGTERM, signal.SIGINT)
        previous = {number: signal.signal(number, self._request_stop) for number in numbers}
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
            control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Mark the state as complete, and only then drop older ones."""
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # every process has written its part
        if not is_main():
            return
        folder = self._out / f"checkpoint-{state.global_step}"
        for file in folder.iterdir():
            _sync(file)
        write_atomically(folder / _COMPLETE, b"")
        for older in complete_states(self._out)[:-2]:
            shutil.rmtree(older)


class _Validating(TrainerCallback):
    """Validates on schedule, logs what it found, warns of collapse, and keeps the best weights."""

    def __init__(self, trainer: StageTrainer, held_out: list[Example], out: Path) -> None:
        self._trainer = trainer
        self._held_out = held_out
        self._best = out / BEST

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Validate where it is due, always after the last step."""
        learner = self._learner
        every = learner.recipe.validation_steps or max(1, state.max_steps // 10)
        if not self._held_out or (state.global_step % every and state.global_step < state.max_steps):
            return
        figures = validate(learner, self._held_out)
        due = control.should_log
        self._trainer.log({f"{_VALIDATION}{name}": value for name, value in figures.items()})
        control.should_log = due  # logging takes it for done
        if is_main():
            say(f"step {state.global_step}: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))
            for warning in warnings_of(figures):
                say(f"warning: {warning}")
            if _rank(figures) >= max(map(_rank, self._found(state))):
                save_file(_detached(learner), self._best)

    def take_best(self) -> dict[str, float] | None:
        """Put the best weights back; their figures, if there was validation."""
        found = self._found(self._trainer.state)
        if not found:
            return None
        best = max(reversed(found), key=_rank)
        if best is not found[-1]:
            _put(load_file(self._best), self._learner)
        return best

    @property
    def _learner(self) -> Learner:
        learner: Learner = self._trainer.accelerator.unwrap_model(self._trainer.model)
        return learner

    def _found(self, state: TrainerState) -> list[dict[str, float]]:
        """All figures so far, those of an earlier part of the run too."""
        return [
            {name.removeprefix(_VALIDATION): value for name, value in entry.items() if name.startswith(_VALIDATION)}
            | {"step": entry["step"]}
            for entry in state.log_history
            if f"{_VALIDATION}accuracy" in entry
        ]


def _rank(figures: dict[str, float]) -> tuple[float, float]:
    """Better weights are greater: by accuracy, then by how close the latents are to the strips'."""
    return figures["accuracy"], -figures["alignment_free"]


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


def complete_states(out: Path) -> list[Path]:
    """Folders of `out` that a run can resume from, oldest first."""
    found = [path.parent for path in out.glob(f"checkpoint-*/{_COMPLETE}")]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What a run was asked for."""

    stage: checkpoints.Stage
    model: str
    recipe: Stage1Config | Stage2Config
    data: EmbeddingShards
    running: Running
    build: Callable[[], _Ready]
    """Loads the model and what it learns from."""
    start: str | None = None
    """SHA-256 of the weights it starts from."""

    def identity(self) -> dict[str, Any]:
        """What a run must share with an earlier one in the same folder to continue it."""
        return {
            "stage": self.stage,
            "model": self.model,
            "shards": self.data.manifest.fingerprint,
            "limit": self.running.limit,
            "start": self.start,
            "recipe": what_decides(self.recipe),
        }


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """What a run trains, and on what."""

    learner: Learner
    supply: Supply


def _ready(
    backbone: Backbone,
    head: ProjectionHead,
    recipe: Stage1Config | Stage2Config,
    supply: Supply,
    probe: GlyphProbe | None,
) -> _Ready:
    """Give the language model what learns of it."""
    if recipe.trainable == "lora":
        if backbone.adapter is None:
            backbone.add_adapter(recipe.lora, train_tokens=recipe.train_tokens)
    else:
        if backbone.adapter is not None:
            backbone.merge_adapter()
        if recipe.trainable in ("full", "lm-head"):
            backbone.train_language(head_only=recipe.trainable == "lm-head")
    return _Ready(learner=Learner(backbone, head, recipe, probe), supply=supply)


def _run(wanted: _Wanted, out: Path) -> Outcome:
    """Train until the end, or until told to stop, and write the finished checkpoint."""
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with locked(out) if is_main() else nullcontext():
        identity = wanted.identity()
        if _claim(out, identity):
            result = checkpoints.load_config(out).result
        else:
            ready = wanted.build()
            result = _train(ready, wanted, out)
            if is_main():
                _save(ready, wanted, out, result)
        if is_main():
            for state in out.glob("checkpoint-*"):  # also what a run that was killed right here has left
                shutil.rmtree(state)
            for name in (RUN, BEST, NOT_FINITE):
                (out / name).unlink(missing_ok=True)
    return Outcome(**result, seconds=round(time.monotonic() - started, 3), checkpoint=str(out))


def _plan(wanted: _Wanted) -> Plan:
    """Take one step on the first rows, twice, and look at what it takes."""
    ready = wanted.build()
    learner, recipe = ready.learner.train(), wanted.recipe
    device = learner.backbone.device
    rows = [ready.supply.rows[index] for index in range(min(recipe.batch_size, len(ready.supply.rows)))]
    batch = Collator(learner.backbone.pad_id)(rows)
    moved: Any = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    learner.progress = 1.0  # late steps take longest
    kept: dict[int, int] = {}
    seconds = 0.0
    for _ in range(2):  # the first one warms up
        kept.clear()
        started = time.monotonic()
        with torch.autograd.graph.saved_tensors_hooks(_noting(kept), lambda saved: saved):
            learner(**moved)["loss"].backward()
        learner.zero_grad(set_to_none=True)
        seconds = time.monotonic() - started
    weights = {value.data_ptr(): value for value in learner.parameters()}
    trained = list(learner.trained().values())
    gradients = sum(value.nbytes for value in trained)
    memory = {
        "weights": sum(value.nbytes for value in weights.values()),
        "gradients": gradients,
        "optimizer": 2 * gradients,
        "activations": sum(size for place, size in kept.items() if place not in weights),
    }
    an_epoch = -(-len(ready.supply.rows) // (recipe.batch_size * recipe.accumulate))
    steps = recipe.max_steps or round(an_epoch * recipe.epochs)
    return Plan(
        rows=len(ready.supply.rows),
        validation_rows=len(ready.supply.held_out),
        steps=steps,
        trainable_parameters=sum(value.numel() for value in trained),
        parameters=sum(value.numel() for value in weights.values()),
        memory_gib={name: round(size / 2**30, 3) for name, size in memory.items()},
        step_seconds=round(seconds, 3),
        eta_seconds=round(seconds * recipe.accumulate * steps, 1),
    )


def _noting(kept: dict[int, int]) -> Callable[[Tensor], Tensor]:
    """Notes the memory of each tensor that a backward pass keeps, once."""

    def note(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return saved

    return note


def _save(ready: _Ready, wanted: _Wanted, out: Path, result: dict[str, Any]) -> None:
    """Write the finished checkpoint."""
    learner, manifest = ready.learner, wanted.data.manifest
    head, backbone, probe = learner.head, learner.backbone, learner.probe
    config = CheckpointConfig(
        stage=wanted.stage,
        model=wanted.model,
        encoder=manifest.encoder or {},
        style=manifest.style,
        encoding=manifest.encoding_fingerprint,
        prompt=backbone.prompt,
        head={
            "width_in": head.width_in,
            "width_out": head.width_out,
            "hidden": head.hidden,
            "activation": head.activation,
        },
        run=wanted.identity(),
        result=result,
        learnt=[
            name
            for name, has in (("language", backbone.trains_language), ("adapter", backbone.adapter is not None))
            if has
        ],
        budget=wanted.recipe.budget,
        alphabet={"characters": probe.alphabet.characters, "slots": probe.alphabet.slots} if probe else None,
    )
    write_atomically(out / RECIPE, as_yaml(wanted.recipe).encode())
    checkpoints.save(out, config, head, backbone, probe)


def _train(ready: _Ready, wanted: _Wanted, out: Path) -> dict[str, Any]:
    """Run the Trainer: steps done, the mean loss of the last logged steps, the last validation. Raises Interrupted."""
    learner, supply = ready.learner, ready.supply
    keeper = _RunKeeper(out)
    trainer = StageTrainer(
        learner,
        supply.rows,
        learner.recipe.seed,
        _arguments(out, learner, wanted.running.report_to),
        data_collator=Collator(learner.backbone.pad_id),
        callbacks=[keeper, _Progress()],
    )
    validating = _Validating(trainer, supply.held_out, out)
    trainer.add_callback(validating)
    trainer.remove_callback(PrinterCallback)  # it prints on stdout
    with keeper.listening():
        trainer.train(resume_from_checkpoint=_resume_from(out, wanted.running.resume))
    state = trainer.state
    if state.global_step < state.max_steps:
        raise Interrupted(f"stopped at step {state.global_step} of {state.max_steps}; the same command resumes {out}")
    validation = validating.take_best()
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    return {"steps": state.global_step, "loss": losses[-1], "validation": validation}


def _claim(out: Path, identity: dict[str, Any]) -> bool:
    """Whether `out` holds this very run, finished. Raises OutputOccupied if it holds something else."""
    finished, running = out / checkpoints.CONFIG, out / RUN
    if finished.exists():
        earlier = checkpoints.load_config(out).run
    elif running.exists():
        earlier = json.loads(running.read_text())
    elif any(out.iterdir()):
        raise OutputOccupied(f"{out} holds files that are no training run: choose an empty or new folder for --out")
    else:
        if is_main():
            write_atomically(running, (json.dumps(identity, indent=2) + "\n").encode())
        return False
    if earlier != json.loads(json.dumps(identity)):
        changed = sorted(name for name in identity if earlier.get(name) != identity[name])
        raise OutputOccupied(f"{out} holds a run with another {', '.join(changed)}: choose another --out")
    return finished.exists()


def _arguments(out: Path, learner: Learner, report: str) -> TrainingArguments:
    recipe = learner.recipe
    return TrainingArguments(
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
        report_to=report,
        use_cpu=learner.backbone.device.type == "cpu",
        dataloader_pin_memory=learner.backbone.device.type != "cpu",
        disable_tqdm=True,
    )


def _resume_from(out: Path, resume: str) -> str | None:
    """The state folder that --resume names: auto is the newest complete one, if any."""
    states = complete_states(out)
    if resume == "never":
        for state in out.glob("checkpoint-*") if is_main() else ():
            shutil.rmtree(state)
        return None
    if resume == "auto":
        return str(states[-1]) if states else None
    if not (Path(resume) / _COMPLETE).exists():
        known = ", ".join(path.name for path in states) or "none"
        raise CheckpointError(f"{resume} is no complete training state; in {out} there are: {known}")
    return resume


def _open(shards: Path | str, model: str) -> tuple[EmbeddingShards, ModelFolder]:
    """Shards and model folder, refused if the shards were not made by this very model's tower."""
    data = EmbeddingShards(hub.locate(shards) if isinstance(shards, str) else shards)
    folder = find_model(model)
    width = folder.config().get("text_config", {}).get("hidden_size")
    encoder = data.manifest.encoder or {}
    remedy = f"embed the strips again with `rotdata embed --model {model}`, or train the model that made them"
    if width != data.width:
        raise ShardMismatch(
            f"the shards in {shards} have D={data.width} (made by {encoder.get('model')}), {model} has {width}: "
            f"{remedy}"
        )
    tower = tower_sha256(folder)
    if tower != encoder.get("tower_sha256"):
        raise ShardMismatch(
            f"the shards in {shards} were made by a vision tower {str(encoder.get('tower_sha256'))[:12]} "
            f"({encoder.get('model')}), {model} has {tower[:12]}: {remedy}"
        )
    return data, folder


def is_main() -> bool:
    """Whether this is the only process of a run, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


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


def _detached(learner: Learner) -> dict[str, Tensor]:
    """Copies of what learns, on the CPU."""
    return {name: value.detach().cpu().clone().contiguous() for name, value in learner.trained().items()}


@torch.no_grad()
def _put(saved: dict[str, Tensor], learner: Learner) -> None:
    trained = learner.trained()
    for name, value in saved.items():
        trained[name].copy_(value)


def _sync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
