"""
What the headers of H.264 and H.265 streams say of their pictures: B-slices, fields.

Comes in: NAL units, without their start codes, as ITU-T H.264 and H.265, clause 7.3, write them.
A damaged one is read as far as it goes and never raises; its decoder has the last word.
"""

from __future__ import annotations

# Profiles of H.264 whose parameter sets name the chroma format and may hold scaling matrices.
_WITH_CHROMA = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}
_MOST_OFFSETS = 255  # in a cycle of picture order counts


class Bits:
    """The bits of a NAL unit of H.264 behind its first byte; zeros where it ends."""

    def __init__(self, unit: bytes) -> None:
        # A 3 behind two zeros is there only so that no start code shows within a unit.
        data = unit[1:].replace(b'\0\0\3', b'\0\0')
        self._bits = f'{int.from_bytes(data, "big"):0{8 * len(data)}b}' if data else ''
        self._at = 0

    def take(self, count: int) -> int:
        """Return an unsigned number of so many bits."""
        self._at += count
        return int(self._bits[self._at - count:self._at] or '0', 2)

    def golomb(self) -> int:
        """Return an unsigned Exp-Golomb number."""
        one = self._bits.find('1', self._at)
        if one < 0:
            self._at = len(self._bits)
            return 0
        zeros, self._at = one - self._at, one
        return self.take(zeros + 1) - 1


class InterlaceWatch:
    """Tells of the packets of one stream, in their order, whether their pictures are fields."""

    def __init__(self, codec: str) -> None:
        self._codec = codec
        self._before_field_flag = -1  # bits between slice type and flag; -1: there is no flag

    def sees(self, kind: int, unit: bytes) -> bool:
        """
        Return whether a NAL unit says that pictures are, or may be, coded as fields.

        Not every H.264 stream that may use fields does: x264's ``fake-interlaced`` has frames.

        :param unit: of a picture, its first bytes are enough.
        """
        if self._codec == 'h265':
            # Of the general profile: progressive source, interlaced source.
            flags = unit.replace(b'\0\0\3', b'\0\0')[8:9] if kind == 33 else b''
            return bool(flags) and flags[0] >> 6 == 1
        if kind == 7:
            return self._adaptive(Bits(unit))
        if kind in (1, 5) and self._before_field_flag >= 0:
            bits = Bits(unit)
            for _ in range(3):  # first macroblock, slice type, picture parameter set
                bits.golomb()
            bits.take(self._before_field_flag)
            return bits.take(1) == 1
        return False

    def _adaptive(self, bits: Bits) -> bool:
        """Read a sequence parameter set; return whether macroblocks may be fields (MBAFF)."""
        profile = bits.take(8)
        bits.take(16)  # constraints, level
        bits.golomb()
        colour_plane = 0
        if profile in _WITH_CHROMA:
            chroma = bits.golomb()
            colour_plane = 2 * bits.take(1) if chroma == 3 else 0
            bits.golomb(), bits.golomb(), bits.take(1)  # bit depths, lossless
            if bits.take(1):
                for number in range(12 if chroma == 3 else 8):
                    if bits.take(1):
                        _skip_scaling_list(bits, 16 if number < 6 else 64)
        frame_number = bits.golomb() + 4
        order = bits.golomb()
        if order == 0:
            bits.golomb()
        elif order == 1:
            bits.take(1), bits.golomb(), bits.golomb()
            for _ in range(min(bits.golomb(), _MOST_OFFSETS)):
                bits.golomb()
        bits.golomb(), bits.take(1), bits.golomb(), bits.golomb()  # references, gaps, size
        frames_only = bits.take(1)
        self._before_field_flag = -1 if frames_only else colour_plane + frame_number
        return not frames_only and bits.take(1) == 1


def _skip_scaling_list(bits: Bits, size: int) -> None:
    last = 8
    for _ in range(size):
        coded = bits.golomb()
        last = (last + (coded + 1) // 2 * (1 if coded % 2 else -1)) % 256
        if last == 0:
            return
