"""How a model in training does on rows held out: its answers, the exposure gap, and whether its latents collapse.

Shapes: N latents of all rows, B rows, K latents of a row, D embedding width.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- torch's own name for it

from rottrain.data.batches import IGNORED, Batch, Collator, Example
from rottrain.generation import generate, rollout
from rottrain.metrics import scoring
from rottrain.metrics.latent_geometry import settled
from rottrain.model.backbone import Backbone
from rottrain.model.glyph_probe import characters_right
from rottrain.training.objective import Learner
from rottrain.training.sft import TextCollator, TextExample, TextLearner

_BATCH = 64
_MOST_OF_A_REPLY = 2
"""Times as long as the longest taught reply: where a reply that does not end is cut."""


@torch.no_grad()
def validate(learner: Learner, examples: Sequence[Example]) -> dict[str, float]:
    """Figures of the learner on `examples`, means over rows.

    accuracy: rows whose answer, decoded greedily after the model's own latents, is right to the last token.
    alignment_forced, alignment_free: the alignment loss from true earlier latents and from the model's own; their
    difference is the exposure gap. glyphs_forced, glyphs_free: share of characters that the glyph probe reads rightly
    from them. halt: rows whose stop is predicted at the right latent. cosine, rank, saturation: see `collapse`, of the
    model's own latents; rank_true of the strips'.
    """
    was_training = learner.training
    learner.eval()
    collate = Collator(learner.backbone.pad_id)
    totals: defaultdict[str, float] = defaultdict(float)
    free, true = [], []
    for start in range(0, len(examples), _BATCH):
        some = examples[start : start + _BATCH]
        batch = _moved(collate(some), learner.backbone.device)
        figures, latents_BKD = _of_batch(learner, batch)
        for name, value in figures.items():
            totals[name] += value * len(some)
        mask_BK = batch["targets_mask_BK"]
        free += [row[mask] for row, mask in zip(learner.head.scaled(latents_BKD), mask_BK, strict=True)]
        true += [row[mask] for row, mask in zip(learner.head.scaled(batch["targets_BKD"]), mask_BK, strict=True)]
    learner.train(was_training)
    figures = {name: total / len(examples) for name, total in totals.items()} | collapse(free)
    return {name: round(value, 5) for name, value in (figures | {"rank_true": collapse(true)["rank"]}).items()}


@torch.no_grad()
def validate_text(learner: TextLearner, examples: Sequence[TextExample], *, kind: scoring.Kind) -> dict[str, float]:
    """Figures of a learner in words on `examples`, means over rows.

    accuracy: rows whose generated reply ends in the right answer, as evaluation reads it. loss: of the taught reply.
    reasoning_tokens: before the answer mark.
    """
    backbone = learner.backbone
    was_training = learner.training
    learner.eval()
    collate, loss = TextCollator(backbone.pad_id), 0.0
    for start in range(0, len(examples), _BATCH):
        some = examples[start : start + _BATCH]
        batch = collate(some)
        tokens_BT, labels_BT = (batch[name].to(backbone.device) for name in ("tokens_BT", "labels_BT"))
        loss += learner(tokens_BT=tokens_BT, labels_BT=labels_BT)["loss"].item() * len(some)
    made = _replies(learner, examples, len(examples))
    learner.train(was_training)
    right = [
        scoring.equal(scoring.extract(each.reply), example.answer, kind)
        for each, example in zip(made, examples, strict=True)
    ]
    return {
        "accuracy": round(sum(right) / len(right), 5),
        "loss": round(loss / len(examples), 5),
        "reasoning_tokens": round(sum(each.reasoning_tokens for each in made) / len(made), 2),
    }


@torch.no_grad()
def tell(learner: Learner, examples: Sequence[Example]) -> list[dict[str, str]]:
    """What a few rows come to: what is asked and taught, and what the model makes of it.

    `read` is what the glyph probe reads in its own latents, `said` the answer's likeliest tokens after these, each
    after true ones.
    """
    was_training = learner.training
    learner.eval()
    backbone = learner.backbone
    batch = _moved(Collator(backbone.pad_id)(examples), backbone.device)
    prompt = learner.read(batch)
    free = learner.unroll(prompt, batch["targets_BKD"].shape[1])
    counts_B = None if learner.recipe.feedback == "latent" else free.counts_B
    logits, labels = rollout.answer_pass(backbone, prompt, batch, free.fed_BKD, counts_B)
    likeliest, thoughts = logits.argmax(dim=-1), _read(learner, free.latents_BKD)
    learner.train(was_training)
    found = []
    for row, example in enumerate(examples):
        said = likeliest[row, 1:][labels[row, 1:] != IGNORED].tolist()
        count = len(example.targets_KD)
        found.append(
            {
                "id": example.id,
                "question": _question(backbone, example.prompt_ids),
                "strip": _shown(learner, torch.from_numpy(example.glyphs_KS)) if example.glyphs_KS is not None else "",
                "read": "" if thoughts is None else _shown(learner, thoughts[row, :count]),
                "answer": backbone.decode(example.answer_ids),
                "said": backbone.decode(said),
            }
        )
    return found


@torch.no_grad()
def tell_text(learner: TextLearner, examples: Sequence[TextExample], rows: int) -> list[dict[str, str]]:
    """What the first rows come to in words: question, answer and reply."""
    was_training = learner.training
    learner.eval()
    made = _replies(learner, examples, rows)
    learner.train(was_training)
    return [
        {"id": example.id, "question": example.question, "answer": example.answer, "reply": each.reply}
        for each, example in zip(made, examples, strict=False)
    ]


def _replies(learner: TextLearner, examples: Sequence[TextExample], rows: int) -> list[generate.Generation]:
    """What the model replies to the first rows, cut where the longest of all would be long over."""
    reply = generate.in_words if learner.recipe.mode == "cot" else generate.at_once
    most = _MOST_OF_A_REPLY * max(len(example.taught_ids) for example in examples)
    questions = [example.question for example in examples[:rows]]
    return reply(learner.backbone, questions, batch_size=_BATCH, max_tokens=most)


def _read(learner: Learner, latents_BKD: Tensor) -> Tensor | None:
    """Classes that the glyph probe reads in latents, [B, K, S]; None without one."""
    if learner.probe is None:
        return None
    return learner.probe(learner.head.scaled(latents_BKD)).argmax(dim=-1).cpu()


def _shown(learner: Learner, classes_KS: Tensor) -> str:
    """Classes of a row's latents as text."""
    assert learner.probe is not None
    alphabet = learner.probe.alphabet
    if learner.book is not None:  # pictures of cells: an empty one is a space
        classes_KS = alphabet.drawn(classes_KS)
    return "".join(alphabet.text(classes_S) for classes_S in classes_KS.tolist()).rstrip()


def _question(backbone: Backbone, prompt_ids: list[int]) -> str:
    """The question of a prompt."""
    prompt = backbone.prompt
    return str(backbone.tokenizer.decode(prompt_ids)).removeprefix(prompt.prefix).removesuffix(prompt.suffix)


def kept(found: Sequence[dict[str, float]], rows: int) -> dict[str, float]:
    """Which of a run's validations, on so many rows, the weights are of that are kept.

    Accuracies within a standard error of the best so far are the same to us: of those come first the closest latents
    or the lowest loss, and then the latest. In stage 1 answers may stay at chance, where the best accuracy is luck.
    """
    best = found[0]
    most = best["accuracy"]
    for figures in found[1:]:
        most = max(most, figures["accuracy"])
        least = most - math.sqrt(most * (1 - most) / rows)
        if figures["accuracy"] >= least and (best["accuracy"] < least or _distance(figures) <= _distance(best)):
            best = figures
    return best


def _distance(figures: dict[str, float]) -> float:
    """How far the model is from what it is taught: its own latents from the strips', or in words the loss."""
    return figures["alignment_free" if "alignment_free" in figures else "loss"]


def collapse(rows: Sequence[Tensor]) -> dict[str, float]:
    """How alike the latents of some rows [K, D] are.

    cosine: mean cosine of two latents of a row. rank: effective rank of all latents, the exponential of the entropy of
    their covariance's eigenvalues (Roy and Vetterli 2007). saturation: share of a row after which each latent has a
    cosine of 0.99 or more with the one before; 1 if it never comes to that.
    """
    cosines, shares = [], []
    for row_KD in rows:
        unit_KD = F.normalize(row_KD.float(), dim=-1)
        count = len(unit_KD)
        if count > 1:
            cosines.append(((unit_KD.sum(dim=0).square().sum() - count) / (count * (count - 1))).item())
        shares.append(settled(row_KD) / count)
    latents_ND = torch.cat(list(rows)).float()
    energy = torch.linalg.svdvals(latents_ND - latents_ND.mean(dim=0)).square()
    share = energy / energy.sum().clamp(min=1e-30)
    rank = torch.exp(-(share * share.clamp(min=1e-30).log()).sum()).item()
    return {
        "cosine": sum(cosines) / max(1, len(cosines)),
        "rank": rank,
        "saturation": sum(shares) / len(shares),
    }


def warnings_of(figures: dict[str, float]) -> list[str]:
    """What the figures of a validation warn of."""
    if "cosine" not in figures:  # there are no latents
        return []
    found = []
    if figures["cosine"] > 0.9:
        found.append(f"latents of a row are nearly the same (mean cosine {figures['cosine']:.2f})")
    if figures["rank"] < figures["rank_true"] / 4:
        found.append(
            f"latents use few directions (effective rank {figures['rank']:.1f}, the strips' {figures['rank_true']:.1f})"
        )
    if figures["saturation"] < 0.5:
        found.append(f"latents stop changing after {figures['saturation']:.0%} of the row")
    return found


def _of_batch(learner: Learner, batch: Batch) -> tuple[dict[str, float], Tensor]:
    """Figures of a batch, and the model's own latents [B, K, D]."""
    prompt = learner.read(batch)
    free = learner.unroll(prompt, batch["targets_BKD"].shape[1])
    rolled = {"forced": learner.sweep(prompt, batch["targets_BKD"]), "free": _whole(free, batch)}
    counts_B = None if learner.recipe.feedback == "latent" else free.counts_B
    logits, labels = rollout.answer_pass(learner.backbone, prompt, batch, free.fed_BKD, counts_B)
    right = (logits.argmax(dim=-1) == labels) | (labels == IGNORED)
    figures = {"accuracy": right[:, 1:].all(dim=1).float().mean()}  # the end token is put there, not decoded
    for name, predicted in rolled.items():
        figures[f"alignment_{name}"] = learner.alignment(predicted, batch)
        if learner.probe is not None and "glyphs_BKS" in batch:
            named = learner.probe(learner.head.scaled(predicted.latents_BKD))
            figures[f"glyphs_{name}"] = characters_right(named, batch["glyphs_BKS"], batch["targets_mask_BK"])
    if learner.recipe.halt_weight:
        stop_BK = learner.head.is_last(rolled["free"].hidden_BKD) > 0
        first_B = torch.where(stop_BK.any(dim=1), stop_BK.int().argmax(dim=1), stop_BK.shape[1])
        figures["halt"] = (first_B == batch["last_B"]).float().mean()
    return {name: float(value) for name, value in figures.items()}, rolled["free"].latents_BKD


def _whole(free: rollout.Unrolled, batch: Batch) -> rollout.Predicted:
    """As many latents as the batch has targets: none, where all rows had ended, is zeros."""
    lacking = batch["targets_BKD"].shape[1] - free.latents_BKD.shape[1]
    return rollout.Predicted(
        latents_BKD=F.pad(free.latents_BKD, (0, 0, 0, lacking)), hidden_BKD=F.pad(free.hidden_BKD, (0, 0, 0, lacking))
    )


def _moved(batch: Batch, device: torch.device) -> Batch:
    moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    return Batch(**moved)  # type: ignore[typeddict-item]
