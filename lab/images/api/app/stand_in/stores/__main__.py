"""`python3 -m stand_in.stores`: check the store that VECTOR_STORE names. Ends with 1 and one line when it is not reached."""

import os
import sys

from stand_in.settings import read_settings, redact
from stand_in.stores import check

try:
    print(check(os.environ.get("VECTOR_STORE", ""), os.environ))
except Exception as error:
    sys.exit(redact(f"{type(error).__name__}: {error}".strip(), read_settings()))
