"""A module that ends the process when it is imported, if nobody stops it."""

import sys

sys.exit("closed")
