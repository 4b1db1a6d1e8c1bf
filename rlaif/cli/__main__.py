"""`python -m rlaif.cli`: what launchers of several processes name."""

from rlaif.cli import main

if __name__ == "__main__":
    main()
