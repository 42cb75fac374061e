"""A trial of two commit protocols for the stream processor that decides."""
