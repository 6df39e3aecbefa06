"""The steps of the deployment: each module has its fact, its operation and its step."""
