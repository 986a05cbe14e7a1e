"""Launches runs as Dagster does by default, and knows when one has died with its server.

A run is a process below the code server, which is one below the daemon. Where all of them die at
once nobody is left to say so: Dagster's default launcher cannot tell, so the run monitor would let
the run count as started, and keep its place in the pool, for as long as a run may take at most.
Here the run monitor asks the server that launched a run whether it still has it (``run_launcher``
in ``dagster.yaml``; docs.dagster.io, "Run monitoring"), declares the run failed where nobody
answers, and ``run_retries`` starts it anew.
"""

import json

import dagster as dg
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG

_ANSWER_SECONDS = 5


class WatchedRunLauncher(dg.DefaultRunLauncher):
    """The default launcher with a health check."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """It does."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the server that launched a run is there and has it.

        A server that is there but answers late is busy: its run goes on.
        """
        import grpc
        from dagster._core.errors import DagsterUserCodeUnreachableError
        from dagster._grpc.client import DagsterGrpcClient
        from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
        from dagster_shared.serdes import deserialize_value

        if GRPC_INFO_TAG not in run.tags:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "launched by something else")
        info = json.loads(run.tags[GRPC_INFO_TAG])
        client = DagsterGrpcClient(
            host=info["host"],
            port=info.get("port"),
            socket=info.get("socket"),
            use_ssl=info.get("use_ssl", False),
        )
        asked = CanCancelExecutionRequest(run_id=run.run_id)
        try:
            told = client.can_cancel_execution(asked, timeout=_ANSWER_SECONDS)
        except DagsterUserCodeUnreachableError as error:
            cause = error.__cause__
            if isinstance(cause, grpc.RpcError) and cause.code() is grpc.StatusCode.UNAVAILABLE:
                return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "its server is gone")
            return CheckRunHealthResult(WorkerStatus.RUNNING, "its server is there, but busy")
        if deserialize_value(told, CanCancelExecutionResult).can_cancel:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "its server does not know it")
