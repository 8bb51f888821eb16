"""`make faults`: real servers, writers with a history, a seeded schedule of faults, and a checker.

In the manner of Jepsen: nothing of the cluster is told what happens to it, and it is judged only by what its
clients were told, by what its servers hold, and by what stood in Consul.
"""
