"""`python -m keras_quant_cli`."""

import sys

from keras_quant_cli import main

sys.exit(main())
