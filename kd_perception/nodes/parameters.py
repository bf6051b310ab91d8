"""
The parameters of all nodes as plain data, and how they are declared and checked.

Launch files, the YAML files in ``config/`` and the nodes all read the tables here, so that a
default or a name cannot drift between them. ROS is imported only where parameters are declared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
import math
import re
from typing import Any

from kd_perception.bags.motion import DRIVING
from kd_perception.errors import ConfigError
from kd_perception.evaluation.comparison import PACINGS, PLACEMENTS
from kd_perception.imaging.blur import BLURS
from kd_perception.nodes.schedule import SERVED
from kd_perception.nodes.unknown_parameters import warn_of_unknown_parameters

# Of ROS; a name that is no part of a topic fails only when its topics are made.
_TOPIC_NAME = r'/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*'

_DEVICE = ('Device of the runtime: cpu; gpu (Intel, OpenVINO); cuda, cuda:1, … (NVIDIA); '
           'tensorrt, tensorrt:1, … (NVIDIA by the TensorRT provider of ONNX Runtime). engine '
           'auto chooses among the engines of this device: with cpu no GPU is considered.')

Value = bool | int | float | str | tuple[str, ...]


@dataclass(frozen=True)
class ParameterSpec:
    """
    One parameter of a node.

    :param default: its type is the parameter's type; a tuple is a list of strings.
    :param minimum: smallest value of a number; None for no bound.
    :param maximum: largest value of a number; None for no bound.
    :param choices: allowed strings; empty for any.
    :param pattern: what every string of a list must match; empty for anything.
    :param dynamic: may be set while the node runs; others only before it is configured.
    :param read_only: is read once when the node starts, so that setting it later is refused.
    """

    name: str
    default: Value
    description: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str = ''
    dynamic: bool = False
    read_only: bool = False

    @property
    def text(self) -> str:
        """Return the description with the choices, where there are any."""
        known = f' One of: {", ".join(self.choices)}.' if self.choices else ''
        return f'{self.description}{known}'

    @property
    def settable(self) -> str:
        """Say when the parameter can be set."""
        if self.read_only:
            return 'Set at the start of the node only.'
        return ('Can be set at any time.' if self.dynamic
                else 'Can be set while the node is unconfigured only.')

    def check(self, value: Any) -> str:
        """Return what is wrong with ``value``, or an empty string."""
        kind: type = type(self.default)
        if kind is tuple:
            if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
                return f'{self.name}: must be a list of strings'
            for v in value:
                if v and self.pattern and not re.fullmatch(self.pattern, v):
                    return (f'{self.name}: {v!r} is no name for a topic: use letters, digits and '
                            '_, no digit first')
            return ''
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            return f'{self.name}: must be {kind.__name__}, not {type(value).__name__}'
        if self.choices and value not in self.choices:
            return f'{self.name}: {value!r} is not one of {", ".join(self.choices)}'
        if isinstance(value, (int, float)):
            if math.isnan(value):  # would pass every comparison below
                return f'{self.name}: is not a number'
            if self.minimum is not None and value < self.minimum:
                return f'{self.name}: {value} is below {self.minimum}'
            if self.maximum is not None and value > self.maximum:
                return f'{self.name}: {value} is above {self.maximum}'
        return ''

    def parse(self, text: str) -> Value:
        """
        Return the value that ``text`` stands for on a command line.

        :raises ConfigError: when it is not of the parameter's type or not allowed.
        """
        kind = type(self.default)
        value: Value
        try:
            if kind is bool:
                value = {'true': True, 'false': False}[text.strip().lower()]
            elif kind is tuple:
                value = tuple(v.strip() for v in text.strip('[] ').split(',') if v.strip())
            else:
                value = kind(text)  # type: ignore[assignment]
        except (KeyError, ValueError):
            raise ConfigError(f'{self.name}: {text!r} is no {kind.__name__}') from None
        if reason := self.check(value):
            raise ConfigError(reason)
        return value


# How a value is written on a command line and in a params file, by type.
_WRITTEN: dict[type, str] = {
    bool: 'true or false', int: 'a whole number, e.g. 5',
    float: 'a number with a decimal point, e.g. 5.0',
    str: 'text; digits alone need quotes, e.g. \'"5"\'',
    tuple: 'a list of texts, e.g. [front, rear]'}


def _fixed(*table: ParameterSpec) -> tuple[ParameterSpec, ...]:
    """Return ``table`` for a node that reads its parameters once, when it starts."""
    return tuple(replace(spec, read_only=True) for spec in table)


PERCEPTION: tuple[ParameterSpec, ...] = (
    ParameterSpec('model', '', 'Model bundle: a name in models_dir, or a path. Can be set while '
                  'the node runs: the new model is checked at once, loaded beside the serving one '
                  'and exchanged between two frames.', dynamic=True),
    ParameterSpec('models_dir', '', 'Directory of model bundles; empty for '
                  '$XDG_DATA_HOME/kd_perception/models.', dynamic=True),
    ParameterSpec('engine', 'auto', 'Runtime that executes the model.',
                  choices=('auto', 'torch', 'onnxruntime', 'openvino', 'tensorrt'), dynamic=True),
    ParameterSpec('device', 'cpu', f'{_DEVICE} Refused where the engine cannot have it here: set '
                  'both in one call, or engine to auto first.', dynamic=True),
    ParameterSpec('precision', 'auto', 'Precision to execute in; what really runs is read back '
                  'and reported.', choices=('auto', 'fp32', 'fp16', 'bf16', 'int8'), dynamic=True),
    ParameterSpec('threads', 0, 'CPU threads of the runtime; 0 leaves it to the runtime.',
                  minimum=0, maximum=1024, dynamic=True),
    ParameterSpec('image_transport', 'raw', 'raw: topic image; compressed: topic '
                  'image/compressed.', choices=('raw', 'compressed')),
    ParameterSpec('reliability', 'auto', 'Reliability of the image subscription; auto is best '
                  'effort and turns reliable when frames get lost and every publisher is '
                  'reliable.', choices=('auto', 'best_effort', 'reliable')),
    ParameterSpec('confidence_threshold', 0.0, 'Pixels below this confidence become 255 '
                  '(unlabelled).', minimum=0.0, maximum=1.0, dynamic=True),
    ParameterSpec('max_age_ms', 0.0, 'Frames older than this when inference could start are '
                  'dropped as stale; 0 for no limit.', minimum=0.0, maximum=1e6, dynamic=True),
    ParameterSpec('publish_confidence', True, 'Publish segmentation/confidence.', dynamic=True),
    ParameterSpec('publish_overlay', True, 'Publish overlay while somebody subscribes to it.',
                  dynamic=True),
    ParameterSpec('watch_input', True, 'Say in /diagnostics which camera is black, saturated, '
                  'covered or frozen, and whose pictures are unlike the training data.',
                  dynamic=True),
    ParameterSpec('output_size', 'input', 'Size of the mask: that of the input image, or that of '
                  'the network.', choices=('input', 'network'), dynamic=True),
    ParameterSpec('region', '', 'Part of the image to look at: x, y, width, height as fractions '
                  'of it, e.g. "0, 0.4, 1, 0.6"; of every camera. Empty for all.', dynamic=True),
    ParameterSpec('batch_wait_ms', 0.0, 'How long a frame may wait for those of other cameras, to '
                  'share one call of the engine; 0 for one call each.', minimum=0.0,
                  maximum=1000.0),
    ParameterSpec('light_model', '', 'Model bundle that serves while "model" exceeds '
                  'latency_budget_ms; both stay loaded. Empty for none.', dynamic=True),
    ParameterSpec('latency_budget_ms', 0.0, 'While p95 of total_ms of "model" is above this, '
                  'light_model serves; 0 for never.', minimum=0.0, maximum=1e6, dynamic=True),
    ParameterSpec('hang_timeout_s', 0.0, 'After how many seconds an inference that does not '
                  'return is told as an error; 0 for 50 times its usual time, at least 5.',
                  minimum=0.0, maximum=1e6, dynamic=True),
    ParameterSpec('warmup_iterations', 3, 'Inferences on a blank image before a model serves.',
                  minimum=0, maximum=1000, dynamic=True),
    ParameterSpec('cameras', (), 'Names of the cameras; each has its topics below its name. '
                  'Empty for one camera without a name.', pattern=_TOPIC_NAME),
    ParameterSpec('autostart', True, 'Configure and activate without being told.',
                  read_only=True),
)

CAMERA: tuple[ParameterSpec, ...] = _fixed(
    ParameterSpec('source', 'sim', 'Where frames come from.', choices=('sim', 'bag', 'carla')),
    ParameterSpec('scenario', 'clear', 'Scenario of the simulator; with carla also one of its '
                  'weather presets.'),
    ParameterSpec('seed', 0, 'Seed of the simulated drive and of the order of the arms.',
                  minimum=0, maximum=2**31 - 1),
    ParameterSpec('bag', '', 'Recording to play: rosbag, video or image folder.'),
    ParameterSpec('image_topic', '', 'Image topic of the recording; empty for the only one.'),
    ParameterSpec('label_topic', '', 'Label topic of the recording; empty for the only one.'),
    ParameterSpec('label_dir', '', 'Folder of label images for an image folder.'),
    ParameterSpec('classes', '', 'Class set of the labels where the recording does not say.'),
    ParameterSpec('rate_hz', 30.0, 'Frame rate of the simulator and of realtime pacing.',
                  minimum=0.01, maximum=1000.0),
    ParameterSpec('speed', 0.0, 'Realtime pacing of a recording by its own time: 1 as recorded, '
                  '0.5 half as fast; 0 for rate_hz.', minimum=0.0, maximum=100.0),
    ParameterSpec('width', 640, 'Columns of the simulated image.', minimum=16, maximum=8192),
    ParameterSpec('height', 360, 'Rows of the simulated image.', minimum=16, maximum=8192),
    ParameterSpec('frames', 0, 'Frames to publish; 0 for all of a recording, or without end.',
                  minimum=0),
    ParameterSpec('pacing', 'realtime', 'realtime: by rate_hz; max: as fast as possible; '
                  'lockstep: one frame per call of ~/step.',
                  choices=PACINGS),
    ParameterSpec('placement', 'concurrent', 'Which arms get a frame at a time: all '
                  '(concurrent), one after the other in random order (turns), or one arm over '
                  'all frames before the next (isolated).',
                  choices=SERVED),
    ParameterSpec('arms', (), 'Namespaces to publish into; empty for the topic image alone.'),
    ParameterSpec('encoding', 'rgb8', 'Encoding of the images.', choices=('rgb8', 'bgr8')),
    ParameterSpec('frame_id', 'camera', 'Coordinate frame of the simulated camera.'),
    ParameterSpec('publish_clock', False, 'Publish /clock from the stamps.'),
    ParameterSpec('samples', 0, 'Number of frames, spread over the run, that are also published '
                  'on sample for pictures in the report.', minimum=0, maximum=100),
    ParameterSpec('hold', False, 'Hold the first frame back until ~/step is called.'),
    ParameterSpec('stamps', 'source', 'source: stamps of the recording or of simulated time; '
                  'clock: the time of publishing.', choices=('source', 'clock')),
    ParameterSpec('loop', False, 'Start again at the end of a recording; stamps go on, so that '
                  'none comes twice.'),
    ParameterSpec('carla_host', 'localhost', 'Host of the CARLA server.'),
    ParameterSpec('carla_port', 2000, 'Port of the CARLA server.', minimum=1, maximum=65535),
    ParameterSpec('carla_map', '', 'Map of CARLA; empty for the one that is loaded. Loading '
                  'another one removes what others have in that world.'),
    ParameterSpec('carla_vehicles', 30, 'Cars in CARLA beside the own one.', minimum=0,
                  maximum=1000),
    ParameterSpec('carla_walkers', 20, 'Pedestrians in CARLA.', minimum=0, maximum=1000),
    ParameterSpec('carla_instances', False, 'Also have a camera of instance ids in CARLA.'),
    ParameterSpec('carla_timeout_s', 20.0, 'How long the CARLA server may take to answer, and to '
                  'draw a frame.', minimum=0.1, maximum=3600.0),
)

MONITOR: tuple[ParameterSpec, ...] = _fixed(
    ParameterSpec('arms', ('a', 'b'), 'Namespaces of the perception nodes to compare.'),
    ParameterSpec('source', 'sim', 'Kind of source, for the report.',
                  choices=('sim', 'bag', 'carla', 'topic')),
    ParameterSpec('scenario', 'clear', 'Scenario or recording, for the report.'),
    ParameterSpec('seed', 0, 'Seed, for the report.', minimum=0),
    ParameterSpec('frames', 200, 'Frames that count; 0 for all of the source.', minimum=0),
    ParameterSpec('duration_s', 0.0, 'Seconds after the warm-up at which the run ends, if frames '
                  'did not end it before; 0 for no limit.', minimum=0.0, maximum=1e6),
    ParameterSpec('warmup', 10, 'Frames served before those that count.', minimum=0),
    ParameterSpec('pacing', 'lockstep', 'lockstep: the monitor calls for each frame; realtime: '
                  'the camera runs by its rate.', choices=PACINGS),
    ParameterSpec('placement', 'turns', 'How the arms share the machine; alternate: one node, its '
                  'model exchanged between blocks of frames.', choices=PLACEMENTS),
    ParameterSpec('report', True, 'Write report.json, frames.csv and report.html; false: the '
                  'recording alone, from which "kd_perception report" makes them.'),
    ParameterSpec('swap_every', 20, 'Placement alternate: frames of a block.', minimum=2,
                  maximum=1_000_000),
    ParameterSpec('settings', (), 'Placement alternate: for each arm a JSON object with model, '
                  'engine, device, precision and threads.'),
    ParameterSpec('rate_hz', 30.0, 'Camera rate, for the report.', minimum=0.01, maximum=1000.0),
    ParameterSpec('measures', ('auto',), 'What is measured beside mean IoU: boundary, objects, '
                  'flicker, calibration, or none; auto: all of them in lockstep, none otherwise, '
                  'where counting would take time from the arms.'),
    ParameterSpec('class_map', '', 'Class map from source labels to model classes; empty for the '
                  'one that fits by name.'),
    ParameterSpec('truth', 'auto', 'Ground truth: as the source has it (auto; of live topics '
                  'none), left out, or the run is refused without.',
                  choices=('auto', 'none', 'required')),
    ParameterSpec('classes', '', 'Class set of the labels of a live topic; empty: label_info '
                  'tells.'),
    ParameterSpec('image_transport', 'raw', 'Live topics: raw: topic image; compressed: topic '
                  'image/compressed.', choices=('raw', 'compressed')),
    ParameterSpec('samples', 6, 'Live topics: number of frames, spread over the run, that are '
                  'shown in the report.', minimum=0, maximum=100),
    ParameterSpec('margin_miou', 2.0, 'Loss of mIoU, in points, up to which arms count as equal.',
                  minimum=0.0, maximum=100.0),
    ParameterSpec('margin_latency_ms', 0.0, 'Milliseconds by which an arm may be slower; 0 to say '
                  'only whether it is.', minimum=0.0, maximum=1e6),
    ParameterSpec('timeout_s', 10.0, 'Time after which a result counts as lost.',
                  minimum=0.01, maximum=3600.0),
    ParameterSpec('start_timeout_s', 120.0, 'Time for camera and arms to be ready.',
                  minimum=1.0, maximum=3600.0),
    ParameterSpec('out', '', 'Directory of the report; empty for ab_<time> where the node runs.'),
    ParameterSpec('progress_file', '', 'File that tells a parent process how far the run is.'),
)

SHADOW: tuple[ParameterSpec, ...] = _fixed(
    ParameterSpec('model', '', 'Model bundle of the teacher: a name in models_dir, or a path.'),
    ParameterSpec('models_dir', '', 'Directory of model bundles; empty for '
                  '$XDG_DATA_HOME/kd_perception/models.'),
    ParameterSpec('engine', 'auto', 'Runtime that executes the teacher.',
                  choices=('auto', 'torch', 'onnxruntime', 'openvino', 'tensorrt')),
    ParameterSpec('device', 'cpu', _DEVICE),
    ParameterSpec('precision', 'auto', 'Precision to execute in.',
                  choices=('auto', 'fp32', 'fp16', 'bf16', 'int8')),
    ParameterSpec('threads', 1, 'CPU threads of the runtime; 0 leaves it to the runtime.',
                  minimum=0, maximum=1024),
    ParameterSpec('warmup_iterations', 1, 'Inferences on a blank image before the first frame.',
                  minimum=0, maximum=1000),
    ParameterSpec('student', 'perception', 'Name of the node that is shadowed, for what it says '
                  'of itself: <name>/timing, <name>/active_model and its status on /diagnostics.'),
    ParameterSpec('image_transport', 'raw', 'raw: topic image; compressed: topic '
                  'image/compressed.', choices=('raw', 'compressed')),
    ParameterSpec('class_map', '', 'Class map between the classes of teacher and student; empty '
                  'for the one that fits by name.'),
    ParameterSpec('max_rate_hz', 1.0, 'Comparisons per second at most.', minimum=0.001,
                  maximum=1000.0),
    ParameterSpec('cpu_budget', 0.25, 'Share of one core that comparisons may take: CPU time, or '
                  'time by the clock where that is longer.', minimum=0.001, maximum=1024.0),
    ParameterSpec('nice', 10, 'Added to the niceness of the process; 0 for none.', minimum=0,
                  maximum=19),
    ParameterSpec('student_slowdown', 1.2, 'Back off when the p95 of the total_ms of the student '
                  'exceeds so many times that of frames beside which the teacher did not run.',
                  minimum=1.0, maximum=1e6),
    ParameterSpec('load_limit', 0.9, 'Back off when other processes use more than this share of '
                  'the machine.', minimum=0.0, maximum=1.0),
    ParameterSpec('low_confidence', 0.5, 'Confidence of the student below which a pixel counts as '
                  'unsure.', minimum=0.0, maximum=1.0),
    ParameterSpec('out_dir', '', 'Folder in which a recording of frames worth a label is made, '
                  'mined_<UTC time>; empty to keep nothing.'),
    ParameterSpec('share', 0.1, 'Share of the compared frames that may be chosen, and of all '
                  'frames that may be written, context included.', minimum=0.0001, maximum=1.0),
    ParameterSpec('context', 2, 'Frames before and after a chosen one that are written with it.',
                  minimum=0, maximum=1000),
    ParameterSpec('keep_for', (), 'What frames are kept for: disagreement, confidence, novelty. '
                  'Empty for all three.'),
    ParameterSpec('near_percent', DRIVING, 'A frame that differs by less from a kept one is not '
                  'chosen, in percent of the contrast; 0 for no such limit.', minimum=0.0,
                  maximum=100.0),
    ParameterSpec('ring_mb', 128.0, 'Undecoded frames that wait for a choice, in MB: as many as '
                  'come while the teacher is at work, and the context.', minimum=0.01,
                  maximum=65536.0),
    ParameterSpec('disk_budget_mb', 10000.0, 'MB that recordings in out_dir may hold together, '
                  'those of earlier starts included; then keeping ends. 0 for no limit.',
                  minimum=0.0, maximum=1e9),
    ParameterSpec('file_mb', 1000.0, 'MB of one file of the recording; 0 for one file.',
                  minimum=0.0, maximum=1e9),
    ParameterSpec('keep_masks', True, "Write the teacher's masks beside the frames, on "
                  '~/segmentation/mask.'),
    ParameterSpec('blur', 'none', 'What is made unrecognisable before a frame is written.',
                  choices=BLURS),
)

TABLES: Mapping[str, tuple[ParameterSpec, ...]] = {
    'perception': PERCEPTION, 'camera': CAMERA, 'monitor': MONITOR, 'shadow': SHADOW}


def check_values(table: Iterable[ParameterSpec], values: Mapping[str, Any]) -> None:
    """
    Check names and values before a node is started with them.

    :raises ConfigError: for the first that is unknown or not allowed.
    """
    known = {spec.name: spec for spec in table}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f'no parameter {name!r}; known: {", ".join(known)}')
        if reason := known[name].check(value):
            raise ConfigError(reason)


def declare(node: Any, table: Iterable[ParameterSpec]) -> None:
    """
    Declare ``table`` on an rclpy node, with descriptions and ranges.

    :raises ConfigError: when a value given from outside does not fit.
    """
    from rcl_interfaces.msg import (
        FloatingPointRange,
        IntegerRange,
        ParameterDescriptor,
        ParameterType,
    )
    from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException

    for spec in table:
        described = ParameterDescriptor(
            description=spec.text, additional_constraints=spec.settable, read_only=spec.read_only)
        if spec.minimum is not None or spec.maximum is not None:
            low, high = spec.minimum, spec.maximum
            if isinstance(spec.default, float):
                described.floating_point_range = [FloatingPointRange(
                    from_value=float(-1e308 if low is None else low),
                    to_value=float(1e308 if high is None else high), step=0.0)]
            else:
                described.integer_range = [IntegerRange(
                    from_value=int(-2**62 if low is None else low),
                    to_value=int(2**62 if high is None else high), step=0)]
        default: Any = spec.default
        if isinstance(default, tuple):
            # An empty list has no type in ROS; one empty string stands for it.
            described.type = ParameterType.PARAMETER_STRING_ARRAY
            default = list(default) or ['']
        try:
            node.declare_parameter(spec.name, default, described)
        except InvalidParameterTypeException:
            raise ConfigError(f'parameter {spec.name}: must be {_WRITTEN[type(spec.default)]}; '
                              'the value given is of another type') from None
        except InvalidParameterValueException as error:
            raise ConfigError(f'parameter {spec.name}: {error}') from None
        if reason := spec.check(value_of(node, spec.name)):
            raise ConfigError(f'parameter {reason}')
    warn_of_unknown_parameters(node)


def value_of(node: Any, name: str) -> Any:
    """Return a parameter's value; lists as tuples without empty strings."""
    value = node.get_parameter(name).value
    if isinstance(value, (list, tuple)) or hasattr(value, 'typecode'):
        return tuple(v for v in value if v != '')
    return value


def values_of_node(node: Any, table: Iterable[ParameterSpec]) -> dict[str, Any]:
    """Return all parameters of ``table`` by name."""
    return {spec.name: value_of(node, spec.name) for spec in table}
