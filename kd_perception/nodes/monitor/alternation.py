"""
One perception node whose model is exchanged between blocks of frames: placement ``alternate``.

Blocks go a b, b a, a b, …: in each round every arm has one block, and the order turns round, so
that a machine that warms up or slows down hits all arms alike. A model is exchanged as on a
vehicle, by setting parameters while frames go on; the frames meanwhile are marked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
import json
import math
import time
from typing import Any

from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter

from kd_perception.errors import ConfigError, GraphError
from kd_perception.evaluation.joining import Published
from kd_perception.nodes.bringup.graph import SHARED
from kd_perception.nodes.monitor.arms import ArmState

# Frames after an exchange that still carry its cost: cold caches, the old model being released.
SETTLE_FRAMES = 5
_PARAMETERS = ('model', 'engine', 'device', 'precision', 'threads')


class Alternation:
    """
    Decides which arm is served, and exchanges the model; everything happens in the ROS thread.

    :param node: the monitor.
    :param values: its parameters; ``settings`` holds one JSON object per arm.
    :param arms: their ``model`` is filled when it has been loaded once.
    """

    def __init__(self, node: Any, values: Mapping[str, Any],
                 arms: Mapping[str, ArmState]) -> None:
        self.arm_of: dict[int, str] = {}
        self._arms = arms
        self._names = tuple(arms)
        self._values = values
        if len(values['settings']) != len(self._names):
            raise ConfigError(f'parameter settings: {len(values["settings"])} for '
                              f'{len(self._names)} arms; placement alternate needs one each')
        self._settings = {name: _settings(text) for name, text in zip(
            self._names, values['settings'], strict=True)}
        self._every: int = values['swap_every']
        rounds = math.ceil(values['frames'] / self._every)
        self._blocks = rounds * len(self._names)
        self._client = node.create_client(
            SetParametersAtomically, f'{SHARED}/perception/set_parameters_atomically')
        self._serving = self._asked = ''
        self._asked_at = 0.0
        self._future: Any = None
        self._block = self._in_block = self._settle = 0

    @property
    def total(self) -> int:
        """Return how many frames will count, of all arms together; 0 for no end."""
        return self._blocks * self._every

    @property
    def counted(self) -> int:
        """Return how many frames have counted."""
        return self._block * self._every + self._in_block

    @property
    def done(self) -> bool:
        """Return whether all blocks are complete."""
        return bool(self._blocks) and self.counted >= self.total

    def missing(self) -> str:
        """Return what must be loaded before the run, in words; asks for it."""
        if not self._serving:
            return 'the perception node (no active model)'
        wanted = next((n for n in self._names if not self._arms[n].model), self._names[0])
        if wanted == self._serving and not self._asked:
            return ''
        if not self._asked:
            if not self._client.service_is_ready():
                return 'the perception node (no parameter service)'
            self._ask(wanted)
        return f'the model of arm {self._asked}'

    def on_model(self, model: dict[str, Any]) -> bool:
        """
        Take what ``~/active_model`` says.

        :returns: whether it is an arm that is wanted.
        """
        arm = self._asked or next((n for n in self._names if self._fits(n, model)), '')
        if not arm or not self._fits(arm, model):
            return False
        self.arm_of[int(model['exchange'])] = arm
        self._arms[arm].model = model
        if self._asked:
            self._settle = SETTLE_FRAMES
        self._serving, self._asked = arm, ''
        return True

    def expect(self, record: Published) -> Published:
        """Return the record of a publish call with arm and block; may ask for the next model."""
        if record.index < self._values['warmup']:
            self._settle = 0
            return replace(record, arm=self._serving)
        if self._in_block == self._every and not self.done:
            # Only now, when the last frame of the block has been answered or given up.
            self._block, self._in_block = self._block + 1, 0
            if (arm := self._arm(self._block)) != self._serving:
                self._ask(arm)
        swapping = bool(self._asked) or self._settle > 0 or self.done
        if not self._asked:
            self._settle = max(0, self._settle - 1)
        if not swapping:
            self._in_block += 1
        return replace(record, arm=self._serving, block=self._block, swapping=swapping)

    def check(self) -> None:
        """
        Notice that a model is not taken.

        :raises GraphError: with the reason.
        """
        if self._future is not None and self._future.done():
            result, self._future = self._future.result().result, None
            if not result.successful:
                raise GraphError(f'the model of arm {self._asked} was refused: {result.reason}')
        limit = self._values['start_timeout_s']
        if self._asked and time.monotonic() - self._asked_at > limit:
            raise GraphError(f'the model of arm {self._asked} was not exchanged within {limit:g} '
                             's; see the log of the perception node')

    def _arm(self, block: int) -> str:
        rounds, place = divmod(block, len(self._names))
        return (self._names if rounds % 2 == 0 else self._names[::-1])[place]

    def _ask(self, arm: str) -> None:
        self._asked, self._asked_at = arm, time.monotonic()
        self._future = self._client.call_async(SetParametersAtomically.Request(parameters=[
            Parameter(name, value=value).to_parameter_msg()
            for name, value in self._settings[arm].items()]))

    def _fits(self, arm: str, model: Mapping[str, Any]) -> bool:
        told = {**model['requested'], 'model': model['model'], 'threads': model['threads']}
        return all(told[name] == value for name, value in self._settings[arm].items())


def _settings(text: str) -> dict[str, Any]:
    """Return the parameters of one arm from JSON."""
    try:
        told = json.loads(text)
    except ValueError as error:
        raise ConfigError(f'parameter settings: {text!r} is no JSON: {error}') from None
    if not isinstance(told, dict) or set(told) != set(_PARAMETERS):
        raise ConfigError(f'parameter settings: {text!r} must be an object of '
                          f'{", ".join(_PARAMETERS)}')
    return told
