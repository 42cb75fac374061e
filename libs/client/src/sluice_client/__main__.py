"""`python -m sluice_client`: the `sluice` command."""

from sluice_client.cli import main

if __name__ == "__main__":
    main()
