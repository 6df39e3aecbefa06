"""What a converged run costs: `python -m tests.bench --help`."""
