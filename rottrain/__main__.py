"""`python -m rottrain`: the rottrain command, for launchers."""

from rottrain.cli import main

main()
