"""Timings side by side in one run, told as ratios; none of them is a test. Figures: docs/reference/performance.md."""
