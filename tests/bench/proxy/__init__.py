"""`python -m tests.bench.proxy`: this gateway, LiteLLM's proxy and Portkey's in front of the same scripted upstream.

Every contender shares two cores with wrk and the upstream, takes its turn in every round, and is compared with the
others within that round. One worker process each; all connections are loopback.
"""
