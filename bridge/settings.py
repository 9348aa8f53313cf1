"""What may be said about the outside systems, in the environment or `.env`."""

from pydantic import Field

from redis_config import Settings


class BridgeSettings(Settings):
    """Each has its default and its unit here and nowhere else."""

    archive: bool = Field(True, description="whether messages are archived in the SQL database")
