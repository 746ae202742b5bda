"""A corpus of everything that goes wrong with text files, made from a seed."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 1000
ZALGO = "".join(letter + "\u0301\u0323\u0338\u20d7\u0489" * 3 for letter in "hello")
EMOJI = (
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",  # a family, joined
    "\U0001f1e9\U0001f1ea",  # a flag
    "\U0001f44d\U0001f3fd",  # a skin tone
    "\u2764\ufe0f",  # a heart in colour
)
TEXTS = (
    "3+4=7",
    "\x00 is zero",
    "".join(map(chr, range(32))) + "\x7f\x80\x9f",
    ZALGO,
    "\u202eright to left\u202c \u2066isolated\u2069 \u05e9\u05dc\u05d5\u05dd 7",
    "\n" * 40 + "after forty lines",
    "a\r\nb\rc\u2028d\u2029e\x85f",
    "".join(EMOJI),
    "\ue000\uf8ff\U000f0000 private",
    "\ufffe\uffff\U0010ffff no characters",
    "<script>alert(1)</script> & \" '",
    "../../etc/passwd",
    "\ufb01 \ufdfd \u1e9e \u2211 \u222b",
    "{" * 50 + "\\frac{" * 50,
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u6570\u5b66 \u0e44\u0e17\u0e22",
    "\ufeff\u200b\u00ad\u2060 hidden",
    "word" * 500,
    "\t\ttabs\t",
    "\u0301 a mark with nothing before it",
    "#### 7 || <<1+1=2>>",
)
VALUES: tuple[Any, ...] = (None, True, 3, 3.5, -0.0, 1e400, [], ["a"], {}, {"a": 1}, "", " ", "\n\t ", 10**400)


def hostile_lines(seed: int = 0) -> list[str]:
    """A thousand lines that should be JSON records of the generic corpus; some are."""
    rng = random.Random(seed)
    lines: list[str] = []
    for index in range(ROWS):
        record: Any = {"id": f"row {index}", "question": "q", "cot": rng.choice(TEXTS), "answer": "7"}
        kind = rng.randrange(12)
        if kind == 0:
            record[rng.choice(["question", "cot", "answer", "id"])] = rng.choice(VALUES)
        elif kind == 1:
            del record[rng.choice(["question", "cot", "answer", "id"])]
        elif kind == 2:
            record["id"] = rng.choice(["the same", "../../x", "a/b\\c", "", 7, "x" * 10_000])
        elif kind == 3:
            record["cot"] = "".join(chr(rng.randrange(0x20, 0x2FFFF)) for _ in range(50))  # surrogates among them
        elif kind == 4:
            record["cot"] += " " + rng.choice(TEXTS) + rng.choice(TEXTS)
        elif kind == 5:
            record = rng.choice([None, 7, "text", [], [record], {}, {"line": "x"}])
        text = json.dumps(record)
        if kind == 6:
            text = rng.choice([text[: len(text) // 2], text + "}", "{" + text, text.replace('"', "'"), "nonsense"])
        lines.append(text)
    lines[100] = json.dumps({"question": "q", "cot": "long " * 20_000, "answer": "7"})  # 100,000 characters
    lines[200] = json.dumps({"question": "q", "cot": "m" * 100_000, "answer": "7"})
    lines[300] = '{"question": "q", "cot": "a \\ud800 b", "answer": "7"}'
    lines[400] = f'{{"question": "q", "cot": "3", "answer": {"9" * 1_000_000}}}'
    lines[500] = "[" * 100_000
    return lines


def write_hostile(folder: Path) -> dict[str, Path]:
    """The lines, and plain rows in formats and encodings that are awkward or broken."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = hostile_lines()
    plain = [{"id": str(i), "question": f"q{i}", "cot": f"{TEXTS[i % 20]} {i}", "answer": str(i)} for i in range(60)]
    rows = "".join(json.dumps(row) + "\n" for row in plain)
    zipped = gzip.compress(rows.encode())
    tame = [row | {"cot": f"{i} + \u00e9 = 7"} for i, row in enumerate(plain)]
    table = "id,question,cot,answer\n" + "".join(f'{row["id"]},q,"{row["cot"]}",7\n' for row in tame)
    contents: dict[str, bytes] = {
        "hostile.jsonl": "".join(f"{line}\n" for line in lines).encode(),
        "bom.jsonl": b"\xef\xbb\xbf" + rows.encode(),
        "utf16.jsonl": rows.encode("utf-16"),
        "windows.jsonl": rows.replace("\n", "\r\n").encode(),
        "returns.jsonl": rows.replace("\n", "\r").encode(),
        "cut_utf16.jsonl": rows.encode("utf-16")[:-1],
        "latin1.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in tame).encode("latin-1"),
        "whole.jsonl.gz": zipped,
        "truncated.jsonl.gz": zipped[: len(zipped) * 2 // 3],
        "document.json": json.dumps(plain).encode(),
        "wrapped.json": json.dumps({"data": plain}).encode(),
        "table.csv": table.encode(),
        "utf16.csv": table.encode("utf-16"),
        "latin1.csv": table.encode("latin-1"),
        "nul.csv": table.replace("7\n", "\x007\n").encode(),
        "ragged.csv": (table + "1,2\n1,2,3,4,5,6\n\n").encode(),
        "tabs.tsv": table.replace(",", "\t").encode(),
        "lines.txt": "".join(f"q{i}||<<{i}+1={i + 1}>> #### {i + 1}\nno mark\n" for i in range(30)).encode(),
        "nameless": rows.encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    pq.write_table(pa.Table.from_pylist(plain), folder / "plain.parquet")
    cots = pa.array([b"\xff" if i == 7 else row["cot"].encode() for i, row in enumerate(plain)]).view(pa.string())
    pq.write_table(pa.Table.from_pylist(plain).set_column(2, "cot", cots), folder / "no_text.parquet")
    whole = (folder / "plain.parquet").read_bytes()
    (folder / "damaged.parquet").write_bytes(whole[:200] + bytes(100) + whole[300:])
    (folder / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    return {path.name: path for path in sorted(folder.iterdir())}
