"""`python -m selfplay` is `selfplay`, for those whose scripts are not on their path."""

from selfplay.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
