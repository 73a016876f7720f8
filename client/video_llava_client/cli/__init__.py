"""`video-llava`: answers to stdout, everything else to stderr."""

from .app import app, main

__all__ = ["app", "main"]
