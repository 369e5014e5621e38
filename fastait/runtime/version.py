"""The version, which reports and files carry."""

__version__ = "0.2.0"
