"""How a request comes by the services of the cloud."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from edgecase_cloud.services import Services


def services_of(request: Request) -> Services:
    """The services that the application was made with."""
    return cast("Services", request.app.state.services)


Web = Annotated[Services, Depends(services_of)]


def reading(services: Services) -> Session:
    """A session that writes nothing; leave it with `with`."""
    return services.catalogue.session()
