"""Gateways of several makers in front of the same mock upstream: how each is started, and the
method by which all are measured."""
