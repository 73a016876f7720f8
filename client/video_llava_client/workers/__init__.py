"""Processes that decode media from strangers, with limits that hold inside FFmpeg and Pillow too."""
