"""The front door and the control plane: configuration, Envoy, pools, telemetry, command line."""

import os

# Before gRPC is first imported: we only ever fork to exec, and its fork handlers log at each.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
