"""What a file may ask of the decoder."""

from __future__ import annotations

from dataclasses import dataclass

from models.media.unreadable import (
    ClipTooLong,
    TooComplex,
)


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """Limits for a file. They apply to the decoded content, not only to the header."""

    max_duration_seconds: float = 4 * 3600.0
    """Longest file, declared or decoded, in seconds."""
    max_frame_width: int = 8192
    """Longer side of a picture, in pixels."""
    max_frame_height: int = 4320
    """Shorter side of a picture, in pixels."""
    max_segment_frames: int = 1200
    """Pictures of a segment of which every frame is taken: 120 a second for 10 s."""
    max_streams: int = 32
    """Streams of sound and picture in one file; subtitles, attachments and data are not counted."""
    max_edits: int = 2048
    """Entries in the edit lists of a file: each repeats the index of its track in memory."""
    max_channels: int = 64
    """Channels of the sound."""
    max_sample_rate_hz: int = 768_000
    """Sample rate of the sound."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")

    @property
    def max_pixels(self) -> int:
        """Pixels of the largest picture."""
        return self.max_frame_width * self.max_frame_height

    def check_duration(self, seconds: float) -> None:
        """Refuse a file that is too long.

        Args:
            seconds: Length of the file, or how far it was seen to reach.

        Raises:
            ClipTooLong: If that is more than the limit.
        """
        if seconds > self.max_duration_seconds:
            raise ClipTooLong(
                f"a file may last at most {self.max_duration_seconds:g} s, this one has {seconds:.1f} s"
            )

    def check_frame_size(self, width: int, height: int) -> None:
        """Refuse a picture that is too large, upright or on its side.

        Args:
            width: Width in pixels.
            height: Height in pixels.

        Raises:
            TooComplex: If it is larger than the limits.
        """
        if max(width, height) > self.max_frame_width or min(width, height) > self.max_frame_height:
            limit = f"{self.max_frame_width} x {self.max_frame_height}"
            raise TooComplex(f"a picture may have at most {limit} pixels, this one has {width} x {height}")

    def check_segment_frames(self, num_frames: int) -> None:
        """Refuse a segment of too many pictures.

        Args:
            num_frames: Pictures of a segment of which every frame is taken.

        Raises:
            TooComplex: If that is more than the limit.
        """
        if num_frames > self.max_segment_frames:
            limit = self.max_segment_frames
            raise TooComplex(f"a segment may have at most {limit} frames, this one has {num_frames} or more")

    def check_sound(self, num_channels: int, sample_rate_hz: int) -> None:
        """Refuse sound of too many channels or too high a rate.

        Args:
            num_channels: Channels of one stream.
            sample_rate_hz: Its sample rate.

        Raises:
            TooComplex: If either is more than the limit.
        """
        if num_channels > self.max_channels:
            raise TooComplex(
                f"sound may have at most {self.max_channels} channels, this one has {num_channels}"
            )
        if sample_rate_hz > self.max_sample_rate_hz:
            raise TooComplex(
                f"sound may have at most {self.max_sample_rate_hz} Hz, this one has {sample_rate_hz}"
            )

    def check_streams(self, num_streams: int) -> None:
        """Refuse a file of too many streams.

        Args:
            num_streams: Streams of sound and picture.

        Raises:
            TooComplex: If there are more than the limit.
        """
        if num_streams > self.max_streams:
            limit = f"{self.max_streams} streams of sound and picture"
            raise TooComplex(f"a file may have at most {limit}, this one has {num_streams}")

    def check_edits(self, num_edits: int) -> None:
        """Refuse a file whose edit lists are too long.

        Args:
            num_edits: Entries of all edit lists.

        Raises:
            TooComplex: If there are more than the limit.
        """
        if num_edits > self.max_edits:
            raise TooComplex(f"a file may have at most {self.max_edits} edits, this one has {num_edits}")
