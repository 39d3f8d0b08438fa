"""The package under test is not installed: on a host it is a tree, here it is a folder on the path."""

import sys
from pathlib import Path

TREE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TREE)]
