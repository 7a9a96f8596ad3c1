"""Several runs from one command: on this machine, on a cluster, and the study that ranks them."""
