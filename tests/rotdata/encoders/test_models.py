"""Model names: the embedded default, folders, Hub ids, and what is none of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from rotdata.encoders.models import HUB_MODELS, ModelFolder, find_model
from rotdata.errors import UnknownModel


def test_tiny_ships_with_configuration_weights_and_tokenizer() -> None:
    tiny = find_model("tiny")
    assert (tiny.name, tiny.revision) == ("tiny", None)
    assert tiny.config()["model_type"] == "qwen3_vl"
    assert tiny.weight_files()
    assert (tiny.path / "tokenizer.json").is_file()


def test_a_folder_is_known_by_its_own_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in (str(tmp_path / "my-model"), "my-model", "./my-model/"):
        found = find_model(name)
        assert (found.name, found.revision) == ("my-model", None)
        assert found.path.resolve() == tmp_path / "my-model"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownModel, match="unknown model 'gpt'") as raised:
        find_model("gpt")
    assert all(name in str(raised.value) for name in ("tiny", *HUB_MODELS))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, dict[str, Any]]]:
    """A stand-in for the Hub: it notes what is asked of it and gives an empty snapshot."""
    asked = []

    def snapshot_download(repo_id: str, **options: Any) -> str:
        asked.append((repo_id, options))
        return str(tmp_path / "snapshots" / "0123abc")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


@pytest.mark.parametrize(
    ("name", "hub_id"),
    [
        ("qwen3-vl", "Qwen/Qwen3-VL-4B-Instruct"),
        ("qwen3-vl-2b", "Qwen/Qwen3-VL-2B-Instruct"),
        ("Qwen3-VL-8B", "Qwen/Qwen3-VL-8B-Instruct"),
        ("someone/their-model", "someone/their-model"),
    ],
)
def test_short_names_and_ids_are_fetched_from_the_hub(name: str, hub_id: str, hub: list[Any]) -> None:
    found = find_model(name)
    assert (found.name, found.revision) == (hub_id, "0123abc")
    assert [repo_id for repo_id, _ in hub] == [hub_id]


def test_only_the_files_asked_for_are_fetched_and_never_a_pickle(hub: list[Any]) -> None:
    find_model("qwen3-vl")
    find_model("qwen3-vl", files=["config.json"])
    assert hub[1][1]["allow_patterns"] == ["config.json"]
    assert not any(pattern.endswith((".bin", ".pt", ".py", "*")) for pattern in hub[0][1]["allow_patterns"])


def test_a_hub_that_does_not_answer_is_an_unknown_model() -> None:
    with pytest.raises(UnknownModel, match=r"someone/absent can't be fetched: .*or give a folder that holds it"):
        find_model("someone/absent")


@pytest.mark.parametrize("content", [None, "{ broken", b"\xff\xfe"])
def test_a_folder_without_readable_configuration_is_refused(tmp_path: Path, content: str | bytes | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UnknownModel, match=r"no readable config\.json"):
        find_model(str(tmp_path)).config()


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UnknownModel, match=r"no \*\.safetensors weights"):
        find_model(str(tmp_path)).weight_files()


def test_weight_files_are_in_order(tmp_path: Path) -> None:
    for number in (2, 1, 3):
        (tmp_path / f"model-{number}.safetensors").touch()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_vl"}))
    folder = ModelFolder(name="x", path=tmp_path, revision=None)
    assert [file.name for file in folder.weight_files()] == [f"model-{number}.safetensors" for number in (1, 2, 3)]


def test_a_width_that_a_configuration_leaves_out_is_its_classs_default(tmp_path: Path) -> None:
    """LLaVA's own config.json names what differs from Mistral's defaults, the width not among it."""
    config = {"model_type": "llava_next", "text_config": {"model_type": "mistral", "vocab_size": 32064}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert find_model(str(tmp_path)).embedding_width() == 4096
