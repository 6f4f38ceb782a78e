"""``python -m backlight``."""

from backlight.cli import main

main()
