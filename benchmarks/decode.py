"""
Time to decode an image message over the bare OpenCV calls for it; the worst encoding counts.

The bare side knows size and layout beforehand, checks nothing, and its message is known to be
whole. Encodings that need no change are views: their time is told, in microseconds, but a ratio
of two views says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
import statistics
import time
from types import SimpleNamespace

import cv2
import numpy as np
import result

from kd_perception.imaging import decode_message, encode_jpeg, encode_png

SIZES = ((360, 640), (1080, 1920))
REPEATS = 7
BUDGET_S = 0.1  # of one encoding in one repeat
MIN_CALLS, MAX_CALLS = 5, 300
VIEWS = ('rgb8',)


Messages = dict[str, tuple[SimpleNamespace, Callable[[], np.ndarray]]]


def messages(height: int, width: int) -> Messages:
    """Return for each encoding a message and the bare calls that decode it to RGB."""
    # A picture with edges and noise, so that JPEG and PNG have work as from a camera.
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 40, width // 40, 3), np.uint8)
    rgb = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    rgb = cv2.add(rgb, rng.integers(0, 12, rgb.shape, np.uint8))
    grey, deep = rgb[:, :, 0].copy(), rgb[:, :, 1].astype(np.uint16) * 251
    pairs = np.ascontiguousarray(rgb[:, :, :2])
    four = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA)
    out: Messages = {}

    def raw(name: str, pixels: np.ndarray, bare: Callable[[np.ndarray], np.ndarray],
            bigendian: bool = False, rows: int = height) -> None:
        data = (pixels.byteswap() if bigendian else pixels).tobytes()
        encoding = name.split()[0]
        step = pixels.nbytes // pixels.shape[0]
        message = SimpleNamespace(encoding=encoding, height=rows, width=width, step=step,
                                  is_bigendian=int(bigendian), data=data)
        shape, kind = pixels.shape, pixels.dtype
        out[name] = message, lambda: bare(np.frombuffer(data, kind).reshape(shape))

    def coded(name: str, data: bytes, bare: Callable[[np.ndarray], np.ndarray]) -> None:
        out[name] = (SimpleNamespace(format=name.split()[0], data=data),
                     lambda: bare(np.frombuffer(data, np.uint8)))

    def convert(code: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda a: cv2.cvtColor(a, code)

    def eight(then: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        return lambda a: then(cv2.convertScaleAbs(a, alpha=255 / 65535))

    raw('rgb8', rgb, lambda a: a)
    raw('bgr8', rgb, convert(cv2.COLOR_BGR2RGB))
    raw('rgba8', four, convert(cv2.COLOR_RGBA2RGB))
    raw('bgra8', four, convert(cv2.COLOR_BGRA2RGB))
    raw('mono8', grey, convert(cv2.COLOR_GRAY2RGB))
    raw('mono16', deep, eight(convert(cv2.COLOR_GRAY2RGB)))
    raw('mono16 big-endian', deep, lambda a: eight(convert(cv2.COLOR_GRAY2RGB))(a.byteswap()),
        bigendian=True)
    raw('bayer_rggb8', grey, convert(cv2.COLOR_BayerBG2RGB))
    raw('bayer_rggb16', deep, eight(convert(cv2.COLOR_BayerBG2RGB)))
    raw('yuv422', pairs, convert(cv2.COLOR_YUV2RGB_UYVY))
    raw('yuyv', pairs, convert(cv2.COLOR_YUV2RGB_YUY2))
    planes = np.concatenate([grey, grey[:height // 2]])
    raw('nv12', planes, convert(cv2.COLOR_YUV2RGB_NV12))
    raw('nv21', planes, convert(cv2.COLOR_YUV2RGB_NV21))
    out['nv12'][0].height = out['nv21'][0].height = height
    jpeg, png, deep_png = encode_jpeg(rgb, 90), encode_png(rgb), encode_png(deep)
    coded('jpeg', jpeg, lambda a: np.asarray(cv2.imdecode(
        a, getattr(cv2, 'IMREAD_COLOR_RGB', cv2.IMREAD_COLOR))))
    coded('png', png, lambda a: convert(cv2.COLOR_BGR2RGB)(
        np.asarray(cv2.imdecode(a, cv2.IMREAD_COLOR))))
    coded('png 16-bit', deep_png, lambda a: eight(convert(cv2.COLOR_GRAY2RGB))(
        np.asarray(cv2.imdecode(a, cv2.IMREAD_UNCHANGED))))
    return out


def compare(ours: Callable[[], object], bare: Callable[[], object]) -> tuple[float, float, float]:
    """Return (ratio, our ms, bare ms): medians of calls in turn, then the median of repeats."""
    def once(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e3

    pair_ms = min(once(ours) + once(bare) for _ in range(5))
    n = int(min(MAX_CALLS, max(MIN_CALLS, BUDGET_S * 1e3 / pair_ms)))
    sides = []
    for _ in range(REPEATS):
        calls = [(once(ours), once(bare)) for _ in range(n)]
        sides.append(tuple(statistics.median(side) for side in zip(*calls)))
    return (statistics.median(a / b for a, b in sides), statistics.median(a for a, _ in sides),
            statistics.median(b for _, b in sides))


def main() -> None:
    args = result.parser(__doc__ or '').parse_args()
    ratios, times = {}, {}
    for height, width in SIZES:
        for name, (message, bare) in messages(height, width).items():
            def ours(message: SimpleNamespace = message) -> np.ndarray:
                return decode_message(message)

            if not np.array_equal(ours(), bare()):
                raise SystemExit(f'{name}: the two sides differ')
            ratio, own_ms, bare_ms = compare(ours, bare)
            key = f'{name} {width}x{height}'
            times[key] = {'ours_ms': round(own_ms, 4), 'bare_ms': round(bare_ms, 4)}
            if name not in VIEWS:
                ratios[key] = ratio
            print(f'{key:28} ours {own_ms:8.4f} ms   OpenCV {bare_ms:8.4f} ms   {ratio:6.3f}')
    worst = max(ratios, key=ratios.__getitem__)
    result.state(
        name='decode', value=ratios[worst], unit='times bare OpenCV',
        workload={'encoding': worst, 'encodings': len(ratios), 'opencv': cv2.__version__,
                  'view_us': round(times['rgb8 1920x1080']['ours_ms'] * 1e3, 1),
                  'repeats': REPEATS},
        spread={'median': round(statistics.median(ratios.values()), 4),
                'min': round(min(ratios.values()), 4), 'max': round(max(ratios.values()), 4)},
        details={'times': times, 'ratios': ratios}, json_file=args.json)


if __name__ == '__main__':
    main()
