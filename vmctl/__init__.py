"""vmctl runs two voicemail servers as one."""

__version__ = "0.1.0"
