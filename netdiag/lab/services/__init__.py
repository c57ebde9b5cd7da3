"""The lab's servers: Debian's programs with configurations made from the topology."""
