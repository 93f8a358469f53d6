"""Run perfkit from a bare clone: ``python3 -m perfkit study``. Sets itself up first where needed."""

# The interpreter at hand reads this file, however old it is: no syntax newer than Python 3.6.
import sys

from perfkit import bootstrap


def main():
    """Set up if needed, then hand over to the command line."""
    try:
        sys.argv[1:] = bootstrap.ready(sys.argv[1:])
    except bootstrap.SetupError as error:
        sys.exit(f"perfkit: {error}")
    except KeyboardInterrupt:
        sys.exit("\nperfkit: stopped. The next start carries on from here.")
    from perfkit.cli import main as command_line

    sys.argv[0] = "perfkit"
    return command_line()


if __name__ == "__main__":
    sys.exit(main())
