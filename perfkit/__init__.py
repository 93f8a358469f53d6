"""perfkit: an interactive study kit for stroke CT perfusion. Not for clinical use."""

__version__ = "0.1.0"
