"""Publishing, fetching and reading folders of shards, through the real clients against a stand-in for the Hub."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from numpy.typing import NDArray

import rotdata
from rotdata import hub, shards
from rotdata.corpora import Source
from rotdata.errors import RotError, ShardError, UsageError
from rotdata.hub import card as cards
from rotdata.hub import client as hub_client
from rotdata.hub import remote, upload
from rotdata.rendering.strips import StripStyle
from rotdata.runs import pipeline, resumable
from rotdata.shards import EmbeddingShards, Manifest
from tests.helpers import REPOSITORY, StandInEncoder, contents, write_jsonl
from tests.hub_server import HubServer, environment

REPO = "tester/rows"
STRIPS = "toy-strips-dejavu-sans-20px"
EMBEDDINGS = "toy-stand-in-dejavu-sans-20px"


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def client(server: HubServer, tmp_path: Path) -> Callable[..., Any]:
    """Run a function of this module in a process of its own, whose Hub is the server, and give what it returns.

    Neither what it prints nor what it says of errors may hold the token.
    """

    def run(function: Callable[..., Any], *arguments: object, token: bool = True) -> Any:
        name = function.__name__
        program = f"import json, sys; from {__name__} import {name}; print(json.dumps({name}(*sys.argv[1:])))"
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            env=environment(server, tmp_path / "home", server.token if token else None),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert server.token not in done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def without_waits() -> None:
    """Have the clients give up at once where they would ask again."""
    from huggingface_hub.utils import http_backoff

    http_backoff.__kwdefaults__["max_retries"] = 0
    hub_client._WAITS_S = ()


def outcome(call: Callable[[], object]) -> str:
    """How a call ends, in words."""
    try:
        return str(call())
    except RotError as error:
        return f"{type(error).__name__}: {error}"


def below(server: HubServer, folder: str) -> dict[str, bytes]:
    """What main holds in a folder."""
    return {
        path.removeprefix(f"{folder}/"): data
        for path, data in server.files(REPO).items()
        if path.startswith(f"{folder}/")
    }


def metadata(card: str) -> dict[str, Any]:
    """The YAML at the top of a card."""
    return yaml.safe_load(card.split("---\n")[1])


# ---- what is pushed comes back


def publish_and_fetch(strips: str, embeddings: str, out: str) -> dict[str, Any]:
    """Push two folders twice, then fetch, load and stream them."""
    import datasets

    folders = (Path(strips), Path(embeddings))
    pushed = [hub.push(folder, REPO) for folder in folders * 2]
    hub.pull(REPO, Path(out) / "strips", config=STRIPS)
    hub.pull(REPO, Path(out) / "embeddings", config=EMBEDDINGS, split="train")
    located = hub.locate(f"{REPO}/{EMBEDDINGS}")
    streamed = [row for rows in EmbeddingShards(located) for row in rows.ids]
    loaded = {config: datasets.load_dataset(REPO, config, split="train") for config in (STRIPS, EMBEDDINGS)}
    return {
        "uploaded": [each.files_uploaded for each in pushed],
        "unchanged": [each.files_unchanged for each in pushed],
        "commits": [each.commit for each in pushed],
        "url": pushed[0].url,
        "located": str(located),
        "again": [str(hub.locate(str(located))), str(hub.locate(f"{REPO}@main/{EMBEDDINGS}/train"))],
        "streamed": streamed,
        "loaded": [rows["id"][:] for rows in loaded.values()],
        "image": [repr(loaded[STRIPS].features["image"]), loaded[STRIPS][0]["image"].size],
        "embedding": repr(loaded[EMBEDDINGS].features["embedding"]),
        "choices": outcome(lambda: hub.locate(REPO)),
        "no such split": outcome(lambda: hub.locate(f"{REPO}/{STRIPS}/test")),
    }


def publish_alone(folder: str, out: str) -> dict[str, Any]:
    """Push shards of latents of their own, then fetch, stream and load them."""
    import datasets

    pushed = hub.push(Path(folder), REPO, config="alone")
    hub.pull(REPO, Path(out), config="alone")
    shards_there = EmbeddingShards(hub.locate(f"{REPO}/alone"))
    rows = datasets.load_dataset(REPO, "alone", split="train", streaming=True)
    first = next(iter(rows))
    return {
        "uploaded": pushed.files_uploaded,
        "streamed": [[*map(float, rows.embedding_LD.ravel())] for rows in shards_there],
        "loaded": [latent.hex() for latent in first["embedding"]],
    }


def test_latents_of_their_own_can_be_fetched_loaded_and_streamed(
    server: HubServer, client: Callable[..., Any], toy_alone: Path, tmp_path: Path
) -> None:
    told = client(publish_alone, toy_alone, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(toy_alone) == below(server, "alone/train")
    groups = list(EmbeddingShards(toy_alone))
    assert told["streamed"] == [[*map(float, rows.embedding_LD.ravel())] for rows in groups]
    assert "".join(told["loaded"]) == groups[0].embedding_LD[: groups[0].offsets[1]].tobytes().hex()
    card = server.files(REPO)["README.md"].decode()
    assert 'np.frombuffer(b"".join(embedding), "float16").reshape(-1, 4)' in card


def test_what_is_pushed_can_be_fetched_loaded_and_streamed(
    server: HubServer, client: Callable[..., Any], toy_strips: Path, toy_embeddings: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    told = client(publish_and_fetch, toy_strips, toy_embeddings, out)

    assert contents(out / "strips") == contents(toy_strips) == below(server, f"{STRIPS}/train")
    assert contents(out / "embeddings") == contents(toy_embeddings) == below(server, f"{EMBEDDINGS}/train")
    assert told["uploaded"] == [6, 6, 0, 0]
    assert told["unchanged"] == [0, 0, 5, 5]

    first, second = (commit.sha for commit in server.repositories[REPO].commits[1:])
    assert told["commits"] == [first, second, second, second]
    assert told["url"] == f"{server.endpoint}/datasets/{REPO}"
    assert told["located"] == f"hf://datasets/{REPO}@{second}/{EMBEDDINGS}/train"
    assert told["again"] == [told["located"]] * 2

    ids = [row["id"] for row in shards.sample(toy_strips, Manifest.load(toy_strips), 10, ["id"])]
    assert told["streamed"] == ids
    assert told["loaded"] == [ids, ids]
    assert told["image"][0].startswith("Image(")
    assert told["image"][1][1] == 32
    assert told["embedding"] == "List(List(Value('float16'), length=4))"
    assert told["choices"] == (
        f"UsageError: name one of the configurations of {REPO}, with --config or after a slash: {EMBEDDINGS}, {STRIPS}"
    )
    assert told["no such split"].startswith("UsageError: 'test' is none of the splits")
    everything = b"".join(server.files(REPO).values()) + b"".join(contents(out).values())
    assert server.token.encode() not in everything

    card = server.files(REPO)["README.md"].decode()
    assert metadata(card)["configs"] == [
        {"config_name": config, "data_files": [{"split": "train", "path": f"{config}/train/*.parquet"}]}
        for config in (STRIPS, EMBEDDINGS)
    ]
    assert metadata(card)["size_categories"] == ["n<1K"]
    assert metadata(card)["license"] == "apache-2.0"
    assert f'load_dataset("{REPO}", "{STRIPS}", split="train")' in card
    assert f"rottrain stage1 --shards {REPO}/{EMBEDDINGS}/train" in card
    for folder in (toy_strips, toy_embeddings):
        assert Manifest.load(folder).fingerprint in card
    for config in (STRIPS, EMBEDDINGS):
        picture = server.files(REPO)[f"{config}/strip.png"]
        assert picture == server.files(REPO)[f"{STRIPS}/strip.png"]
        assert f"({config}/strip.png)" in card


# ---- interrupted, resumed, replaced


def push_one_by_one(folder: str, *config: str) -> str:
    """Push with a commit for each shard, and say how that ends."""
    without_waits()
    upload._FILES_PER_COMMIT = 1
    return outcome(lambda: hub.push(Path(folder), REPO, config=config[0] if config else None).paths)


def test_an_interrupted_push_shows_no_manifest_and_goes_on(
    server: HubServer, client: Callable[..., Any], toy_strips: Path, tmp_path: Path
) -> None:
    shard_files = sorted(name for name in contents(toy_strips) if name.endswith(".parquet"))
    place = f"{STRIPS}/train"

    server.fail_after(uploads=1, status=507)
    told = client(push_one_by_one, toy_strips)
    assert told.startswith(f"HubError: pushing to {REPO} failed: the Hub answers 507 (")
    assert told.endswith("the same command resumes")
    assert sorted(below(server, place)) == shard_files[:1]
    server.heal()

    server.fail_after(uploads=1, status=None)
    told = client(push_one_by_one, toy_strips)
    assert told.startswith(f"HubError: pushing to {REPO} failed: the Hub can't be reached (")
    assert sorted(below(server, place)) == shard_files[:2]
    assert "README.md" not in server.files(REPO)
    server.heal()

    sent = len(server.requests("PUT", "/lfs/"))
    last = f"{place}/{shard_files[2]}"
    assert client(push_one_by_one, toy_strips) == str(
        (last, f"{place}/_manifest.json", "README.md", f"{STRIPS}/strip.png")
    )
    assert len(server.requests("PUT", "/lfs/")) == sent + 1
    assert below(server, place) == contents(toy_strips)


def test_another_folder_of_the_same_name_is_refused_or_replaces(
    server: HubServer, client: Callable[..., Any], toy_strips: Path, tmp_path: Path
) -> None:
    other = render_toy(tmp_path / "other", limit=5, rows_per_shard=3)
    place = f"{STRIPS}/train"
    client(push_one_by_one, toy_strips)
    prints = [Manifest.load(folder).fingerprint[:12] for folder in (toy_strips, other)]

    told = client(push_one_by_one, other)
    assert told.startswith(f"UsageError: {REPO} holds another folder as {place}: its fingerprint is {prints[0]}, this")
    assert prints[1] in told
    assert below(server, place) == contents(toy_strips)

    server.fail_after(uploads=1)
    assert client(push_one_by_one, other, STRIPS).startswith("HubError: ")
    assert "_manifest.json" not in below(server, place)
    server.heal()
    client(push_one_by_one, other, STRIPS)
    assert below(server, place) == contents(other)


def render_toy(out: Path, **options: Any) -> Path:
    """A folder of strips."""
    rows_per_shard = options.pop("rows_per_shard", 4)
    style = options.pop("style", {})
    source = Source(**{"location": "toy", "corpus": "toy", "limit": 4} | options)
    pipeline.render(source, StripStyle(**style), out, rows_per_shard=rows_per_shard)
    return out


# ---- cards


def push_with_config(config: str, *folders: str) -> list[str]:
    """Push folders one after another."""
    return [
        outcome(lambda folder=folder: hub.push(Path(folder), REPO, config=config).files_uploaded) for folder in folders
    ]


def test_splits_share_a_configuration_and_leave_the_rest_of_the_card(
    server: HubServer, client: Callable[..., Any], toy_strips: Path, tmp_path: Path
) -> None:
    others = {"config_name": "theirs", "data_files": "theirs.csv"}
    ours = yaml.safe_dump({"license": "cc-by-4.0", "pretty_name": "Mine", "configs": [others]}, sort_keys=False)
    server.put(REPO, "README.md", f"---\n{ours}---\n# Mine\n\nWords of mine.\n".encode())
    validation = render_toy(tmp_path / "validation", split="validation")
    larger = render_toy(tmp_path / "larger", split="test", style={"font_size_px": 16})

    told = client(push_with_config, "strips", toy_strips, validation, toy_strips, larger)
    assert told[:3] == ["6", "3", "0"]
    assert told[3].startswith(f"UsageError: {REPO} has a split train of strips of another corpus, style")

    card = server.files(REPO)["README.md"].decode()
    about = metadata(card)
    assert about["license"] == ["cc-by-4.0", "apache-2.0"]
    assert about["pretty_name"] == "Mine"
    paths = [{"split": split, "path": f"strips/{split}/*.parquet"} for split in ("train", "validation")]
    assert about["configs"] == [others, {"config_name": "strips", "data_files": paths}]
    assert "# Mine\n\nWords of mine.\n\n<!-- rotdata:begin strips -->\n" in card
    assert card.index("#### train") < card.index("#### validation")
    for folder in (toy_strips, validation):
        assert Manifest.load(folder).fingerprint in card

    edited = card.replace("apache-2.0", "mine").replace("Words of mine.", "Others.") + "\nAfterwards.\n"
    server.put(REPO, "README.md", edited.encode())
    assert client(push_with_config, "strips", toy_strips) == ["0"]
    assert server.files(REPO)["README.md"].decode() == edited


def test_a_card_with_broken_metadata_is_refused(toy_strips: Path) -> None:
    section = section_of(toy_strips)
    for broken in ("---\n[\n---\n", "---\n- a list\n---\n", "---\nconfigs: 3\n---\n"):
        with pytest.raises(UsageError, match="not the YAML that the Hub reads"):
            cards.write_card(broken, section)


def test_a_card_keeps_what_it_is_given(toy_strips: Path) -> None:
    section = section_of(toy_strips)
    for readme in ("", "---\n---\n", "Words", "---\nlicense: mit\n---\nWords\n---\nmore\n"):
        card = cards.write_card(readme, section)
        assert cards.write_card(card, section) == card
        assert card.count("<!-- rotdata:begin strips -->") == 1
        assert readme.rpartition("---\n")[2].strip() in card


def section_of(folder: Path) -> cards.Section:
    """What a card is told of a folder."""
    return cards.describe(folder, Manifest.load(folder), repo=REPO, config="strips")


def test_text_of_rows_is_no_markup_in_the_card(tmp_path: Path) -> None:
    evil = "</pre><script>alert(1)</script>```\n<!-- rotdata:end evil -->\n---\n[a](javascript:b) \u202e\x1b[31m"
    row = {"id": f"<img src=x>{evil}", "question": evil, "cot": evil, "answer": evil}
    strips = tmp_path / "strips"
    render_toy(strips, location=str(write_jsonl(tmp_path / "rows.jsonl", [row])), corpus="generic")
    card = hub.push(strips, REPO, config="evil", dry_run=True).card
    assert "<script" not in card
    assert "<img" not in card
    assert card.count("</pre>") == card.count("<pre>") == 1
    assert card.count("rotdata:end evil -->") == 1
    assert "&lt;script&gt;" in card
    assert "\x1b" not in card
    assert "\u202e" not in card


def test_values_of_manifests_are_no_markup_in_the_card() -> None:
    for value in ("<b>", "*a*", "a|b", "`a`", "[a](b)", "a\nb", "\ud800", "&lt;", "_a_", "www.a.b", "\\"):
        assert not set(cards._inline(value)) & set("<>*|`[]()\n_.\\\ud800")


# ---- before anything is sent


def test_a_dry_run_needs_no_hub(toy_strips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pushed = hub.push(toy_strips, REPO, dry_run=True)
    names = [f"train/{name}" for name in contents(toy_strips)]
    assert sorted(pushed.paths) == sorted(["README.md", *(f"{STRIPS}/{name}" for name in (*names, "strip.png"))])
    assert (pushed.files_uploaded, pushed.files_unchanged, pushed.commit, pushed.dry_run) == (6, 0, None, True)
    assert pushed.bytes_uploaded > sum(map(len, contents(toy_strips).values()))
    assert "HF_HUB_OFFLINE" in capsys.readouterr().err


def dry_run(folder: str) -> list[Any]:
    """Say what pushes would do to a dataset that is not there, and to one that is."""
    absent = hub.push(Path(folder), "tester/nothing", dry_run=True)
    present = hub.push(Path(folder), REPO, dry_run=True)
    return [absent.files_uploaded, present.files_uploaded, present.files_unchanged, present.commit]


def test_a_dry_run_writes_nothing(server: HubServer, client: Callable[..., Any], toy_strips: Path) -> None:
    for name, data in contents(toy_strips).items():
        server.put(REPO, f"{STRIPS}/train/{name}", data)
    told = client(dry_run, toy_strips)
    assert told == [6, 2, 4, server.repositories[REPO].head.sha]
    assert set(server.repositories) == {REPO}
    assert {line.method for line in server.log} == {"GET"}


def test_a_folder_that_is_not_whole_is_not_pushed(toy_strips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "strips"
    shutil.copytree(toy_strips, folder)
    shard = folder / "toy-train-00001-of-00003.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(
        ShardError, match=r"is not what its manifest says \(toy-train-00001-of-00003.parquet: .*repairs it"
    ):
        hub.push(folder, REPO)
    shutil.copy(toy_strips / shard.name, shard)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ShardError, match="notes.txt: not of this folder"):
        hub.push(folder, REPO)
    manifest = Manifest.load(toy_strips)
    del manifest.shards[1]
    manifest.save(folder)
    with pytest.raises(ShardError, match="has 2 of 3 shards: finish it"):
        hub.push(folder, REPO)


def test_a_part_is_not_pushed(tmp_path: Path) -> None:
    toy, out = Source(location="toy", corpus="toy", limit=4), tmp_path / "parts"
    pipeline.render(toy, StripStyle(), out, rows_per_shard=1, mode=resumable.Mode(part=(2, 2)))
    with pytest.raises(UsageError, match=rf"is a part: join all parts with `rotdata merge {out}`"):
        hub.push(out / "part-00002-of-00002", REPO)


@pytest.mark.parametrize("repo", ["rows", "a/b/c", "../rows", "a b/c", "/rows", "a/", "a/b.git", ""])
def test_a_dataset_is_owner_and_name(toy_strips: Path, tmp_path: Path, repo: str) -> None:
    with pytest.raises(UsageError, match="OWNER/NAME"):
        hub.push(toy_strips, repo)
    with pytest.raises(UsageError, match="OWNER/NAME"):
        hub.pull(repo, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("config", ["a/b", "..", ".a", "-a", "", "a b", "a*", "a."])
def test_a_configuration_is_a_plain_name(toy_strips: Path, config: str) -> None:
    with pytest.raises(UsageError, match="a configuration's name"):
        hub.push(toy_strips, REPO, config=config, dry_run=True)


def test_default_names_tell_what_a_folder_holds(toy_embeddings: Path) -> None:
    manifest = Manifest.load(toy_embeddings)
    assert hub.config_name(manifest) == EMBEDDINGS
    manifest.encoder = {**(manifest.encoder or {}), "model": "Qwen/Qwen3-VL-4B-Instruct"}
    manifest.settings |= {"pool": 4, "store": "int8"}
    manifest.corpus = "gsm8k"
    assert hub.config_name(manifest) == "gsm8k-qwen3-vl-4b-instruct-dejavu-sans-20px-pool4-int8"


def test_what_names_no_place_is_refused(tmp_path: Path) -> None:
    assert hub.locate(str(tmp_path)) == tmp_path
    (tmp_path / "file").touch()
    for name in (
        "",
        "rows",
        "/no/such/folder",
        "./rows",
        "a/b/c/d/e",
        "hf://a/b",
        "https://a/b",
        str(tmp_path / "file"),
    ):
        with pytest.raises(UsageError, match="neither a folder here nor a dataset of the Hub"):
            hub.locate(name)
    with pytest.raises(hub.HubError, match="no folder out/embeddings here, .*HF_HUB_OFFLINE is set"):
        hub.locate("out/embeddings")


def test_errors_hold_no_token_and_no_signed_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "an-odd-token")
    said = hub_client.tidy(
        "no\x1b[2J an-odd-token, hf_AbCd123, https://a.b/c?X-Signature=d\nfor eyJhbGciOi.abc-d" + "x" * 999
    )
    assert said.startswith("no [2J [token], [token], https://a.b/c for [token]")
    assert len(said) < 250


# ---- who may


def knock(folder: str, out: str) -> list[str]:
    """How things end for somebody without a token."""
    without_waits()
    return [
        outcome(lambda: hub.push(Path(folder), "tester/new")),
        outcome(lambda: hub.pull("tester/hidden", Path(out))),
        outcome(lambda: hub.locate("hf://datasets/tester/hidden")),
        outcome(lambda: hub.locate(f"{REPO}@nothing")),
        outcome(lambda: hub.locate(REPO)),
    ]


def push_privately(folder: str, past: str) -> list[str]:
    """Push to a dataset that is made for it, to one that is public, and to what that one was in the past."""
    hidden = hub.push(Path(folder), "tester/hidden", private=True)
    refused = outcome(lambda: hub.push(Path(folder), REPO, private=True))
    look = remote.read_head
    upload.read_head = lambda repo: replace(look(repo), sha=past)
    return [str(hidden.files_uploaded), refused, outcome(lambda: hub.push(Path(folder), REPO))]


def test_private_datasets_stay_private(
    server: HubServer, client: Callable[..., Any], toy_strips: Path, tmp_path: Path
) -> None:
    past = server.create(REPO).head.sha
    server.put(REPO, "notes.txt", b"someone else's")
    made, refused, outrun = client(push_privately, toy_strips, past)
    assert made == "6"
    assert server.repositories["tester/hidden"].private
    assert refused == f"UsageError: {REPO} is public already: make it private in its settings, or push to another name"

    assert "someone else committed meanwhile: the same command goes on from there" in outrun
    assert set(server.files(REPO)) == {".gitattributes", "notes.txt"}

    told = client(knock, toy_strips, tmp_path / "out", token=False)
    assert all("401 (" in each and "hf auth login" in each for each in told[:3])
    assert told[3].startswith(f"HubError: there is no folder {REPO}@nothing here")
    assert "404" in told[3]
    assert "holds no CONFIG/SPLIT/_manifest.json" in told[4]
    assert not (tmp_path / "out").exists()


# ---- pull


def pull_in_turn(out: str, *options: str) -> list[str]:
    """Fetch with each set of options, and say how that ends."""
    without_waits()
    return [outcome(lambda each=each: hub.pull(REPO, Path(out), **json.loads(each)).fingerprint) for each in options]


def test_a_fetch_resumes_and_touches_nothing_else(
    server: HubServer, client: Callable[..., Any], toy_strips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for name, data in contents(toy_strips).items():
        server.put(REPO, f"a/train/{name}", data)
    first = server.repositories[REPO].head.sha
    other = render_toy(tmp_path / "other", limit=3)
    for name, data in contents(other).items():
        server.put(REPO, f"b/train/{name}", data)
    prints = [Manifest.load(folder).fingerprint for folder in (toy_strips, other)]

    server.fail("GET", "/lfs/", after=2, status=500)
    (told,) = client(pull_in_turn, out, '{"config": "a"}')
    assert told.startswith("HubError: hf://datasets/")
    assert "the Hub answers 500" in told
    assert sorted(contents(out)) == ["toy-train-00000-of-00003.parquet", "toy-train-00001-of-00003.parquet"]
    server.heal()

    before = len(server.requests("GET", "/lfs/"))
    told = client(
        pull_in_turn,
        out,
        json.dumps({"revision": first}),
        '{"config": "a"}',
        '{"config": "b"}',
        '{"config": "b", "overwrite": true}',
        "{}",
    )
    assert [told[0], told[1], told[3]] == [prints[0], prints[0], prints[1]]
    assert told[2].startswith(
        f"OutputOccupied: {out} holds another folder of shards, which differs in source.limit: 10 | 3"
    )
    assert told[4].startswith("UsageError: name one of the configurations")
    assert len(server.requests("GET", "/lfs/")) == before + 2
    assert contents(out) == contents(other)

    (out / "notes.txt").write_text("mine")
    (told,) = client(pull_in_turn, out, '{"config": "b", "overwrite": true}')
    assert told == f"OutputOccupied: {out} holds other things (notes.txt): choose an empty or new folder"
    assert contents(out) == {**contents(other), "notes.txt": b"mine"}


def test_rejects_come_along(server: HubServer, client: Callable[..., Any], tmp_path: Path) -> None:
    rows = [{"question": "q", "cot": "c", "answer": "a"}, {"question": "q", "cot": "", "answer": "a"}]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    strips = render_toy(tmp_path / "strips", location=str(source), corpus="generic")
    assert client(push_with_config, "rows", strips) == ["5"]
    client(pull_in_turn, tmp_path / "out", "{}")
    assert contents(tmp_path / "out") == contents(strips)
    assert "_rejects.jsonl" in contents(strips)


def test_a_folder_that_an_earlier_release_pushed_is_fetched_and_renewed(
    server: HubServer, client: Callable[..., Any], tmp_path: Path
) -> None:
    rows = [{"question": "q", "cot": "c", "answer": "a"}, {"question": "q", "cot": "", "answer": "a"}]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    strips = render_toy(tmp_path / "strips", location=str(source), corpus="generic")
    for name, content in contents(strips).items():
        server.put(REPO, f"rows/train/{shards.EARLIER.get(name, name)}", content)
    client(pull_in_turn, tmp_path / "out", "{}")
    assert contents(tmp_path / "out") == contents(strips)
    assert "rows/train/manifest.json" in server.files(REPO)
    client(push_with_config, "rows", strips)
    assert below(server, "rows/train") == contents(strips)


# ---- reading from afar


class NoiseEncoder(StandInEncoder):
    """Latents that don't compress."""

    def latents(self, strip: NDArray[np.uint8]) -> NDArray[np.float32]:
        """[H, W] -> [K, D]."""
        shape = (strip.shape[1] // self.identity.factor, self.identity.width)
        return np.random.default_rng(int(strip.sum())).standard_normal(shape, dtype=np.float32)


def read_far_group(name: str) -> list[Any]:
    """Read one row group, and say which rows it has."""
    without_waits()
    far = EmbeddingShards(hub.locate(name))
    return [far.group_rows, far.read_group(2).ids]


def read_while_it_fails(name: str) -> str:
    """Read a row group from a Hub that stops to answer."""
    without_waits()
    far = EmbeddingShards(hub.locate(name))
    return outcome(lambda: far.read_group(0))


def test_a_row_group_is_read_without_its_file(
    server: HubServer, client: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rotdata.shards.writer._ROW_GROUP_BYTES", 1 << 20)
    folder = tmp_path / "embeddings"
    pipeline.embed(render_toy(tmp_path / "strips", limit=150, rows_per_shard=150), NoiseEncoder(width=1024), folder)
    for name, data in contents(folder).items():
        server.put(REPO, f"noise/train/{name}", data)
    near = EmbeddingShards(folder)
    (entry,) = near.manifest.shards.values()
    assert len(entry.row_groups) >= 6

    assert client(read_far_group, REPO) == [near.group_rows, near.read_group(2).ids]
    assert entry.bytes / len(entry.row_groups) < server.downloaded_bytes < entry.bytes / 2
    assert {line.status for line in server.requests("GET", "/lfs/")} == {206}

    server.fail("GET", "/lfs/", status=503)
    told = client(read_while_it_fails, REPO)
    assert told.startswith("HubError: hf://datasets/tester/rows@")
    assert "can't be read: the Hub answers 503" in told


def open_far(name: str) -> list[Any]:
    """Rows of a dataset through the front door: how many, the ids of a batch, and a column of all."""
    without_waits()
    shards = rotdata.open_shards(name)
    batch = next(iter(shards.loader(batch_size=3)))
    shape = list(batch["latents_BKD"].shape)
    return [len(shards), batch["id"], shape[0] == len(batch["mask_BK"]), shards.table(["id"]).column("id").to_pylist()]


def test_shards_are_opened_where_they_are(server: HubServer, client: Callable[..., Any], toy_embeddings: Path) -> None:
    for name, data in contents(toy_embeddings).items():
        server.put(REPO, f"toy/train/{name}", data)
    ids = [row.id for row in rotdata.open_shards(toy_embeddings)]
    assert client(open_far, REPO) == client(open_far, f"{REPO}/toy/train") == [10, ids[:3], True, ids]


# ---- hostile datasets


def try_all(out: str, *repos: str) -> list[list[str]]:
    """Fetch datasets, and read them as embeddings."""
    without_waits()
    return [
        [outcome(lambda repo=repo: hub.pull(repo, Path(out) / repo)), outcome(lambda repo=repo: read_first(repo))]
        for repo in repos
    ]


def read_first(repo: str) -> str:
    """Read a row group of a dataset."""
    return f"{len(EmbeddingShards(hub.locate(repo)).read_group(0))} rows"


def hostile(folder: Path, **changes: Any) -> dict[str, bytes]:
    """A folder whose first shard's entry is another, with a manifest that matches its own checksum."""
    manifest = Manifest.load(folder)
    manifest.shards[0] = replace(manifest.shards[0], **changes)
    scratch = folder.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    manifest.save(scratch)
    return contents(folder) | {"_manifest.json": (scratch / "_manifest.json").read_bytes()}


def test_hostile_datasets_are_refused(
    server: HubServer, client: Callable[..., Any], toy_embeddings: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "embeddings"
    shutil.copytree(toy_embeddings, folder)
    name = "toy-train-00000-of-00003.parquet"
    table = pq.read_table(folder / name)
    other = tmp_path / "other.parquet"
    pq.write_table(table.append_column("code", [["import os"] * len(table)]), other)
    forged = other.read_bytes()

    datasets = {
        "a/traversal": hostile(folder, file="../../../escaped.parquet"),
        "a/absolute": hostile(folder, file="/tmp/escaped.parquet"),
        "a/huge": hostile(folder, bytes=10**16),
        "a/liar": hostile(folder, bytes=10_000_000_000_000_000),
        "a/words": hostile(folder, bytes="many"),
        "a/columns": hostile(folder, bytes=len(forged), sha256=sha256(forged).hexdigest()) | {name: forged},
        "a/forged": hostile(folder, sha256="0" * 64),
        "a/short": contents(folder) | {name: b"PAR1"},
        "a/pickle": contents(folder) | {"data.pkl": b"cos\nsystem\n", "../evil.pkl": b"cos\nsystem\n"},
    }
    for repo, files in datasets.items():
        for path, data in files.items():
            claimed = 10**16 if repo == "a/liar" and path == name else None
            server.put(repo, f"rows/train/{path}", data, claimed_size=claimed)
    server.put("a/manifest", "rows/train/_manifest.json", b"{}", claimed_size=10**10)
    server.put("a/unfinished", "rows/train/_manifest.json", unfinished(folder))
    server.put("a/paths", "../../_manifest.json", b"{}")
    server.put("a/paths", "rows/../_manifest.json", b"{}")

    repos = [*datasets, "a/manifest", "a/unfinished", "a/paths"]
    out = tmp_path / "out"
    told = dict(zip(repos, client(try_all, out, *repos), strict=True))
    pulled = {repo: words for repo, (words, _) in told.items()}
    read = {repo: words for repo, (_, words) in told.items()}

    for repo in ("a/traversal", "a/absolute"):
        assert "ShardError" in pulled[repo]
        assert "names files that can't be its own" in pulled[repo]
        assert "names files that can't be its own" in read[repo]
    assert "has 4976 bytes, its manifest says 10000000000000000 bytes" in pulled["a/huge"]
    assert pulled["a/liar"].startswith("HubError")
    assert "needs 10000000.0 GB more" in pulled["a/liar"]
    assert "is not one that this toolkit writes (bytes)" in pulled["a/words"]
    for words in (pulled["a/columns"], read["a/columns"]):
        assert "is not what its manifest says" in words
        assert "columns [id, question, cot, answer, num_latents, spans, embedding, code]" in words
    assert "has another SHA-256 than its manifest says" in pulled["a/forged"]
    assert "has 4 bytes, its manifest says 4976" in pulled["a/short"]
    assert "claims 10000000000 bytes" in pulled["a/manifest"]
    assert "claims 10000000000 bytes" in read["a/manifest"]
    assert "has 2 of 3 shards: it was published unfinished" in pulled["a/unfinished"]
    assert "holds no CONFIG/SPLIT/_manifest.json" in pulled["a/paths"]

    assert pulled["a/pickle"].startswith("Manifest(")
    assert contents(out / "a" / "pickle") == contents(folder)
    assert not [line for line in server.log if line.path.endswith(".pkl")]
    assert not list(tmp_path.rglob("escaped*"))
    assert not [
        path
        for path in contents(out)
        if "_manifest.json" in path and "a/pickle" not in path and "a/columns" not in path
    ]


def unfinished(folder: Path) -> bytes:
    """The manifest of a folder whose last shard is not made yet."""
    manifest = Manifest.load(folder)
    del manifest.shards[2]
    scratch = folder.parent / "scratch"
    manifest.save(scratch)
    return (scratch / "_manifest.json").read_bytes()
