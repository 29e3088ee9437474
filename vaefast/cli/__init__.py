"""The command `vaefast`. It uses the library as any other program does, through its public names only."""

from .main import main

__all__ = ["main"]
