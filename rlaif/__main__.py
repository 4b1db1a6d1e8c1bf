"""`rlaif` and `python -m rlaif`: takes the signals before the command line is loaded, which needs a
moment."""

from __future__ import annotations

from rlaif.runs import stopping


def main() -> None:
    """Entry point; see `rlaif.cli.main`."""
    stopping.catch_signals()
    from rlaif import cli

    cli.main()


if __name__ == "__main__":
    main()
