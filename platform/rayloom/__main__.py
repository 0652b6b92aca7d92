"""`python -m rayloom`, the same as the command `rayloom`."""

from rayloom.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
