"""`--tpu NAME`: starts the same program on every worker of a place, and looks after it until it is done.

A provider finds the workers that a name means (interfaces.py declares it; local_hosts.py, ssh_hosts.py and
gcp/provider.py implement it). On each worker a job runs detached and leaves its number, its log and its exit code in
a folder (job.py), so neither the launcher nor its connection has to live as long as the run. supervisor.py starts all
jobs, and when one dies, stops the others and starts all again from the newest checkpoint. No JAX here: the launcher
never takes hold of a device.
"""
