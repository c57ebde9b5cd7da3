"""``python -m netdiag``: the same as the console script."""

from netdiag.cli.main import main

main()
