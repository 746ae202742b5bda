"""What the commands train, on what and from what: both latent stages, and fine-tuning in words beside them.

--out becomes the finished checkpoint (checkpoints.py). While a run lasts it holds run.json, what was asked for, and
what the loop keeps there (trainer.py).
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from transformers import TrainerCallback, set_seed

from rotdata import hub
from rotdata.console import say
from rotdata.encoders import tower_hashes
from rotdata.encoders.models import ModelFolder, find_model
from rotdata.errors import OutputOccupied, ShardMismatch, UsageError
from rotdata.shards import EmbeddingShards, is_leftover, locked, remove_leftovers, write_atomically
from rottrain import records
from rottrain.config import (
    DEFAULT_RECIPE,
    LatentConfig,
    Recipe,
    SftConfig,
    Stage1Config,
    Stage2Config,
    TrainConfig,
    as_yaml,
    rollout_phases,
    what_decides,
)
from rottrain.data.batches import Collator, ShardRows
from rottrain.data.rows import RowOrder, Selection, hold_out, parse_weighted
from rottrain.data.training_set import Supply, lengths_of
from rottrain.metrics import scoring
from rottrain.model import checkpoints, tensors
from rottrain.model.backbone import Backbone
from rottrain.model.checkpoints import CheckpointConfig, Learnt, Letters
from rottrain.model.head import ProjectionHead
from rottrain.model.precision import load_backbone, precision_of
from rottrain.training import states, trainer
from rottrain.training.arguments import COMPILER, LIGER, settled
from rottrain.training.hidden_states import HiddenStates, KnownRows
from rottrain.training.history import HISTORY
from rottrain.training.muon import matrices_of
from rottrain.training.objective import Learner
from rottrain.training.origin import Origin
from rottrain.training.own_loss import Loss, named
from rottrain.training.publishing import Publisher
from rottrain.training.sft import TextCollator, TextLearner, TextRows
from rottrain.training.trackers import ROWS, trackers
from rottrain.training.trainer import BEST, NOT_FINITE, Lesson, is_main
from rottrain.training.validation import tell, tell_text, validate, validate_text

RUN, RECIPE = "run.json", "recipe.yaml"


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a run went on this machine."""

    device: str
    precision: str
    step_seconds: float | None
    """Median of the steps after the first one."""
    peak_memory_gib: float
    """Of the GPU's memory in tensors; on a CPU, of the process."""


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
    ran: Ran | None = None
    """None where an earlier run had finished it."""
    url: str | None = None
    """Where it was pushed to."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do, from one step on the data that changed nothing."""

    rows: int
    validation_rows: int
    steps: int
    trainable_parameters: int
    parameters: int
    memory_gib: dict[str, float]
    """Of weights, gradients, the optimizer's moments, and what the step's backward pass keeps."""
    step_seconds: float
    eta_seconds: float


@dataclass(frozen=True, kw_only=True)
class Running:
    """How a run is carried out; what is learnt does not depend on it, but for `limit`."""

    resume: str = "auto"
    """auto, never, or a checkpoint-STEP folder."""
    limit: int | None = None
    """Use no more than this many rows of each folder."""
    workers: int = 0
    """Processes that read and tokenise rows ahead of each training process; 0: it does so itself."""
    cache_hidden: Path | None = None
    """Where stage 1 keeps hidden states of a frozen language model under teacher forcing."""
    report_to: str = "none"
    """Trackers, as transformers names them, with commas between them."""
    push_to_hub: str | None = None
    """OWNER/NAME of a model of the Hub, where states are kept as they are saved, and at the end what was made."""
    hub_private: bool = False
    """Whether that model, if it is new, is private."""
    callbacks: Sequence[TrainerCallback] = ()
    """Of the caller's own, for the Trainer; what they change is not recorded."""
    loss: Loss | None = None
    """The caller's own loss, from the parts of the recipe's. It does decide what is learnt, and is recorded."""

    def __post_init__(self) -> None:
        """Raise UsageError for a tracker that is not installed, and for callbacks that are none."""
        if strange := [each for each in self.callbacks if not isinstance(each, TrainerCallback)]:
            raise UsageError(f"callbacks are transformers.TrainerCallback objects, got {strange[0]!r:.80}")
        trackers(self.report_to)


AS_USUAL = Running()

Shards = Path | str | Sequence[Path | str]
"""A folder; a folder or a dataset of the Hub (which is streamed) as `hub.locate` takes it, with :WEIGHT after it if
wanted; or several of them."""


def run_stage1(
    shards: Shards,
    model: str,
    out: Path,
    config: Stage1Config,
    running: Running = AS_USUAL,
    *,
    start: Path | None = None,
) -> Outcome:
    """Train the projection head towards the shards' latents, in the paper's recipe on a frozen language model.

    The language model is the base model, or what the checkpoint `start` of `run_sft` or `run_stage1` has made of it.
    """
    return _run(_stage1(shards, model, config, running, start), out)


def plan_stage1(
    shards: Shards, model: str, config: Stage1Config, running: Running = AS_USUAL, *, start: Path | None = None
) -> Plan:
    """What `run_stage1` would do."""
    return _plan(_stage1(shards, model, config, replace(running, cache_hidden=None), start))


def run_stage2(
    shards: Shards, model: str, start: Path, out: Path, config: Stage2Config, running: Running = AS_USUAL
) -> Outcome:
    """Train the language model to answer from its own latents, from the stage-1 checkpoint `start` on."""
    return _run(_stage2(shards, model, start, config, running), out)


def plan_stage2(shards: Shards, model: str, start: Path, config: Stage2Config, running: Running = AS_USUAL) -> Plan:
    """What `run_stage2` would do."""
    return _plan(_stage2(shards, model, start, config, running))


def run_sft(shards: Shards, model: str, out: Path, config: SftConfig, running: Running = AS_USUAL) -> Outcome:
    """Train the base model on the shards' texts; which tower made their latents does not matter."""
    return _run(_sft(shards, model, config, running), out)


def plan_sft(shards: Shards, model: str, config: SftConfig, running: Running = AS_USUAL) -> Plan:
    """What `run_sft` would do."""
    return _plan(_sft(shards, model, config, running))


def _stage1(shards: Shards, model: str, config: Stage1Config, running: Running, start: Path | None) -> _Wanted:
    config = settled(config)
    selections, folder = _select(shards, running.limit), find_model(model)
    _check_origin(selections, folder, model)
    if running.cache_hidden is not None:
        _check_states_stay(config)
    origin = None if start is None else Origin.of(start, selections, config, ("sft", "stage1"))
    known = None if origin is None else origin.head(config)

    def build() -> Lesson:
        set_seed(config.seed)
        backbone = _loaded(folder, config)
        if origin is not None:
            origin.put_on(backbone, config)
        head = known or ProjectionHead(
            width_in=backbone.width,
            width_out=selections[0].shards.width,
            hidden=config.head.hidden,
            activation=config.head.activation,
        )
        head.to(backbone.device)
        supply = Supply.of(selections, backbone, config, probe=None if origin is None else origin.probe())
        if known is None and config.scaling != "none":
            head.set_scale(*supply.scale(per_dimension=config.scaling == "dimension"))
        return _latent_lesson(backbone, head, config, supply, running.cache_hidden)

    return _Wanted(
        stage="stage1",
        model=model,
        recipe=config,
        selections=selections,
        running=running,
        build=build,
        start=None if start is None else checkpoints.weights_sha256(start),
    )


def _stage2(shards: Shards, model: str, start: Path, config: Stage2Config, running: Running) -> _Wanted:
    config = settled(config)
    selections, folder = _select(shards, running.limit), find_model(model)
    _check_origin(selections, folder, model)
    origin = Origin.of(start, selections, config, ("stage1",))
    head = checkpoints.load_head(start, origin.config)

    def build() -> Lesson:
        set_seed(config.seed)
        backbone = _loaded(folder, config)
        origin.put_on(backbone, config)
        head.to(backbone.device)
        supply = Supply.of(selections, backbone, config, probe=origin.probe())
        return _latent_lesson(backbone, head, config, supply)

    return _Wanted(
        stage="stage2",
        model=model,
        recipe=config,
        selections=selections,
        running=running,
        build=build,
        start=checkpoints.weights_sha256(start),
    )


def _sft(shards: Shards, model: str, config: SftConfig, running: Running) -> _Wanted:
    config = settled(config)
    selections, folder = _select(shards, running.limit), find_model(model)

    def build() -> Lesson:
        set_seed(config.seed)
        backbone = _loaded(folder, config)
        kept, last = hold_out(selections, config.validation_rows)
        held_out = TextRows(last, backbone, config.mode)
        examples = [held_out[index] for index in range(len(held_out))]
        _let_learn(backbone, config, train_tokens=False)
        learner = TextLearner(backbone, config)
        rows = TextRows(kept, backbone, config.mode)
        return Lesson(
            learner=learner,
            rows=rows,
            order=_order(kept, config, rows),
            collate=TextCollator(backbone.pad_id),
            held_out=examples,
            validate=lambda: validate_text(learner, examples, kind=_kind_of_answers(selections)),
            tell=lambda: tell_text(learner, examples, ROWS),
        )

    return _Wanted(stage="sft", model=model, recipe=config, selections=selections, running=running, build=build)


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What a run was asked for."""

    stage: checkpoints.Stage
    model: str
    recipe: Stage1Config | Stage2Config | SftConfig
    selections: list[Selection]
    running: Running
    build: Callable[[], Lesson]
    """Loads the model and what it learns from."""
    start: str | None = None
    """SHA-256 of the weights it starts from."""

    def request(self) -> checkpoints.Request:
        """What a run must share with an earlier one in the same folder to continue it."""
        shards = [(each.shards.manifest.fingerprint, each.weight) for each in self.selections]
        loss = {} if self.running.loss is None else {"loss": named(self.running.loss)}
        return checkpoints.Request(
            stage=self.stage,
            model=self.model,
            shards=shards[0][0] if shards == [(shards[0][0], 1.0)] else shards,
            limit=self.running.limit,
            start=self.start,
            recipe=what_decides(self.recipe) | loss,
        )


def _latent_lesson(
    backbone: Backbone,
    head: ProjectionHead,
    recipe: Stage1Config | Stage2Config,
    supply: Supply,
    cache_hidden: Path | None = None,
) -> Lesson:
    """What a latent stage trains, and on what."""
    probe = supply.probe(head)
    _let_learn(backbone, recipe, train_tokens=recipe.train_tokens)
    states = HiddenStates(cache_hidden, supply.selections, backbone, supply.shape) if cache_hidden else None
    book = supply.book(quiet=not is_main())
    learner = Learner(backbone, head, recipe, probe, states, None if book is None else book.to(backbone.device))
    return Lesson(
        learner=learner,
        rows=KnownRows(supply.rows, states) if states else supply.rows,
        order=_order(supply.selections, recipe, supply.rows),
        collate=Collator(backbone.pad_id),
        held_out=supply.held_out,
        validate=lambda: validate(learner, supply.held_out),
        tell=lambda: tell(learner, supply.held_out[:ROWS]),
    )


def _check_states_stay(config: Stage1Config) -> None:
    """Raise UsageError unless hidden states are the same in every epoch."""
    forced = all(phase.sweeps == (0, 0) for phase in rollout_phases(config.rollout))
    if config.trainable != "head" or not forced or config.input_noise or config.misread:
        raise UsageError(
            "--cache-hidden is for a frozen language model that reads true latents: it takes --trainable head, "
            f"--rollout teacher, --input-noise 0 and no misreading, not {config.trainable}, {config.rollout}, "
            f"{config.input_noise} and {config.misread:g}"
        )


def _order(selections: Sequence[Selection], recipe: TrainConfig, rows: ShardRows | TextRows) -> RowOrder:
    """How an epoch goes through the rows."""
    lengths_N = rows.lengths() if recipe.group_by_length else None
    step_rows = recipe.batch_size * trainer.processes()
    return RowOrder(selections, seed=recipe.seed, lengths_N=lengths_N, step_rows=step_rows)


def _loaded(folder: ModelFolder, recipe: TrainConfig) -> Backbone:
    """The base model as the recipe has it computed."""
    backbone = load_backbone(
        folder, recipe.precision, trainable=recipe.trainable, attention=recipe.attn, four_bit=recipe.load_in_4bit
    )
    if recipe.liger:
        backbone.use_liger(recipe.trainer.get(LIGER))
    return backbone


def _let_learn(backbone: Backbone, recipe: TrainConfig, *, train_tokens: bool) -> None:
    """Give the language model what learns of it, and how its gradients are come by."""
    if recipe.trainable == "lora":
        if backbone.adapter is None:
            backbone.add_adapter(recipe.lora, train_tokens=train_tokens)
    else:
        if backbone.adapter is not None:
            backbone.merge_adapter()
        if recipe.trainable in ("full", "lm-head"):
            backbone.train_language(head_only=recipe.trainable == "lm-head")
    if recipe.gradient_checkpointing:
        backbone.recompute_gradients()
    if recipe.torch_compile:
        backbone.compile_layers(
            **{name: recipe.trainer[key] for key, name in COMPILER.items() if key in recipe.trainer}
        )


def _run(wanted: _Wanted, out: Path) -> Outcome:
    """Train until the end, or until told to stop, and write the finished checkpoint."""
    started, ran, running = time.monotonic(), None, wanted.running
    publisher = None
    with tensors.writing(out), _held(out):
        request = wanted.request()
        if running.push_to_hub is not None and is_main():
            publisher = Publisher(out, running.push_to_hub, private=running.hub_private)
        if _claim(out, request):
            result = checkpoints.load_config(out).result
        else:
            lesson = wanted.build()
            trained = trainer.train(
                lesson,
                out,
                run=_digest(request),
                resume=running.resume,
                report_to=trackers(running.report_to),
                workers=running.workers,
                callbacks=[*([publisher] if publisher is not None else []), *running.callbacks],
                loss=running.loss,
            )
            result, ran = trained.result, _ran(lesson.learner.backbone, trained.step_seconds)
            if is_main():
                with trainer.undisturbed():
                    _save(lesson, wanted, out, result)
        if is_main():
            states.remove_all(out)  # also what a run that was killed right here has left
            for name in (RUN, BEST, NOT_FINITE):
                (out / name).unlink(missing_ok=True)
        url = None if publisher is None else publisher.finish()
    seconds = round(time.monotonic() - started, 3)
    return Outcome(**result, seconds=seconds, checkpoint=str(out), ran=ran, url=url)


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Make the folder of a run, and keep other runs out of it."""
    out.mkdir(parents=True, exist_ok=True)
    with locked(out) if is_main() else nullcontext():
        yield


def _ran(backbone: Backbone, step_seconds: float | None) -> Ran:
    """Device, precision, pace and memory of a run that has just ended."""
    device = backbone.device
    if device.type == "cuda":
        name, peak = torch.cuda.get_device_name(device), torch.cuda.max_memory_allocated(device)
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        name, peak = device.type, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return Ran(
        device=name,
        precision=precision_of(backbone),
        step_seconds=step_seconds,
        peak_memory_gib=round(peak / 2**30, 3),
    )


def _plan(wanted: _Wanted) -> Plan:
    """Take one step on the first rows, twice, and look at what it takes."""
    lesson = wanted.build()
    learner, recipe = lesson.learner.train(), wanted.recipe
    device = learner.backbone.device
    batch = lesson.collate([lesson.rows[index] for index in islice(lesson.order, recipe.batch_size)])
    batch.pop("ids")
    moved = {name: value.to(device) for name, value in batch.items()}
    if isinstance(learner, Learner):
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
    trained = learner.trained()
    of_one_moment = matrices_of(learner) if recipe.optimizer == "muon" else ()
    memory = {
        "weights": sum(value.nbytes for value in weights.values()),
        "gradients": sum(value.nbytes for value in trained.values()),
        "optimizer": sum(value.nbytes * (1 if name in of_one_moment else 2) for name, value in trained.items()),
        "activations": sum(size for place, size in kept.items() if place not in weights),
    }
    an_epoch = -(-len(lesson.order) // (recipe.batch_size * recipe.accumulate))
    steps = recipe.max_steps or round(an_epoch * recipe.epochs)
    return Plan(
        rows=sum(map(len, wanted.selections)) - len(lesson.held_out),
        validation_rows=len(lesson.held_out),
        steps=steps,
        trainable_parameters=sum(value.numel() for value in trained.values()),
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


def _save(lesson: Lesson, wanted: _Wanted, out: Path, result: checkpoints.Reached) -> None:
    """Write the finished checkpoint."""
    learner, manifest, recipe = lesson.learner, wanted.selections[0].shards.manifest, wanted.recipe
    backbone = learner.backbone
    head, probe, book = (
        (learner.head, learner.probe, learner.book) if isinstance(learner, Learner) else (None, None, None)
    )
    learnt: list[Learnt] = ["language"] if backbone.trains_language else []
    if backbone.adapter is not None:
        learnt.append("adapter")
    config = CheckpointConfig(
        stage=wanted.stage,
        model=wanted.model,
        encoder=manifest.encoder or {},
        style=manifest.style,
        encoding=manifest.encoding_fingerprint,
        prompt=backbone.prompt,
        head=checkpoints.shape_of(head) if head else None,
        run=wanted.request(),
        result=result,
        learnt=learnt,
        budget=recipe.budget if isinstance(recipe, LatentConfig) else None,
        lengths=lengths_of(wanted.selections, recipe.budget) if isinstance(recipe, LatentConfig) else None,
        alphabet=Letters(characters=probe.alphabet.characters, slots=probe.alphabet.slots) if probe else None,
        mode=recipe.mode if isinstance(recipe, SftConfig) else None,
        context=manifest.context,
        feedback=recipe.feedback if isinstance(recipe, LatentConfig) else "latent",
    )
    write_atomically(out / RECIPE, as_yaml(recipe).encode())
    checkpoints.save(out, config, backbone, head=head, probe=probe, book=book, beside=(RECIPE, HISTORY))


def _digest(request: checkpoints.Request) -> str:
    """SHA-256 of what a run was asked for."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _claim(out: Path, request: checkpoints.Request) -> bool:
    """Whether `out` holds this very run, finished. Raises OutputOccupied if it holds something else."""
    finished, running = out / checkpoints.CONFIG, out / RUN
    if finished.exists():
        earlier = checkpoints.load_config(out).run
    elif running.exists():
        remedy = "choose another --out, or remove this one"
        earlier = records.as_record(checkpoints.Request, records.read(running, remedy=remedy), running, remedy=remedy)
    elif any(not is_leftover(path) for path in out.iterdir()):
        raise OutputOccupied(f"{out} holds files that are no training run: choose an empty or new folder for --out")
    else:
        earlier = None
    if earlier is not None and (changed := _changed(earlier, request)):
        raise OutputOccupied(f"{out} holds a run with another {', '.join(changed)}: choose another --out")
    if is_main():
        remove_leftovers(out)
        if earlier is None:
            write_atomically(running, (json.dumps(request, indent=2) + "\n").encode())
    return finished.exists()


def _changed(earlier: checkpoints.Request, request: checkpoints.Request) -> list[str]:
    """What was asked for otherwise in an earlier run, as its file has it."""
    now = json.loads(json.dumps(request))
    return sorted(name for name, value in earlier.items() if value != now[name])


def _select(shards: Shards, limit: int | None) -> list[Selection]:
    """The rows that `shards` name. Raises UsageError, ShardError, HubError, and ShardMismatch if there are none."""
    selections = []
    for data, weight in _opened(shards):
        selections.append(Selection.of(data, weight=weight, limit=limit))
        if not len(selections[-1]):
            raise ShardMismatch(f"{data.folder} holds no rows to train on")
    return selections


def _opened(shards: Shards) -> Iterator[tuple[EmbeddingShards, float]]:
    """The folders that `shards` name, and how often an epoch takes each of their rows."""
    for each in [shards] if isinstance(shards, Path | str) else shards:
        name, weight = parse_weighted(each) if isinstance(each, str) else (each, 1.0)
        yield EmbeddingShards(hub.locate(name) if isinstance(name, str) else name), weight


def default_recipe(shards: Shards) -> Recipe:
    """The recipe of a latent stage if none is asked for: `picture` where a latent is a picture of its own.

    Says which it is and why. Raises UsageError, ShardError, HubError.
    """
    data, _ = next(_opened(shards))
    alone = data.manifest.context == "latent"
    recipe: Recipe = "picture" if alone else DEFAULT_RECIPE
    if is_main():
        encoded = "the picture of its own characters alone" if alone else "encoded with its whole strip"
        say(f"recipe {recipe}, since each latent in {data.folder} is {encoded}; --recipe chooses another")
    return recipe


def _check_origin(selections: Sequence[Selection], folder: ModelFolder, model: str) -> None:
    """Raise ShardMismatch unless this very model's tower made all latents, of strips of one style."""
    width = folder.embedding_width()
    tower = tower_hashes(folder)
    remedy = f"embed the strips again with `rotdata embed --model {model}`, or train the model that made them"
    for data in (each.shards for each in selections):
        encoder = data.manifest.encoder or {}
        if width != data.width:
            raise ShardMismatch(
                f"the shards in {data.folder} have D={data.width} (made by {encoder.get('model')}), {model} has "
                f"{width}: {remedy}"
            )
        ours, theirs = tower.beside(encoder)
        if ours != theirs:
            raise ShardMismatch(
                f"the shards in {data.folder} were made by a vision tower {theirs[:12]} ({encoder.get('model')}), "
                f"{model} has {ours[:12]}: {remedy}"
            )
        first = selections[0].shards
        if data.manifest.encoding_fingerprint != first.manifest.encoding_fingerprint:
            raise ShardMismatch(
                f"the shards in {data.folder} are of encoding {data.manifest.encoding_fingerprint[:12]}, those in "
                f"{first.folder} of {first.manifest.encoding_fingerprint[:12]}: latents of two styles can't be learnt "
                "together, render and embed both alike"
            )


def _kind_of_answers(selections: Sequence[Selection]) -> scoring.Kind:
    """How answers of these rows are compared."""
    return "math" if any(each.shards.manifest.corpus.startswith("math") for each in selections) else "number"
