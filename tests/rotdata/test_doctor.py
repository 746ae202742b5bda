"""What the doctor says of a machine, healthy and less so."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import urllib.request
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import huggingface_hub
import pytest

from rotdata import doctor
from rotdata.doctor import Finding, examine
from rotdata.rendering import fonts
from tests.helpers import Result


def findings() -> dict[str, Finding]:
    return {finding.name: finding for finding in examine()}


def test_this_machine_can_run_the_line() -> None:
    found = findings()
    assert [finding for finding in found.values() if finding.status == "problem"] == []
    assert found["torch"].found == importlib.metadata.version("torch")
    assert found["fonts"].found == "4 shipped, as listed in SHA256SUMS"
    assert "bfloat16 products run" in found["cpu"].found


def test_a_missing_library_is_a_problem_and_a_missing_extra_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = importlib.metadata.version

    def without(name: str) -> str:
        if name in ("pyarrow", "peft", "matplotlib"):
            raise importlib.metadata.PackageNotFoundError(name)
        return whole(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    found = findings()
    assert (found["pyarrow"].status, found["pyarrow"].remedy) == ("problem", "pip install render-of-thought")
    assert (found["peft"].status, found["peft"].remedy) == ("note", "pip install 'render-of-thought[train]'")
    assert (found["matplotlib"].status, found["matplotlib"].remedy) == (
        "note",
        "pip install 'render-of-thought[report]'",
    )


def test_fonts_for_chinese_are_named_or_where_to_get_them(request: pytest.FixtureRequest) -> None:
    name = "fonts for Chinese, Japanese, Korean"
    request.getfixturevalue("squares")
    assert (findings()[name].status, findings()[name].found) == ("ok", "Squares")
    request.getfixturevalue("no_installed_fonts")
    assert (findings()[name].status, "apt install" in findings()[name].remedy) == ("note", True)


def test_a_changed_font_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(fonts._fonts_folder(), tmp_path / "fonts")
    (folder / "DejaVuSansMono.ttf").write_bytes((folder / "DejaVuSans.ttf").read_bytes())
    monkeypatch.setattr(fonts, "_fonts_folder", lambda: folder)
    fonts.shipped_fonts.cache_clear()
    try:
        found = findings()["fonts"]
    finally:
        monkeypatch.undo()
        fonts.shipped_fonts.cache_clear()
    assert found.status == "problem"
    assert found.found.startswith("DejaVuSansMono.ttf: missing, or not the files")


def test_the_hub_is_asked_without_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Any]] = []

    def get(url: str, **options: Any) -> Any:
        asked.append((url, options))
        return nullcontext()

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    monkeypatch.setattr(urllib.request, "urlopen", get)
    found = doctor._hub()
    assert (found.status, found.found.endswith("answers, a token is set")) == ("ok", True)
    [(url, options)] = asked
    assert url.startswith(huggingface_hub.constants.ENDPOINT)
    assert "hf_secret" not in repr((asked, found))
    assert options == {"timeout": 5}


def test_a_hub_that_does_not_answer_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(*_: Any, **__: Any) -> Any:
        raise URLError("no route")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(urllib.request, "urlopen", get)
    found = doctor._hub()
    assert found.status == "note"
    assert "does not answer (URLError)" in found.found
    assert "local folders need no Hub" in found.remedy


def test_offline_mode_is_told() -> None:
    assert "unset HF_HUB_OFFLINE" in doctor._hub().remedy


def test_a_full_disk_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3e9))
    found = doctor._disk("disk", tmp_path / "not" / "there", "buy one")
    assert (found.status, found.found, found.remedy) == ("note", "3.0 GB", "buy one")


def test_the_command_prints_lines_or_json_and_fails_on_a_problem(
    run_rotdata: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_rotdata("doctor", "--json")
    assert result.code == 0
    assert {"name", "status", "found", "remedy"} == set(json.loads(result.out)[0])
    shown = run_rotdata("doctor")
    assert shown.code == 0
    assert "ok       fonts" in shown.out
    monkeypatch.setattr(
        doctor, "examine", lambda: iter([Finding(name="torch", status="problem", found="gone", remedy="get it")])
    )
    broken = run_rotdata("doctor")
    assert (broken.code, broken.out) == (1, "problem  torch: gone\n         -> get it\n")
