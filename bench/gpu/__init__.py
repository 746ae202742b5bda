"""What only a GPU can say, in parts that fit a short loan of one: `python -m bench.gpu --out FILE [PART ...]`.

Each part runs in a process of its own, ends by a deadline of its own, and writes a JSON line as soon as it has a
figure. What fails is written down with its reason, and the next thing is tried. README.md says how to run it.
"""
