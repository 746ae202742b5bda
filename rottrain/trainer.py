"""The two stages on transformers.Trainer: what is trained, the loss of a step, runs that can be stopped and resumed.

--out becomes the finished checkpoint (checkpoints.py). While a run lasts it holds run.json, what was asked for, and
checkpoint-STEP folders, the Trainer's own state; one counts only once its COMPLETE file is there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
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
from rotdata.errors import CheckpointError, Interrupted, OutputOccupied, ShardMismatch, TrainingError
from rotdata.models import ModelFolder, find_model
from rotdata.shards import EmbeddingShards, locked, write_atomically
from rottrain import checkpoints, rollout
from rottrain.backbone import Backbone
from rottrain.batches import Batch, Collator, GroupShuffle, ShardRows
from rottrain.checkpoints import CheckpointConfig
from rottrain.config import Precision, Stage1Config, Stage2Config
from rottrain.head import ProjectionHead
from rottrain.losses import alignment_loss, answer_loss

RUN = "run.json"
_COMPLETE = "COMPLETE"
_STATE = "trained.safetensors"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training command reports."""

    steps: int
    loss: float
    """Mean training loss of the last logged steps."""
    seconds: float
    checkpoint: str


def run_stage1(
    shards: Path | str, model: str, out: Path, config: Stage1Config, *, resume: str = "auto", limit: int | None = None
) -> Outcome:
    """Train the projection head on frozen language model and frozen targets.

    `shards` is a folder, or a dataset of the Hub as `rotdata.hub.locate` takes it, which is then streamed.
    """
    data, folder = _open(shards, model)
    set_seed(config.seed)
    backbone = load_backbone(folder, config.precision)
    head = ProjectionHead(
        width_in=backbone.width,
        width_out=data.width,
        hidden=config.head.hidden,
        activation=config.head.activation,
    ).to(backbone.device)
    learner = Stage1(backbone, head, config)
    return _run("stage1", learner, data, model, out, resume=resume, limit=limit, start=None)


def run_stage2(
    shards: Path | str,
    model: str,
    start: Path,
    out: Path,
    config: Stage2Config,
    *,
    resume: str = "auto",
    limit: int | None = None,
) -> Outcome:
    """Train LoRA on the language model with the head of the stage-1 checkpoint `start` frozen."""
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
    set_seed(config.seed)
    backbone = load_backbone(folder, config.precision)
    checkpoints.check_backbone(start, origin, backbone)
    head = checkpoints.load_head(start, origin).to(backbone.device).requires_grad_(requires_grad=False)
    backbone.add_adapter(config.lora, train_tokens=config.train_tokens)
    learner = Stage2(backbone, head, config)
    return _run("stage2", learner, data, model, out, resume=resume, limit=limit, start=checkpoints.head_sha256(start))


class Learner(nn.Module):
    """Backbone and head as one module, whose forward pass is a training step's loss and its parts."""

    accepts_loss_kwargs = False  # the loss is a mean over the batch

    def __init__(self, backbone: Backbone, head: ProjectionHead, recipe: Stage1Config | Stage2Config) -> None:
        super().__init__()
        self.backbone = backbone
        self.language = backbone.model
        self.head = head
        self.recipe = recipe

    def rollout_gradient(self) -> rollout.Gradient:
        """What the latents are differentiable in."""
        raise NotImplementedError

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Roll out, compare with the targets, answer: loss, and its parts alignment and answer."""
        tensors: Batch = batch  # type: ignore[assignment]  # the collator made it
        gradient, targets_BKD = self.rollout_gradient(), tensors["targets_BKD"]
        prompt = rollout.read_prompt(
            self.backbone, tensors["prompt_ids_BP"], tensors["prompt_mask_BP"], gradient=gradient
        )
        if self.recipe.rollout == "student":
            steps = targets_BKD.shape[1]
            latents_BKD = rollout.unroll(self.backbone, self.head, prompt, steps, gradient=gradient).latents_BKD
        else:
            latents_BKD = rollout.sweep(self.backbone, self.head, prompt, targets_BKD, gradient=gradient)
        alignment = alignment_loss(
            latents_BKD, targets_BKD, tensors["targets_mask_BK"], reduction=self.recipe.align_reduction
        )
        logits, labels = rollout.answer_pass(self.backbone, prompt, tensors, latents_BKD)
        answer = answer_loss(logits, labels)
        loss = self.recipe.align_weight * alignment + self.recipe.answer_weight * answer
        return {"loss": loss, "alignment": alignment, "answer": answer}

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}


class Stage1(Learner):
    """Only the head learns; the language model, and so its dropout, stays as in inference."""

    def rollout_gradient(self) -> rollout.Gradient:
        """Fed-back latents are detached and the language model is frozen: only the head sees a gradient."""
        return "head"

    def train(self, mode: bool = True) -> Stage1:  # noqa: FBT001, FBT002 -- torch's signature
        """Put the head alone into training mode."""
        super().train(mode)
        self.language.eval()
        return self


class Stage2(Learner):
    """The adapter learns; the head is frozen but passes gradients on."""

    def rollout_gradient(self) -> rollout.Gradient:
        """Through the cache of earlier latents, as in the reference, or at each step alone."""
        assert isinstance(self.recipe, Stage2Config)
        return "through-cache" if self.recipe.cache_gradient else "own-step"


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
        outputs = model(**inputs)
        loss = outputs["loss"]
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss of step {self.state.global_step + 1} is {loss.item()}: lower --lr, or look for rows with "
                "extreme values with `rotdata verify`"
            )
        for name in ("alignment", "answer"):
            self._parts[name].append(outputs[name].detach().item())
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of each part since the last log."""
        if "loss" in logs:
            logs |= {name: sum(values) / len(values) for name, values in self._parts.items() if values}
            self._parts.clear()
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:  # noqa: ARG002
        return self._row_order

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        learner = self.accelerator.unwrap_model(self.model)
        trained = {name: value.detach().cpu().contiguous() for name, value in learner.trained().items()}
        save_file(trained, folder / _STATE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        learner = self.accelerator.unwrap_model(model or self.model)
        saved = load_file(Path(resume_from_checkpoint) / _STATE)
        trained = learner.trained()
        if saved.keys() != trained.keys():
            raise CheckpointError(
                f"{resume_from_checkpoint} holds other weights than this run trains: use --resume never"
            )
        with torch.no_grad():
            for name, value in saved.items():
                trained[name].copy_(value)


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
        elif self.stopped:
            control.should_save = True
            control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Mark the state as complete, and only then drop older ones."""
        folder = self._out / f"checkpoint-{state.global_step}"
        for file in folder.iterdir():
            _sync(file)
        write_atomically(folder / _COMPLETE, b"")
        for older in complete_states(self._out)[:-2]:
            shutil.rmtree(older)


class _Progress(TrainerCallback):
    """A bar with rate and ETA on a terminal, a line a log elsewhere; on stderr, since stdout is for results."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Open the bar where the run starts, a resumed one included."""
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
        shown = {name: logs[name] for name in ("loss", "alignment", "answer") if logs and name in logs}
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


def _run(
    stage: checkpoints.Stage,
    learner: Learner,
    data: EmbeddingShards,
    model: str,
    out: Path,
    *,
    resume: str,
    limit: int | None,
    start: str | None,
) -> Outcome:
    """Train until the end, or until told to stop, and write the finished checkpoint."""
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        identity = _identity(stage, learner, data, model, limit=limit, start=start)
        if _claim(out, identity):
            result = checkpoints.load_config(out).result
        else:
            result = _train(learner, data, out, resume=resume, limit=limit)
            config = CheckpointConfig(
                stage=stage,
                model=model,
                encoder=data.manifest.encoder or {},
                style=data.manifest.style,
                encoding=data.manifest.encoding_fingerprint,
                prompt=learner.backbone.prompt,
                head={
                    "width_in": learner.head.width_in,
                    "width_out": learner.head.width_out,
                    "hidden": learner.head.hidden,
                    "activation": learner.head.activation,
                },
                run=identity,
                result=result,
            )
            checkpoints.save(out, config, learner.head, learner.backbone)
        for state in out.glob("checkpoint-*"):  # also what a run that was killed right here has left
            shutil.rmtree(state)
        (out / RUN).unlink(missing_ok=True)
    return Outcome(**result, seconds=round(time.monotonic() - started, 3), checkpoint=str(out))


def _train(learner: Learner, data: EmbeddingShards, out: Path, *, resume: str, limit: int | None) -> dict[str, Any]:
    """Run the Trainer: steps done and the mean loss of the last logged steps. Raises Interrupted."""
    rows = ShardRows(data, learner.backbone, limit=limit)
    if not len(rows):
        raise ShardMismatch(f"{data.folder} holds no rows to train on")
    keeper = _RunKeeper(out)
    trainer = StageTrainer(
        learner,
        rows,
        learner.recipe.seed,
        _arguments(out, learner),
        data_collator=Collator(learner.backbone.pad_id),
        callbacks=[keeper, _Progress()],
    )
    trainer.remove_callback(PrinterCallback)  # it prints on stdout
    with keeper.listening():
        trainer.train(resume_from_checkpoint=_resume_from(out, resume))
    state = trainer.state
    if state.global_step < state.max_steps:
        raise Interrupted(f"stopped at step {state.global_step} of {state.max_steps}; the same command resumes {out}")
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    return {"steps": state.global_step, "loss": losses[-1]}


def _identity(
    stage: checkpoints.Stage,
    learner: Learner,
    data: EmbeddingShards,
    model: str,
    *,
    limit: int | None,
    start: str | None,
) -> dict[str, Any]:
    """What a run must share with an earlier one in the same folder to continue it."""
    recipe = dataclasses.asdict(learner.recipe)
    for name in ("save_steps", "log_steps"):  # they change nothing that is learnt
        recipe.pop(name)
    return {
        "stage": stage,
        "model": model,
        "shards": data.manifest.fingerprint,
        "limit": limit,
        "start": start,
        "recipe": recipe,
    }


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
        write_atomically(running, (json.dumps(identity, indent=2) + "\n").encode())
        return False
    if earlier != json.loads(json.dumps(identity)):
        changed = sorted(name for name in identity if earlier.get(name) != identity[name])
        raise OutputOccupied(f"{out} holds a run with another {', '.join(changed)}: choose another --out")
    return finished.exists()


def _arguments(out: Path, learner: Learner) -> TrainingArguments:
    recipe = learner.recipe
    return TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.accumulate,
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps or -1,
        learning_rate=recipe.lr,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        lr_scheduler_type=recipe.scheduler,
        warmup_steps=recipe.warmup_steps,
        seed=recipe.seed,
        logging_steps=recipe.log_steps,
        save_strategy="steps" if recipe.save_steps else "no",
        save_steps=recipe.save_steps or 1,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=learner.backbone.device.type == "cpu",
        dataloader_pin_memory=learner.backbone.device.type != "cpu",
        disable_tqdm=True,
    )


def _resume_from(out: Path, resume: str) -> str | None:
    """The state folder that --resume names: auto is the newest complete one, if any."""
    states = complete_states(out)
    if resume == "never":
        for state in out.glob("checkpoint-*"):
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


def load_backbone(folder: ModelFolder, precision: Precision) -> Backbone:
    """The base model on the GPU if there is one, in the precision asked for."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(
        precision, torch.float32 if device == "cpu" else torch.bfloat16
    )
    return Backbone.load(folder, dtype=dtype, device=device)


def _sync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
