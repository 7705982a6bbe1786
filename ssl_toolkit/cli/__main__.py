"""``python -m ssl_toolkit.cli``: the command line without its script."""

from ssl_toolkit.cli import main

if __name__ == "__main__":  # and not in the processes of a sweep, which import this too
    main()
