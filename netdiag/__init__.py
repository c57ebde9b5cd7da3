"""netdiag: from one argument to the escalation report."""

__version__ = "0.1.0"
