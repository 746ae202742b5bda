"""Ask the model in this folder: python use.py "Ann has 3 figs, finds 4. How many?"."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer


def main() -> None:
    """Print the answer, and on stderr what was read in the thought, where it can be read."""
    asked = _arguments()
    folder = str(Path(__file__).resolve().parent)
    rot = json.loads(Path(folder, "rot.json").read_text(encoding="utf-8"))
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model = _model(folder, rot)
    prompt = torch.tensor([_prompt_ids(tokenizer, rot, asked.question)], device=model.device)
    said = model.generate(
        input_ids=prompt,
        custom_generate=folder,
        trust_remote_code=True,
        folder=folder,
        return_dict_in_generate=True,
        budget=asked.budget,
        stop=asked.stop,
        feedback=asked.feedback,
    )
    if said.thoughts[0]:
        print(f"{said.thoughts[0]}\n({len(said.latents[0])} latents, {said.drawn[0]} drawn)", file=sys.stderr)
    reply = tokenizer.decode(said.sequences[0, prompt.shape[1] :], skip_special_tokens=True)
    print(reply.removeprefix("####").removeprefix(" "))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Ask the model in this folder.")
    parser.add_argument("question")
    parser.add_argument("--budget", type=int, help="most latents of its thought; default: as it was trained")
    parser.add_argument("--stop", type=float, help="stop thinking where this is the probability of having said all")
    parser.add_argument("--feedback", choices=["picture", "latent"], help="default: as it was trained")
    return parser.parse_args()


def _model(folder: str, rot: dict[str, Any]) -> Any:
    """The model, on a GPU if there is one."""
    place = "cuda" if torch.cuda.is_available() else "cpu"
    if rot["weights"] == "whole":
        return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).to(place).eval()
    from peft import PeftModel

    base: Any = AutoModelForImageTextToText.from_pretrained(rot["base"], dtype=torch.float32)
    base.resize_token_embeddings(rot["vocabulary"], mean_resizing=False)
    return PeftModel.from_pretrained(base, folder).to(place).eval()


def _prompt_ids(tokenizer: Any, rot: dict[str, Any], question: str) -> list[int]:
    """The question in the chat's words; special tokens that it spells are not meant."""
    parts = [(rot["prefix"] + question + rot["suffix"], False)]
    if any(token in question for token in tokenizer.all_special_tokens):
        parts = [(rot["prefix"], False), (question, True), (rot["suffix"], False)]
    return [
        token
        for text, spelled in parts
        for token in tokenizer(text, add_special_tokens=False, split_special_tokens=spelled).input_ids
    ]


if __name__ == "__main__":
    main()
