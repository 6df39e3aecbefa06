"""pyinfra reads this first of all."""

from pyinfra import config

from tasks.inventory import refuse_missing_file, refuse_wrong_settings

config.REQUIRE_PYINFRA_VERSION = "~=3.10"
refuse_missing_file()
# pyinfra connects to all hosts before it reads a line of deploy.py.
refuse_wrong_settings()
