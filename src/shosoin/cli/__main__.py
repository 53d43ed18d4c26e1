"""Makes ``python -m shosoin.cli`` the same as ``shosoin``."""

from shosoin.cli import main

main()
