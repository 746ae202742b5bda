"""`python -m rotdata`: the rotdata command."""

from rotdata.cli import main

main()
