"""A step as slow and obvious code: each sample on its own, token by token, without cache, mask or padding.

Shapes: T positions of one sequence, K latents, D embedding width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.testing import assert_close

from rottrain.data.batches import Example
from rottrain.model.backbone import Backbone
from rottrain.model.head import ProjectionHead
from rottrain.training.objective import Learner
from tests.rottrain.samples import as_batch, full_pass, token_inputs

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def opening(backbone: Backbone, example: Example) -> Tensor:
    """Prompt and begin token of a sample as embeddings: [T, D]."""
    return token_inputs(backbone, [*example.prompt_ids, backbone.begin_id])


def naive_student(backbone: Backbone, head: ProjectionHead, example: Example) -> Tensor:
    """Each latent from a full pass over all that came before, earlier latents detached: [K, D].

    Without a cache the keys and values of earlier steps are made anew from the same detached inputs, so a gradient
    reaches what a cache that is not detached would lead it to.
    """
    inputs = opening(backbone, example)
    latents = []
    for _ in example.targets_KD:
        latents.append(head(full_pass(backbone, inputs)[-1]))
        inputs = torch.cat([inputs, latents[-1].detach()[None]])
    return torch.stack(latents)


def naive_own_step(backbone: Backbone, head: ProjectionHead, example: Example) -> Tensor:
    """The same, with what the model remembers of earlier positions held constant: [K, D]."""
    inputs = opening(backbone, example)
    latents = [head(full_pass(backbone, inputs)[-1])]
    for _ in example.targets_KD[1:]:
        cache = backbone.new_cache()
        with torch.no_grad():
            backbone.hidden(inputs[None], cache=cache)
        fed = latents[-1].detach()[None]
        latents.append(head(backbone.hidden(fed[None], cache=cache)[0, -1]))
        inputs = torch.cat([inputs, fed])
    return torch.stack(latents)


def naive_teacher(backbone: Backbone, head: ProjectionHead, example: Example) -> Tensor:
    """Each latent from one full pass over prompt and true latents: [K, D]."""
    start = opening(backbone, example)
    hidden = full_pass(backbone, torch.cat([start, torch.from_numpy(example.targets_KD)]))
    return head(hidden[len(start) - 1 : -1])


def naive_answer(backbone: Backbone, example: Example, latents_KD: Tensor) -> tuple[Tensor, list[int]]:
    """Logits at the positions that predict end token and answer, from one full pass: ([A + 1, V], labels)."""
    labels = [backbone.end_id, *example.answer_ids]
    start = opening(backbone, example)
    inputs = torch.cat([start, latents_KD, token_inputs(backbone, labels)])
    first = len(start) + len(latents_KD) - 1
    return backbone.logits(full_pass(backbone, inputs)[first : first + len(labels)]), labels


def naive_loss(learner: Learner, examples: Sequence[Example], produce: Callable[..., Tensor]) -> Tensor:
    """The loss of a step written out: sample by sample, latent by latent, token by token."""
    total = torch.zeros(())
    for example in examples:
        latents = produce(learner.backbone, learner.head, example)
        target = torch.from_numpy(example.targets_KD)
        alignment = sum(((latents[k] - target[k]) ** 2).mean() for k in range(len(target))) / len(target)
        logits, labels = naive_answer(learner.backbone, example, latents)
        answer = sum(-logits[i].log_softmax(dim=0)[label] for i, label in enumerate(labels)) / len(labels)
        total = total + learner.recipe.align_weight * alignment + learner.recipe.answer_weight * answer
    return total / len(examples)


def loss_and_gradients(learner: Learner, loss: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its gradient in every parameter that learns."""
    trained = learner.trained()
    found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return loss.detach(), {
        name: torch.zeros_like(value) if gradient is None else gradient
        for (name, value), gradient in zip(trained.items(), found, strict=True)
    }


def assert_same_step(
    learner: Learner, examples: Sequence[Example], produce: Callable[..., Tensor], *, within: float = 1e-5
) -> None:
    """A padded batch has the loss and the gradients of the naive loop, and the gradients are there."""
    batched = loss_and_gradients(learner, learner(**as_batch(learner.backbone, examples))["loss"])
    naive = loss_and_gradients(learner, naive_loss(learner, examples, produce))
    assert_close(batched, naive, rtol=within, atol=within)
    assert all(gradient.abs().max() > 1e-3 for gradient in naive[1].values())
