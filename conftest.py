"""Options and markers that every test of the repository knows."""

pytest_plugins = ["lab.draw"]
