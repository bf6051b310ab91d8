"""
The one exception family of the project.

Every message says what is wrong, where, and what to do, in one line. The command line prints it
and exits with 2; the nodes log it. Anything else that escapes is a defect of ours.
"""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST = 1000


def first_line(error: BaseException) -> str:
    """Return the first line of an error of others that says something, cut at 200 letters."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)[:200]


def some(names: Sequence[str], first: int = 6, last: int = 0) -> str:
    """Return names for a line of text: all, or the first and last of many."""
    if len(names) > first + last:
        names = [*names[:first], '…', *names[len(names) - last:]]
    return ', '.join(names)


class KdPerceptionError(Exception):
    """Base of all errors that a user can cause and mend; the message is one readable line."""

    def __str__(self) -> str:
        # Messages quote names and library errors, which may hold line breaks or be endless.
        text = super().__str__()
        if len(text) > _LONGEST:
            text = f'{text[:_LONGEST - 1]}…'
        return ' '.join(text.split('\n'))


class ConfigError(KdPerceptionError):
    """A recipe, a parameter, a class set or a command-line value is not usable."""


class BagError(KdPerceptionError):
    """A rosbag, a video or an image folder cannot be read or written."""


class ImageError(KdPerceptionError):
    """One image message or file cannot be decoded."""


class BundleError(KdPerceptionError):
    """A model bundle is missing, changed, of an unknown schema or inconsistent."""


class EngineError(KdPerceptionError):
    """A runtime is missing, refuses a graph, or cannot run the asked precision or device."""


class BuildError(EngineError):
    """A process beside cannot build what an engine needs: it says nothing of this process."""


class SimulationError(KdPerceptionError):
    """The simulator cannot start or was asked for an impossible scene."""


class TrainingError(KdPerceptionError):
    """Training, labelling or distillation cannot go on."""


class GraphError(KdPerceptionError):
    """A run of several nodes cannot be put together, or a node died while it ran."""
