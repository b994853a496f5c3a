import sys

from drivefoundry.cli import main

if __name__ == "__main__":
    sys.exit(main())
