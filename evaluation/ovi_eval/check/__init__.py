"""`ovi-eval check`: recomputes, on this machine, numbers that reference implementations gave, and compares.

The goldens (numbers with the implementation and commit they come from) lie beside the package. Inputs and,
where a network's published weights are not at hand, weights are generated (see `generated`), so that
architecture and preprocessing are compared to the last digits without downloading anything. Cases that need
real clips or real weights run when they are given and say what they need when they are not.
"""
