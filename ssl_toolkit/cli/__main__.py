"""``python -m ssl_toolkit.cli``: the command line without its script."""

from ssl_toolkit.cli import main

main()
