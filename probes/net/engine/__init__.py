"""The echo engine: one socket per family for every echo series of a run, sent and read in ticks, timed by the kernel.

``series``: one series and its echoes, pure. ``channel``: the socket. ``engine``: the loop that joins them.
"""
