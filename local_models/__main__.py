import sys

from local_models.cli import main

sys.exit(main())
