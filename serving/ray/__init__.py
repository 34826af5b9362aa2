"""The model servers over a Ray cluster: which model serves, how a replica changes it, how replicas are deployed."""
