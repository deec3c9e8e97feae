"""``python -m pbt.cli``: the command line without the installed script."""

from pbt.cli import main

if __name__ == "__main__":
    main()
