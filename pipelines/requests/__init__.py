"""The inbox: what teams ask for, and how it becomes a published version. Knows no Dagster."""

from .client import Client as Client
from .inbox import Inbox as Inbox
from .inbox import Status as Status
from .model import DataRequest as DataRequest
from .model import RequestError as RequestError
from .model import parse_request as parse_request
