"""Label propagation benchmarks: DAVIS-2017, VIP, JHMDB."""
