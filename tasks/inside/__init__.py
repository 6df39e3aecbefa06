"""Programs that run inside a container of Dify's own images: they use its libraries, and import nothing of this project."""
