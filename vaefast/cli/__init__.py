"""The command `vaefast`: an application that uses the library as any other program does, by `import vaefast` alone."""

from .main import main

__all__ = ["main"]
