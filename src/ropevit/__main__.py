"""`python -m ropevit`: the command line."""

from ropevit.cli import main

main()
