"""The first call of a process computes as all later ones do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.fresh_embeds import embed_afresh
from tests.helpers import REPOSITORY

LOADING = """
import sys, threading, torch
from transformers import PreTrainedModel

calls = []
cos, load = torch.Tensor.cos, PreTrainedModel.from_pretrained.__func__


def noted_cos(tensor):
    calls.append(("cos", threading.current_thread() is threading.main_thread(), tensor.numel()))
    return cos(tensor)


def noted_load(*given, **more):
    calls.append("load")
    return load(*given, **more)


torch.Tensor.cos, PreTrainedModel.from_pretrained = noted_cos, classmethod(noted_load)
"""
ENCODER = "from rotdata.encoders import load_encoder; load_encoder(sys.argv[1], device='cpu')"
MODEL = (
    "from rotdata.encoders.models import find_model; from rottrain.model.backbone import Backbone;"
    "Backbone.load(find_model(sys.argv[1]), dtype=torch.float32, device='cpu')"
)


def test_one_thread_makes_the_first_vector_call_before_a_model_is_loaded(tiny_folder: Path) -> None:
    """In a fresh process; for what trains and for what encodes."""
    for loading in (ENCODER, MODEL):
        done = subprocess.run(
            [sys.executable, "-c", f"{LOADING}\n{loading}\nprint(calls[:2])", str(tiny_folder)],
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.stdout.splitlines()[-1] == "[('cos', True, 1), 'load']"


def test_fresh_processes_on_busy_cores_give_the_same_bytes(toy_strips: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """A few of the many that `python -m tests.fresh_embeds` starts."""
    options = ("--model", tiny_folder, "--device", "cpu")
    assert list(embed_afresh(toy_strips, tmp_path / "out", 2, options).values()) == [2]
