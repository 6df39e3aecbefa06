"""A stand-in for langgenius/dify-api: it connects with the settings it got, and says what it reached."""
