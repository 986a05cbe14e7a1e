"""The way of the data, and the doors to it: the command line and Dagster."""

import os

# Idle threads of PyTorch and scikit-learn spin by default. Where other processes want the same
# cores (steps of a run, a busy machine) each then waits for the other: a training that takes 5 s
# took 43 s. Read when the libraries load, so it stands before any of them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
