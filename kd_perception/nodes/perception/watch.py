"""
What the perception node says of the pictures themselves: faulty cameras, unfamiliar pictures.

Comes in: each frame after its answer was published, so that no answer waits for it. Goes out: one
status per camera for ``/diagnostics``, a warning where a fault lasts or pictures are unlike those
that the model was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
import time

from diagnostic_msgs.msg import DiagnosticStatus

from kd_perception.errors import BundleError
from kd_perception.imaging.faults import CameraWatch, Fault
from kd_perception.nodes.conversion import stamp_to_ns, status
from kd_perception.nodes.perception.serving import ServingModel
from kd_perception.nodes.perception.worker import FrameResult
from kd_perception.tasks.familiarity import (
    Familiarity,
    FamiliarityWatch,
    load_statistics,
    PictureStatistics,
)

SCHEMA_VERSION = 1
# Scoring costs more than the search for faults, and is smoothed over a second.
_SCORE_EVERY_NS = 100_000_000
_FRESH_NS = 2_000_000_000
_UNLIKE = 'pictures unlike the training data'


@dataclass(frozen=True)
class InputState:
    """
    What was seen of one camera lately.

    :param at_ns: steady clock when the last picture came in; 0 before the first.
    :param familiarity: None where the model has no statistics.
    :param trouble: why the pictures could not be looked at; empty when they were.
    """

    at_ns: int = 0
    faults: tuple[Fault, ...] = ()
    familiarity: Familiarity | None = None
    trouble: str = ''

    @property
    def _strange(self) -> Familiarity | None:
        seen = self.familiarity
        # That a black picture is unlike the others needs no saying.
        return seen if seen is not None and seen.seconds is not None and not self.faults else None

    def names(self) -> tuple[str, ...]:
        """Return what is wrong, in words that stay the same while it lasts."""
        said = [fault.name for fault in self.faults] + [_UNLIKE] * (self._strange is not None)
        return (*said, self.trouble) if self.trouble else tuple(said)

    def warnings(self) -> list[str]:
        """Return what is wrong, with numbers."""
        said = [str(fault) for fault in self.faults]
        if (seen := self._strange) is not None:
            said.append(f'{_UNLIKE} for {seen.seconds:.1f} s: score {seen.score:.2f} (limit 1)')
        return [*said, self.trouble] if self.trouble else said


class _Camera:
    """The watches over one camera."""

    def __init__(self) -> None:
        self.faults = CameraWatch()
        self.familiarity: FamiliarityWatch | None = None
        self.scored_ns = 0


class InputWatch:
    """
    Looks at frames in the inference thread and tells of them in the ROS thread.

    :param cameras: their names; empty for the only one.
    :param tell: called in the ROS thread with a line when something else is wrong than before.
    """

    def __init__(self, cameras: Iterable[str] = (), enabled: bool = True, *,
                 tell: Callable[[str], None] = lambda line: None) -> None:
        self.enabled = enabled
        self._tell = tell
        self._told: dict[str, tuple[str, ...]] = {}
        self._paused = False
        self._model: ServingModel | None = None
        self._statistics: PictureStatistics | None = None
        self._unusable = ''
        self._cameras = {camera: _Camera() for camera in cameras}
        # Replaced as a whole by one thread, read by the other.
        self._states = dict.fromkeys(self._cameras, InputState())

    def restart(self) -> None:
        """Forget all pictures; nothing may look meanwhile."""
        for camera in self._cameras:
            self._cameras[camera] = _Camera()
            self._states[camera] = InputState()
        self._model, self._paused = None, False

    def look(self, frame: FrameResult) -> None:
        """Note what a frame shows; never raises, because the frame was answered already."""
        if not self.enabled:
            self._paused = True
            return
        name, now = frame.arrival.camera, frame.arrival.received_ns
        try:
            if self._paused:  # what lasted before says nothing of now
                self.restart()
            self._adopt(frame.model)
            self._states[name] = self._seen(frame, now)
        except Exception as error:
            # A defect here must not count as one of the frame.
            self._states[name] = InputState(
                now, trouble=f'pictures could not be looked at: {type(error).__name__}: {error}')

    def statuses(self, node_name: str, state: str) -> list[DiagnosticStatus]:
        """
        Return one status per camera; none when switched off.

        :param node_name: fully qualified.
        :param state: of the lifecycle.
        """
        if not self.enabled:
            return []
        for camera, seen in self._states.items():
            names = seen.names() if state == 'active' else ()
            if names != self._told.get(camera, ()):
                self._told[camera] = names
                self._tell(_of(camera, ', '.join(names) or 'pictures as usual again'))
        return [_status(node_name, state, *item) for item in self._states.items()]

    def _adopt(self, model: ServingModel) -> None:
        if model is self._model:
            return
        self._model, self._unusable = model, ''
        try:
            self._statistics = load_statistics(model.bundle)
        except BundleError as error:
            # The model serves all the same.
            self._statistics, self._unusable = None, f'pictures are not scored: {error}'
        order = model.bundle.spec.input.channel_order
        for camera in self._cameras.values():
            camera.scored_ns = 0
            camera.familiarity = (None if self._statistics is None
                                  else FamiliarityWatch(self._statistics, order))

    def _seen(self, frame: FrameResult, now: int) -> InputState:
        name, image = frame.arrival.camera, frame.processed.image
        camera, familiarity = self._cameras[name], self._states[name].familiarity
        faults = camera.faults.look(image, stamp_to_ns(frame.arrival.message.header.stamp), now)
        if camera.familiarity is None:
            familiarity = None
        elif now - camera.scored_ns >= _SCORE_EVERY_NS:
            camera.scored_ns = now
            familiarity = camera.familiarity.look(image, now)
        return InputState(now, faults, familiarity, self._unusable)


def _status(node_name: str, state: str, camera: str, seen: InputState) -> DiagnosticStatus:
    silent = time.monotonic_ns() - seen.at_ns > _FRESH_NS
    said = [] if silent or state != 'active' else seen.warnings()
    message = '; '.join(said) or (state if state != 'active' else
                                  'no pictures' if silent else 'pictures as usual')
    values = {'schema_version': SCHEMA_VERSION, 'camera': camera,
              'faults': ', '.join(f.name for f in seen.faults),
              'fault_s': max((f.seconds for f in seen.faults), default=0.0)}
    known = seen.familiarity
    if known is not None:
        values.update(unfamiliar=known.seconds is not None, unfamiliar_score=known.score,
                      unfamiliar_share=known.share)
    return status(f'{node_name}: pictures{f" of {camera}" if camera else ""}', camera, values,
                  level=DiagnosticStatus.WARN if said else DiagnosticStatus.OK,
                  message=_of(camera, message))


def _of(camera: str, message: str) -> str:
    return f'camera {camera}: {message}' if camera else f'camera: {message}'
