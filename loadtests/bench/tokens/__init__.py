"""What a streamed token costs a proxy: replicas that send one by one in every API's events, the two
proxies that are compared, and their clients."""
