"""The addresses of the service, and what they say of themselves in its OpenAPI document."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.staticfiles import StaticFiles

from headstart_predict import __version__
from headstart_predict.serving import answering
from headstart_predict.serving.answering import (
    TOP,
    AnswersOut,
    ExplanationOut,
    ModelsOut,
    ProblemOut,
)
from headstart_predict.serving.bodies import FIELD
from headstart_predict.serving.decisions import summarise
from headstart_predict.serving.gate import Gate
from headstart_predict.serving.problems import MEDIA_TYPE, RequestError
from headstart_predict.serving.service import Service
from headstart_predict.serving.settings import Settings

PAGE = files("headstart_predict.serving") / "page"


def _json(content: object, status: int = 200) -> Response:
    return Response(json.dumps(content), status, media_type="application/json")


def build(settings: Settings) -> Gate:
    """The whole application. Raises HeadstartError where a model or the log cannot be used."""
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.models.start_watching()
        yield
        await run_in_threadpool(service.close)

    app = FastAPI(
        title="Headstart",
        version=__version__,
        description="Classifies pictures with exported models. Addresses in a request are never "
        "opened: send the pictures themselves.",
        lifespan=lifespan,
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
    )
    _add_answers(app, service)
    _add_facts(app, service)
    _add_states(app, service)
    _add_pages(app, service)
    _add_problems(app)
    _document(app, settings)
    return Gate(app, settings, service.metrics, service.desk.admit)


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Of the OpenAPI document."""
    return {status: {"model": ProblemOut, "content": {MEDIA_TYPE: {}}} for status in statuses}


_FILE = {"type": "string", "format": "binary", "description": "The content of an image file."}
_CODED = {"type": "string", "format": "byte", "description": "The same in base64."}
_EXAMPLE = (  # a red pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)


def _body(most: int) -> dict[str, Any]:
    """What a request may hold, for the OpenAPI document. most: images."""

    def several(kind: dict[str, Any]) -> dict[str, Any]:
        return {"type": "array", "items": kind, "minItems": 1, "maxItems": most}

    def one_key(name: str, kind: dict[str, Any]) -> dict[str, Any]:
        closed = {"type": "object", "required": [name], "additionalProperties": False}
        return closed | {"properties": {name: kind}}

    as_json = [one_key("image", _CODED)]
    if most > 1:
        as_json.append(one_key("images", several(_CODED)))
    content = {
        "multipart/form-data": {"schema": one_key(FIELD, several(_FILE))},
        "image/*": {"schema": _FILE},
        "application/octet-stream": {"schema": _FILE},
        "application/json": {"schema": {"oneOf": as_json}, "example": {"image": _EXAMPLE}},
    }
    return {"requestBody": {"required": True, "content": content}}


def _add_answers(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/predict",
        response_model=AnswersOut,
        responses=_refusals(400, 401, 403, 404, 408, 409, 413, 415, 421, 422, 429),
        openapi_extra=_body(service.settings.limits.images),
        summary="Classify one picture or several",
    )
    async def predict(
        request: Request,
        model: Annotated[str | None, Query(description="Its id; the first one by default.")] = None,
        top: Annotated[int, Query(ge=1, le=10_000, description="Classes to name.")] = TOP,
        threshold: Annotated[
            float | None,
            Query(
                ge=0,
                le=1,
                description="The least probability of a sure answer; else the model's own.",
            ),
        ] = None,
        cut: Annotated[
            str | None,
            Query(
                description="Of two classes: the least probability of the positive one, or a name."
            ),
        ] = None,
    ) -> Response:
        request.state.route = "predict"
        hosted = service.model(model)
        return _json(await service.answer(request, hosted, top, threshold, cut))

    @app.post(
        "/v1/explain",
        response_model=ExplanationOut,
        responses=_refusals(400, 401, 403, 404, 408, 413, 415, 421, 422, 429),
        openapi_extra=_body(1),
    )
    async def explain(
        request: Request, model: str | None = None, label: str | None = None
    ) -> Response:
        """Where the model looked: what its answer loses when parts of the picture are covered."""
        request.state.route = "explain"
        return _json(await service.explain(request, service.model(model), label))


def _add_facts(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", response_model=ModelsOut, responses=_refusals(401, 403, 421))
    def models(request: Request) -> Response:
        """The models that answer here."""
        request.state.route = "models"
        return _json({"models": [answering.describe(model) for model in service.models.all()]})

    @app.get(
        "/v1/decisions", response_model=dict[str, Any], responses=_refusals(401, 403, 404, 421, 422)
    )
    async def decisions(
        request: Request,
        model: str | None = None,
        hours: Annotated[float, Query(gt=0, le=24 * 366)] = 24.0,
    ) -> Response:
        """What was answered in the last hours, where the service keeps a log."""
        request.state.route = "decisions"
        hosted = service.model(model)
        if service.decisions is None:
            raise RequestError(404, "no decisions are logged: start the service with --log FILE")
        since = time.time() - 3600 * hours
        return _json(
            await run_in_threadpool(summarise, service.decisions.path, hosted.name, since, 24)
        )


def _add_states(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    def healthz(request: Request) -> dict[str, Literal["alive"]]:
        """Whether the process answers at all."""
        request.state.route = "healthz"
        return {"status": "alive"}

    @app.get("/readyz", responses=_refusals(429))
    def readyz(request: Request) -> dict[str, Literal["ready"]]:
        """Whether one more picture would be answered in time."""
        request.state.route = "readyz"
        service.desk.admit()
        return {"status": "ready"}

    @app.get("/metrics", response_class=PlainTextResponse, responses=_refusals(401, 403, 421))
    def metrics(request: Request) -> Response:
        """Numbers for Prometheus."""
        request.state.route = "metrics"
        content, media = service.metrics.page()
        return Response(content, media_type=media)


def _add_pages(app: FastAPI, service: Service) -> None:
    app.mount("/static", StaticFiles(packages=[("headstart_predict.serving", "page")]))

    @app.get("/", include_in_schema=False)
    def page(request: Request) -> Response:
        request.state.route = "page"
        return Response((PAGE / "index.html").read_bytes(), media_type="text/html")

    @app.get("/decisions", include_in_schema=False)
    def summary(request: Request) -> Response:
        request.state.route = "page"
        return Response((PAGE / "decisions.html").read_bytes(), media_type="text/html")


def _add_problems(app: FastAPI) -> None:
    def respond(request: Request, problem: RequestError) -> Response:
        return Response(
            problem.body(request.state.request_id),
            problem.status,
            headers=problem.headers,
            media_type=MEDIA_TYPE,
        )

    @app.exception_handler(RequestError)
    async def known(request: Request, problem: RequestError) -> Response:
        return respond(request, problem)

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][1:]))[:60]
        return respond(request, RequestError(422, f"{where}: {first['msg'][:200]}"))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        detail = {
            404: "there is nothing at this address: see /openapi.json",
            405: "this method is not for this address: see /openapi.json",
        }.get(error.status_code, str(error.detail))
        headers = dict(error.headers or {})
        return respond(request, RequestError(error.status_code, detail, headers=headers))

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        return respond(
            request, RequestError(500, "the service has made a mistake; its log says which")
        )


def _document(app: FastAPI, settings: Settings) -> None:
    """Complete the OpenAPI document: the token, and the media type of problems."""
    document = app.openapi()
    if settings.token is not None:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    document["components"]["schemas"].pop("HTTPValidationError", None)
    document["components"]["schemas"].pop("ValidationError", None)
    for path in document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if status.startswith("4") and "application/json" in response.get("content", {}):
                    response["content"] = {MEDIA_TYPE: response["content"]["application/json"]}
