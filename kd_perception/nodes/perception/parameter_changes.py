"""Parameters that are set while the node lives: checked here, taken over by the node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import traceback
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter

from kd_perception.errors import KdPerceptionError
from kd_perception.nodes.parameters import ParameterSpec
from kd_perception.nodes.perception.region import Region


class ParameterChanges:
    """
    Answers every request to set parameters.

    :param node: with its parameters declared.
    :param table: these parameters.
    :param state: returns the state of the lifecycle.
    :param configured: returns whether the node is, so that some parameters are fixed and the
        others are taken over.
    :param apply: takes checked values over; a ``KdPerceptionError`` refuses them.
    """

    def __init__(self, node: Any, table: Iterable[ParameterSpec], state: Callable[[], str],
                 configured: Callable[[], bool],
                 apply: Callable[[dict[str, Any]], None]) -> None:
        self._node = node
        self._specs = {spec.name: spec for spec in table}
        self._state = state
        self._configured = configured
        self._apply = apply
        self._restoring = False
        node.add_on_set_parameters_callback(self._on_parameters)

    def restore(self, values: Mapping[str, Any]) -> None:
        """Set parameters to what the node does already."""
        self._restoring = True
        try:
            self._node.set_parameters([Parameter(k, value=v) for k, v in values.items()])
        finally:
            self._restoring = False

    def _on_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        values = {p.name: p.value for p in parameters if p.name in self._specs}
        try:
            reason = self._refusal(values)
            if not reason and not self._restoring and self._configured():
                self._apply(values)
        except KdPerceptionError as error:
            reason = str(error)
        except Exception as error:
            # It would end the executor, and the node with it.
            self._node.get_logger().error(traceback.format_exc())
            reason = f'unexpected {type(error).__name__}: {error}'
        return SetParametersResult(successful=not reason, reason=reason)

    def _refusal(self, values: dict[str, Any]) -> str:
        for name, value in values.items():
            if reason := self._specs[name].check(value):
                return reason
            if not self._specs[name].dynamic and self._configured():
                return (f'{name}: can be set only while the node is unconfigured; it is '
                        f'{self._state()}')
        Region.parse(values.get('region', ''))
        return ''
