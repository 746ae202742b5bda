"""A training step: latents are rolled out as the recipe says, compared with the strip's, and answered from.

Shapes: B rows, K latents, D embedding width.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from rottrain.config import Stage1Config, Stage2Config, rollout_phases
from rottrain.data.batches import Batch
from rottrain.generation import rollout
from rottrain.generation.feedback import PictureFeedback
from rottrain.model.backbone import Backbone
from rottrain.model.book import Book
from rottrain.model.glyph_probe import GlyphProbe
from rottrain.model.head import ProjectionHead
from rottrain.training.hidden_states import HiddenStates
from rottrain.training.losses import alignment_loss, answer_loss, glyph_loss, halt_loss


class Learner(nn.Module):
    """Backbone and head as one module, whose forward pass is a training step's loss and its parts."""

    accepts_loss_kwargs = False  # the loss is a mean over the batch

    def __init__(
        self,
        backbone: Backbone,
        head: ProjectionHead,
        recipe: Stage1Config | Stage2Config,
        probe: GlyphProbe | None = None,
        states: HiddenStates | None = None,
        book: Book | None = None,
    ) -> None:
        """Let those parameters learn that the recipe says, and no others; hidden states are kept in `states`."""
        super().__init__()
        self.backbone = backbone
        self.language = backbone.model
        self.head = head
        self.recipe = recipe
        self.probe = probe
        self.book = book
        self._states = states
        self.step, self.progress = 0, 0.0
        """Steps done, and their share of the run: they decide how latents are produced."""
        self._phases = rollout_phases(recipe.rollout)
        head.requires_grad_(isinstance(recipe, Stage1Config) or recipe.train_head)
        head.halt.requires_grad_(recipe.halt_weight > 0)
        self.language_learns = recipe.trainable != "head"

    @property
    def gradient(self) -> rollout.Gradient:
        """What a rollout is differentiable in."""
        if not self.language_learns:
            return "head"
        return "through-cache" if self.recipe.cache_gradient else "own-step"

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Roll out, compare with the targets, answer: the loss, and its parts before they are weighted."""
        tensors: Batch = batch  # type: ignore[assignment]  # the collator made it
        hidden_BKD = tensors.get("hidden_BKD")
        taught = self.recipe.feedback == "picture"
        prompt = self.read(tensors) if not taught and (hidden_BKD is None or self.recipe.answer_weight) else None
        if hidden_BKD is not None:
            predicted = rollout.Predicted(latents_BKD=self.head(hidden_BKD), hidden_BKD=hidden_BKD)
        elif prompt is None:
            given_BKD = self._disturbed(tensors["targets_BKD"], tensors["targets_mask_BK"])
            predicted = rollout.teach(self.backbone, self.head, tensors, given_BKD, gradient=self.gradient)
        else:
            predicted = self._roll_out(prompt, tensors)
        if hidden_BKD is None and self._states is not None:
            self._states.put(tensors["rows_B"].tolist(), predicted.hidden_BKD, tensors["targets_mask_BK"])
        parts = self._parts(prompt, predicted, tensors)
        weights = {
            "alignment": self.recipe.align_weight,
            "answer": self.recipe.answer_weight,
            "glyphs": self.recipe.glyph_weight,
            "halt": self.recipe.halt_weight,
        }
        return {"loss": torch.stack([weights[name] * part for name, part in parts.items()]).sum(), **parts}

    def read(self, batch: Batch) -> rollout.Prompt:
        """A batch's prompts."""
        ids, mask = batch["prompt_ids_BP"], batch["prompt_mask_BP"]
        return rollout.read_prompt(self.backbone, ids, mask, gradient=self.gradient)

    def unroll(self, prompt: rollout.Prompt, num_latents: int) -> rollout.Unrolled:
        """Latents one after the other, from the model's own earlier ones or the pictures of what they show."""
        return rollout.unroll(
            self.backbone, self.head, prompt, num_latents, gradient=self.gradient, feedback=self.feedback()
        )

    def feedback(self) -> PictureFeedback | None:
        """What reads the latents of one batch, if they are read; what the book lacks is not drawn."""
        if self.recipe.feedback == "latent":
            return None
        assert self.probe is not None
        assert self.book is not None
        return PictureFeedback(self.probe, self.head, self.book)

    def sweep(self, prompt: rollout.Prompt, given_BKD: Tensor) -> rollout.Predicted:
        """Latents from those that are given, all at once."""
        return rollout.sweep(self.backbone, self.head, prompt, given_BKD, gradient=self.gradient)

    def alignment(self, predicted: rollout.Predicted, batch: Batch) -> Tensor:
        """The alignment loss, unweighted."""
        return alignment_loss(
            self.head.scaled(predicted.latents_BKD),
            self.head.scaled(batch["targets_BKD"]),
            batch["targets_mask_BK"],
            kind=self.recipe.alignment,
            reduction=self.recipe.align_reduction,
        )

    def answered_after(self, batch: Batch) -> Tensor:
        """Latents that each row's answer is given in this step, [B]."""
        counts_B = batch["targets_mask_BK"].sum(dim=1)
        if self.recipe.answer_after == "budget" or not self.training:
            return counts_B
        said_B = batch["last_B"] + 1
        share_B = torch.rand(len(said_B), device=said_B.device)
        return said_B + (share_B * (counts_B - said_B + 1)).long()

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def train(self, mode: bool = True) -> Learner:  # noqa: FBT001, FBT002 -- torch's signature
        """A language model that is frozen stays as in inference, its dropout too."""
        super().train(mode)
        self.language.train(mode and self.language_learns)
        return self

    def _roll_out(self, prompt: rollout.Prompt, batch: Batch) -> rollout.Predicted:
        """Latents as the recipe has them at this point of the run."""
        targets_BKD = batch["targets_BKD"]
        phase = [phase for phase in self._phases if phase.start <= self.progress][-1]
        if phase.sweeps is None:
            return self.unroll(prompt, targets_BKD.shape[1])
        sweeps = random.Random(f"{self.recipe.seed}-{self.step}").randint(*phase.sweeps)  # noqa: S311 -- no secret
        given_BKD = rollout.iterate(self.backbone, self.head, prompt, targets_BKD, sweeps)
        return self.sweep(prompt, self._disturbed(given_BKD, batch["targets_mask_BK"]))

    def _disturbed(self, given_BKD: Tensor, mask_BK: Tensor) -> Tensor:
        """Latents that are read, with what noise and misreading the recipe puts on them."""
        if self.training and self.recipe.misread:
            true_ND = given_BKD[mask_BK]
            other_ND = true_ND[torch.randperm(len(true_ND), device=true_ND.device)]
            misread_N1 = torch.rand(len(true_ND), 1, device=true_ND.device) < self.recipe.misread
            given_BKD = given_BKD.masked_scatter(mask_BK[..., None], torch.where(misread_N1, other_ND, true_ND))
        if self.training and self.recipe.input_noise:
            share_B11 = torch.rand(len(given_BKD), 1, 1, device=given_BKD.device)
            noise_BKD = torch.randn_like(given_BKD) * self.head.deviation_D
            given_BKD = given_BKD + self.recipe.input_noise * share_B11 * noise_BKD
        return given_BKD

    def _parts(self, prompt: rollout.Prompt | None, predicted: rollout.Predicted, batch: Batch) -> dict[str, Tensor]:
        """The losses that the recipe gives a weight, and the alignment in any case."""
        parts = {"alignment": self.alignment(predicted, batch)}
        if isinstance(predicted, rollout.Taught) and self.recipe.answer_weight and self.language_learns:
            parts["answer"] = answer_loss(predicted.logits_BAV, predicted.labels_BA)
        elif prompt is not None and self.recipe.answer_weight:
            given = predicted.latents_BKD, self.answered_after(batch)
            parts["answer"] = answer_loss(*rollout.answer_pass(self.backbone, prompt, batch, *given))
        if self.recipe.glyph_weight and self.probe is not None:
            named = self.probe(self.head.scaled(predicted.latents_BKD))
            parts["glyphs"] = glyph_loss(named, batch["glyphs_BKS"], batch["targets_mask_BK"])
        if self.recipe.halt_weight:
            parts["halt"] = halt_loss(self.head.is_last(predicted.hidden_BKD), batch["last_B"])
        return parts
