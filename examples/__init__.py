"""Incidents to read and to replay: one folder each, with its plan, evidence, report and the command that made them."""
