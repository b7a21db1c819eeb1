"""``python -m npimpute``."""

from .cli.main import main

main()
