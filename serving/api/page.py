"""GET /: the page."""

from fastapi import APIRouter
from starlette.responses import Response

from serving import page

router = APIRouter()


@router.get("/", include_in_schema=False)
async def index() -> Response:
    """The page that writes, chats and scores with the models of this server."""
    document, headers = page.document()
    return Response(document, headers=headers)
