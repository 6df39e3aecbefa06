"""Where flask, gunicorn and celery look for their applications."""

from stand_in.factory import create_app
from stand_in.jobs import celery as celery

app = create_app()
