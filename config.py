"""pyinfra reads this first of all."""

from pyinfra import config

from tasks.inventory import refuse_missing_file

config.REQUIRE_PYINFRA_VERSION = "~=3.10"
refuse_missing_file()
