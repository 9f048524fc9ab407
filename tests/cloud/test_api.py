"""What programs and browsers are promised over HTTP: the same facts, problems that say what to do, and no way in from elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from edgecase_cloud import audit, devices
from edgecase_cloud.batch import BatchRules
from edgecase_cloud.catalogue import Delivery, Frame
from edgecase_cloud.label_queue import reorder
from edgecase_cloud.services import Services
from edgecase_cloud.store import Refused, Unreachable
from edgecase_cloud.web.app import create_app
from edgecase_cloud.web.security import MAX_BODY_BYTES
from edgecase_models import wire
from edgecase_models.enrolment import Answer
from support import circle
from support.identities import a_key, a_request, enrolled
from support.s3 import S3Server

ONE = circle.frame_id(1)
BOX = {"cls": 3, "x1": 210.0, "y1": 130.0, "x2": 350.0, "y2": 230.0, "origin": "human"}
ANSWER = {"revision": 0, "verdict": "corrected", "boxes": [BOX], "author": "kim"}


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    made = circle.services_in(tmp_path)
    with made.catalogue.session.begin() as session:
        circle.add_classes(session)
        circle.add_device(session)
        for number in range(1, 4):
            circle.add_frame(made, session, number, score=1.0 - number / 10)
        circle.add_frame(made, session, 9, delivery=Delivery.GRANTED, acknowledged_at=None)
    yield made
    made.catalogue.close()


@pytest.fixture
def client(services: Services) -> TestClient:
    return TestClient(create_app(services), base_url="http://127.0.0.1:8700", raise_server_exceptions=False)


def annotate(client: TestClient, frame: str = ONE, **changes: Any) -> Any:
    return client.post(f"/api/v1/frames/{frame}/annotation", json=ANSWER | changes)


# ---- the queue and its frames


def test_an_oracle_can_work_through_the_queue(client: TestClient) -> None:
    seen = []
    while items := client.get("/api/v1/queue", params={"review": "open", "order": "score", "limit": 1}).json()["items"]:
        (item,) = items
        seen.append(item["frame_index"])
        assert annotate(client, item["id"], revision=item["revision"]).status_code == 200
    assert seen == [1, 2, 3]
    assert client.get("/api/v1/queue").json() == {"items": [], "total": 0, "left": 0, "offset": 0, "limit": 50}


def test_the_queue_gives_the_batch_in_its_order_with_its_reasons(services: Services, client: TestClient) -> None:
    batch = reorder(services.catalogue, BatchRules(frames=2, explore_share=0.0, cold_labels=0), circle.START)
    default, told = (client.get("/api/v1/queue", params=query).json()["items"] for query in ({}, {"order": "batch"}))
    assert default == told
    assert [item["id"] for item in told[:2]] == [pick.id for pick in batch.picks]
    first = told[0]["standing"]
    assert (first["rank"], first["quota"], first["distance"]) == (1, "best", None)
    assert first["reason"] == batch.picks[0].reason
    assert told[2]["standing"] is None
    assert client.get(f"/api/v1/frames/{told[0]['id']}").json()["frame"]["standing"] == first


def test_a_frame_tells_all_that_the_editor_needs(client: TestClient) -> None:
    body = client.get(f"/api/v1/frames/{ONE}").json()
    assert body["frame"]["candidates"][0] == {"cls": 3, "score": 0.83, "x1": 200, "y1": 120, "x2": 360, "y2": 240}
    assert body["frame"]["reasons"][0]["strategy"] == "ede"
    assert body["frame"]["operating_point"] == 0.25
    assert body["classes"] == ["person", "bicycle", "motorcycle", "car", "bus", "truck"]
    assert (body["frame"]["review"], body["frame"]["revision"], body["history"]) == ("open", 0, [])


def test_what_the_device_painted_over_and_where_it_was_are_told_and_shown(
    services: Services, client: TestClient
) -> None:
    done = {
        "mode": "blur",
        "method": "fill",
        "count": 9,
        "boxes": [[0, 16, 48, 64]],
        "classes": ["face"],
        "model_digest": "e" * 64,
    }
    with services.catalogue.session.begin() as session:
        row = session.get_one(Frame, ONE)
        row.redaction, row.position = done, {"latitude_deg": 48.1, "longitude_deg": -11.0, "decimals": 2}
    frame = client.get(f"/api/v1/frames/{ONE}").json()["frame"]
    assert frame["redaction"] == done | {"boxes": [{"x1": 0, "y1": 16, "x2": 48, "y2": 64}]}
    assert frame["position"] == {"latitude_deg": 48.1, "longitude_deg": -11.0, "decimals": 2}
    page = client.get(f"/frames/{ONE}").text
    for said in ("9 areas painted over", "Looked for face and what model", "eeeeeeeeeeee</code>", "48.10°, -11.00°"):
        assert said in page
    with services.catalogue.session.begin() as session:
        session.get_one(Frame, ONE).redaction = {
            "mode": "drop",
            "method": "fill",
            "count": 0,
            "boxes": [],
            "classes": ["face"],
        }
    assert "nothing had to be painted over" in client.get(f"/frames/{ONE}").text
    other = client.get(f"/api/v1/frames/{circle.frame_id(2)}").json()["frame"]
    assert (other["redaction"], other["position"]) == (None, None)
    assert "Redacted" not in client.get(f"/frames/{circle.frame_id(2)}").text


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        (f"/api/v1/frames/{circle.frame_id(77)}", 404, "there is no frame"),
        (f"/api/v1/frames/{circle.frame_id(9)}", 404, "has not arrived"),
        (f"/api/v1/frames/{circle.frame_id(9)}/image", 404, "has not arrived"),
        ("/api/v1/frames/..%2f..%2fetc", 404, "nothing at this address"),
        ("/api/v1/frames/XYZ", 422, "frame_id"),
        ("/api/v1/queue?class=dragon", 422, "'dragon' is not in the class table"),
        ("/api/v1/queue?review=maybe", 422, "it can be open, accepted"),
        ("/api/v1/queue?min_score=much", 422, "must be a number"),
        ("/api/v1/queue?limit=0", 422, "limit"),
        ("/api/v1/jobs/77", 404, "there is no job 77"),
        ("/api/v1/none", 404, "nothing at this address"),
    ],
)
def test_a_refusal_is_a_problem_document_that_says_why(client: TestClient, path: str, status: int, says: str) -> None:
    response = client.get(path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == status
    assert says in response.json()["detail"]


# ---- answers


def test_an_answer_is_saved_once_and_the_second_to_the_same_revision_sees_the_first(client: TestClient) -> None:
    first = annotate(client)
    second = annotate(client, verdict="rejected", boxes=[], author="lee")
    assert first.json() == {"frame_id": ONE, "revision": 1, "review": "corrected", "boxes": [BOX]}
    assert second.status_code == 409
    assert second.json()["revision"] == 1
    assert second.json()["current"]["author"] == "kim"
    assert second.json()["current"]["boxes"] == [BOX]
    assert client.get(f"/api/v1/frames/{ONE}").json()["frame"]["review"] == "corrected"


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": "open"},
        {"verdict": "rejected"},
        {"verdict": "accepted"},
        {"revision": -1},
        {"revision": 10**30},
        {"author": ""},
        {"author": "x" * 65},
        {"author": None},
        {"boxes": [BOX | {"cls": 6}]},
        {"boxes": [BOX | {"cls": 10**30}]},
        {"boxes": [BOX | {"x2": 641}]},
        {"boxes": [BOX | {"x1": "left"}]},
        {"boxes": [BOX | {"origin": "oracle"}]},
        {"boxes": [BOX | {"label": "car"}]},
        {"boxes": [BOX] * 301},
        {"surprise": 1},
    ],
)
def test_an_answer_that_breaks_a_rule_is_refused_and_changes_nothing(
    client: TestClient, changes: dict[str, Any]
) -> None:
    response = annotate(client, **changes)
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert client.get(f"/api/v1/frames/{ONE}").json()["frame"]["revision"] == 0


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(client: TestClient, number: str) -> None:
    body = json.dumps(ANSWER).replace("210.0", number)
    response = client.post(
        f"/api/v1/frames/{ONE}/annotation", content=body, headers={"content-type": "application/json"}
    )
    assert response.status_code == 422


# ---- pictures


def test_the_picture_is_the_stores_object_byte_for_byte_and_never_anything_but_a_jpeg(client: TestClient) -> None:
    response = client.get(f"/api/v1/frames/{ONE}/image")
    assert response.content == circle.plain_jpeg()
    assert response.headers["content-type"] == "image/jpeg"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert "immutable" in response.headers["cache-control"]
    tag = response.headers["etag"]
    assert tag == f'"{hashlib.sha256(circle.plain_jpeg()).hexdigest()}"'
    again = client.get(f"/api/v1/frames/{ONE}/image", headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")


def test_the_picture_comes_out_of_a_real_store_as_it_went_in(services: Services, s3: S3Server) -> None:
    with services.catalogue.session() as session:
        key = session.get_one(Frame, ONE).key
    s3.store.put(key, circle.plain_jpeg())
    real = Services(services.settings, services.catalogue, s3.store)
    client = TestClient(create_app(real), base_url="http://127.0.0.1")
    assert client.get(f"/api/v1/frames/{ONE}/image").content == circle.plain_jpeg()
    missing = client.get(f"/api/v1/frames/{circle.frame_id(2)}/image")
    assert (missing.status_code, "has lost" in missing.json()["detail"]) == (502, True)


def test_a_thumbnail_is_the_one_that_came_with_the_offer_or_else_the_picture(
    client: TestClient, services: Services
) -> None:
    assert client.get(f"/api/v1/frames/{ONE}/thumbnail").content == circle.plain_jpeg()
    small = circle.plain_jpeg(40)
    with services.catalogue.session.begin() as session:
        session.get_one(Frame, ONE).thumbnail_jpeg = small
    response = client.get(f"/api/v1/frames/{ONE}/thumbnail")
    assert (response.content, response.headers["content-type"]) == (small, "image/jpeg")


def test_a_picture_that_is_not_what_was_acknowledged_is_not_shown(client: TestClient, services: Services) -> None:
    with services.catalogue.session() as session:
        services.store.put(session.get_one(Frame, ONE).key, circle.plain_jpeg(1))
    response = client.get(f"/api/v1/frames/{ONE}/image")
    assert response.status_code == 502
    assert "is not what was acknowledged" in response.json()["detail"]


def test_a_lost_object_is_told_as_such(client: TestClient, services: Services) -> None:
    with services.catalogue.session() as session:
        (services.settings.data / "objects" / session.get_one(Frame, ONE).key).unlink()
    response = client.get(f"/api/v1/frames/{ONE}/image")
    assert response.status_code == 502
    assert "restore" in response.json()["detail"]


@pytest.mark.parametrize(("error", "status"), [(Unreachable("store: closed port"), 503), (Refused("store: no"), 502)])
def test_a_store_that_fails_is_a_problem_of_the_store(services: Services, error: Exception, status: int) -> None:
    class Failing:
        def get(self, _key: str) -> bytes:
            raise error

    broken = Services(services.settings, services.catalogue, Failing())  # type: ignore[arg-type]
    client = TestClient(create_app(broken), base_url="http://127.0.0.1")
    response = client.get(f"/api/v1/frames/{ONE}/image")
    assert response.status_code == status
    assert "store" in response.json()["detail"]


# ---- the circle


def test_the_summary_adds_up_what_devices_report_and_the_catalogue_holds(
    services: Services, client: TestClient
) -> None:
    balance = {"kept": 9, "acknowledged": 4, "spooled": 3, "declined": 1, "evicted": 1}
    with services.catalogue.session.begin() as session:
        for number, device in enumerate(("north", "south")):
            circle.add_device(
                session, device, status={"frames_seen": 100, "bytes_sent": 5, "jpeg_bytes_seen": 50, "balance": balance}
            ).online = bool(number)
    annotate(client)
    body = client.get("/api/v1/summary").json()
    assert body["frames"]["kept"] == 18
    assert body["frames"]["seen"] == 200
    assert body["frames"]["arrived"] == 3
    assert body["bytes"] == {"sent": 10, "all_frames": 100}
    assert body["review"] == {"open": 2, "accepted": 0, "corrected": 1, "rejected": 0, "context": 0}
    assert body["labelled"] == 1
    assert [d["balance_holds"] for d in body["devices"]] == [True, True, True]
    assert (body["dataset"], body["job"], body["release"]) == (None, None, None)


def test_a_balance_that_does_not_add_up_is_told(services: Services, client: TestClient) -> None:
    with services.catalogue.session.begin() as session:
        circle.add_device(session, "leaky", status={"balance": {"kept": 9, "acknowledged": 8}})
    told = {d["id"]: d["balance_holds"] for d in client.get("/api/v1/devices").json()}
    assert told == {"gate": True, "leaky": False}


@pytest.mark.slow
def test_listings_hold_everything_there_is(services: Services, tmp_path: Path) -> None:
    full = circle.services_in(tmp_path / "full")
    circle.fill(full, 4)
    client = TestClient(create_app(full), base_url="http://127.0.0.1")
    assert [d["name"] for d in client.get("/api/v1/datasets").json()] == ["labelled", "base", "golden"]
    assert [b["release"] for b in client.get("/api/v1/bundles").json()] == [2, 1]
    assert [j["state"] for j in client.get("/api/v1/jobs").json()] == ["running", "failed", "done"]
    assert client.get("/api/v1/summary").json()["job"]["stage"] == "train"
    assert [d["running_release"] for d in client.get("/api/v1/devices").json()] == [2, 2, 1]
    assert client.get("/api/v1/classes").json()[3] == {"index": 3, "name": "car"}
    full.catalogue.close()


def test_a_job_is_queued_with_its_request_and_refused_when_it_is_of_no_known_kind(client: TestClient) -> None:
    made = client.post("/api/v1/jobs", json={"kind": "retrain", "request": {"epochs": 3}})
    assert made.status_code == 201
    job = client.get(f"/api/v1/jobs/{made.json()['id']}").json()
    assert (job["state"], job["request"], job["stage"]) == ("queued", {"epochs": 3}, "")
    assert client.post("/api/v1/jobs", json={"kind": "mine coins"}).status_code == 422


def test_a_job_that_could_not_be_followed_is_refused_at_once_with_the_nearest_key(client: TestClient) -> None:
    response = client.post("/api/v1/jobs", json={"kind": "retrain", "request": {"epoch": 3}})
    assert response.status_code == 422
    assert "did you mean 'epochs'?" in response.json()["detail"]
    assert client.get("/api/v1/jobs").json() == []


@pytest.mark.parametrize("named", ["/etc/passwd", "weights.pt", "../" + "a" * 61, "a" * 64 + "\n", ""])
def test_who_asks_for_a_job_from_elsewhere_can_name_no_file_of_the_server(client: TestClient, named: str) -> None:
    response = client.post("/api/v1/jobs", json={"kind": "retrain", "request": {"starter_weights": named}})
    assert response.status_code == 422
    assert "must be the SHA-256 of weights that this cloud holds" in response.json()["detail"]
    assert client.get("/api/v1/jobs").json() == []


def test_jobs_that_nobody_takes_up_do_not_pile_up_for_ever(client: TestClient) -> None:
    statuses = [client.post("/api/v1/jobs", json={"kind": "retrain"}).status_code for _ in range(21)]
    assert statuses == [201] * 20 + [409]


# ---- releases


@pytest.fixture
def released(services: Services) -> Path:
    folder = services.settings.data / "releases"
    (folder / "metadata").mkdir(parents=True)
    (folder / "targets" / "models" / "street").mkdir(parents=True)
    (folder / "metadata" / "1.root.json").write_text("{}")
    (folder / "targets" / "models" / "street" / "abc.1.tar").write_bytes(bytes(range(256)))
    (services.settings.data / "secret.json").write_text("secret")
    (folder / "metadata" / "out.json").symlink_to(services.settings.data / "secret.json")
    (folder / "targets" / ".hidden").write_text("hidden")
    return folder


def test_a_broken_download_goes_on_where_it_stopped(client: TestClient, released: Path) -> None:
    path = "/tuf/targets/models/street/abc.1.tar"
    whole = client.get(path)
    rest = client.get(path, headers={"range": "bytes=200-"})
    assert (whole.status_code, whole.content, whole.headers["accept-ranges"]) == (200, bytes(range(256)), "bytes")
    assert (rest.status_code, rest.content) == (206, bytes(range(200, 256)))
    assert rest.headers["content-range"] == "bytes 200-255/256"
    assert client.get(path, headers={"range": "bytes=300-"}).status_code == 416
    assert client.head(path).headers["content-length"] == "256"
    assert client.get("/tuf/metadata/1.root.json").headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    [
        "/tuf/metadata/..%2f..%2fsecret.json",
        "/tuf/metadata/../../secret.json",
        "/tuf/metadata/%2e%2e/%2e%2e/secret.json",
        "/tuf/metadata/..%5c..%5csecret.json",
        "/tuf/metadata/out.json",
        "/tuf/metadata/2.root.json",
        "/tuf/metadata/1.root.json%00",
        "/tuf/metadata/" + "a" * 5000,
        "/tuf/metadata/",
        "/tuf/targets/",
        "/tuf/targets/models",
        "/tuf/targets/.hidden",
        "/tuf/targets//etc/passwd",
        "/tuf/targets/%2fetc%2fpasswd",
        "/tuf/targets/" + "a/" * 9 + "b",
    ],
)
def test_nothing_but_released_files_can_be_reached(client: TestClient, released: Path, path: str) -> None:
    response = client.get(path)
    assert response.status_code in {404, 307}
    assert "secret" not in response.text.replace("secret.json", "")


# ---- who may ask


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://127.0.0.1:8700"}, 200),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1:8700"}, 403),
    ],
)
def test_a_page_of_another_site_cannot_write(client: TestClient, headers: dict[str, str], status: int) -> None:
    response = client.post(f"/api/v1/frames/{ONE}/annotation", json=ANSWER, headers=headers)
    assert response.status_code == status
    assert (client.get(f"/api/v1/frames/{ONE}").json()["frame"]["revision"] == 0) == (status != 200)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8700", ""])
def test_only_its_own_names_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/api/v1/summary", headers={"host": host}).status_code == 400


@pytest.mark.parametrize("host", ["127.0.0.1:8700", "localhost", "localhost:1", "[::1]:8700"])
def test_all_of_its_own_names_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/healthz", headers={"host": host}).status_code == 200


def test_a_body_too_large_is_refused_whether_it_says_so_or_not(client: TestClient) -> None:
    def drip() -> Iterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 1000 + 2):
            yield b" " * 1000

    path = f"/api/v1/frames/{ONE}/annotation"
    assert client.post(path, content=b" " * (MAX_BODY_BYTES + 1)).status_code == 413
    assert client.post(path, content=drip()).status_code == 413
    assert client.post(path, content=b"{}", headers={"content-length": "-1"}).status_code == 413


def test_every_answer_binds_the_browser(client: TestClient) -> None:
    for path in ("/", "/queue", f"/frames/{ONE}", "/api/v1/summary", "/static/edgecase.css", "/nothing", "/healthz"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'"), path
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_ready_means_that_the_catalogue_answers(client: TestClient, services: Services) -> None:
    assert client.get("/readyz").json() == {"status": "ok"}
    services.catalogue.close()
    for file in services.settings.data.glob("catalogue.db*"):
        file.unlink()
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


def test_the_api_describes_itself_without_loading_anything_from_elsewhere(client: TestClient) -> None:
    described = client.get("/api/v1/openapi.json").json()
    assert set(described["paths"]) >= {
        "/api/v1/summary",
        "/api/v1/queue",
        "/api/v1/frames/{frame_id}",
        "/api/v1/frames/{frame_id}/image",
        "/api/v1/frames/{frame_id}/thumbnail",
        "/api/v1/frames/{frame_id}/annotation",
        "/api/v1/devices",
        "/api/v1/classes",
        "/api/v1/datasets",
        "/api/v1/jobs",
        "/api/v1/jobs/{job_id}",
        "/api/v1/bundles",
    }
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@examples(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=JSON, key=st.sampled_from([*ANSWER, "boxes.0"]))
def test_no_body_breaks_the_server(client: TestClient, body: Any, key: str) -> None:
    sent = {**ANSWER, "boxes": [body]} if key == "boxes.0" else {**ANSWER, key: body}
    response = client.post(
        f"/api/v1/frames/{ONE}/annotation", content=json.dumps(sent), headers={"content-type": "application/json"}
    )
    assert response.status_code < 500, response.text


@examples(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(
        ["review", "device", "camera", "class", "strategy", "model", "min_score", "order", "limit", "offset"]
    ),
    value=st.text(max_size=30),
)
def test_no_query_breaks_the_server(client: TestClient, key: str, value: str) -> None:
    for path in ("/api/v1/queue", "/queue", "/queue/next", f"/frames/{ONE}"):
        assert client.get(path, params={key: value}, follow_redirects=False).status_code < 500


# ---- the certificates of devices


def test_a_device_enrols_and_renews_over_http_and_is_believed_by_the_signature_of_the_authority(
    client: TestClient, services: Services
) -> None:
    token, key = devices.add(services, "cam-1", wire.now()).token, a_key()
    asked = {"secret": token.secret, "csr": a_request(key)}
    answer = client.post("/api/v1/enrolments", json=asked)
    assert answer.headers["cache-control"] == "no-store"
    said = enrolled(answer)
    authority = x509.load_pem_x509_certificate(said.authority.encode())
    assert authority.fingerprint(hashes.SHA256()).hex() == token.authority
    signed = msgspec.json.decode(answer.content, type=Answer)
    public = authority.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(signed.signature, signed.enrolled.encode(), ec.ECDSA(hashes.SHA256()))
    assert json.loads(said.root)["signed"]["_type"] == "root"
    assert enrolled(client.post("/api/v1/renewals", json={"csr": a_request(key)})).device == "cam-1"
    (device,) = [entry for entry in client.get("/api/v1/devices").json() if entry["id"] == "cam-1"]
    assert device["standing"] == "enrolled"
    assert device["certificate_expires_at"] > wire.now().isoformat()
    page = client.get("/devices").text
    assert ">enrolled</span>" in page
    assert ">not enrolled</span>" in page, "the one of an earlier version"


@pytest.mark.parametrize(
    ("path", "asked", "status", "says"),
    [
        ("enrolments", {"secret": "0" * 40, "csr": "x"}, 403, "does not know this token"),
        ("renewals", {"csr": "x"}, 403, "request cannot be read"),
        ("enrolments", {"secret": "short", "csr": "x"}, 422, "secret"),
        ("enrolments", {"secret": "0" * 40, "csr": "x" * 9000}, 422, "csr"),
        ("enrolments", {"secret": "0" * 40, "csr": "x" * 300_000}, 413, "exceeds"),
        ("renewals", {}, 422, "csr"),
    ],
)
def test_who_asks_for_a_certificate_wrongly_is_told_why_and_stands_in_the_audit_log(
    client: TestClient, services: Services, path: str, asked: dict[str, Any], status: int, says: str
) -> None:
    answer = client.post(f"/api/v1/{path}", json=asked)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert says in answer.json()["detail"]
    refused = [event.kind for event in audit.latest(services.catalogue, 10)]
    assert refused == (
        {"enrolments": ["token refused"], "renewals": ["request refused"]}[path] if status == 403 else []
    )
