"""The directory into which the monitor writes: checked before anything is measured."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
import tempfile

from kd_perception.errors import ConfigError
from kd_perception.evaluation.comparison import ComparisonRun
from kd_perception.evaluation.comparison_files import check_replaceable, RECORDING, save_run
from kd_perception.evaluation.reports.report import write_report


class ReportFolder:
    """
    Recording and report of one run.

    :param path: need not exist.
    :param report: write the report beside the recording.
    """

    def __init__(self, path: Path, *, report: bool = True) -> None:
        self._path = path
        self._report = report
        self._made = False
        self.written = False  # by the one who calls ``write``

    def prepare(self) -> None:
        """
        Make the directory, so that no measurement is lost because it cannot be written.

        :raises ConfigError: when nothing can be written there, or something foreign is there.
        """
        check_replaceable(self._path / RECORDING)
        try:
            self._made = not self._path.exists()
            self._path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self._path).close()
        except OSError as error:
            raise ConfigError(f'{self._path}: the report cannot be written there: '
                              f'{error.strerror}; choose another directory (out)') from None

    def write(self, run: ComparisonRun) -> Path:
        """
        Save ``run`` and its report; return the page, or the recording where that is all.

        :raises KdPerceptionError: when the run holds nothing to report.
        :raises OSError: when the disk is full, or gone.
        """
        recording = save_run(run, self._path / RECORDING)
        return write_report(run, self._path).html if self._report else recording

    def close(self) -> None:
        """Remove the directory if this run made it and has left it empty."""
        if self._made and not self.written:
            with suppress(OSError):  # somebody else put something there
                self._path.rmdir()
