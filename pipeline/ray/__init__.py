"""Ray sessions on this machine or a cluster, and work on actors."""
