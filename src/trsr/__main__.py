"""`python -m trsr`: the command line, where the script is not on the path."""

from trsr.cli import main

if __name__ == "__main__":
    main()
