"""What a replay promises: what the device would do, every policy by itself on one look, figures that a hand can check, and a page alone."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
import simplejpeg
import structlog
from numpy.typing import NDArray
from typer.testing import CliRunner

from edgecase_agent.by_policy import a_judge, rules_of
from edgecase_agent.cli import app
from edgecase_agent.frames import FrameMeta
from edgecase_agent.once import Members, Meter, Once
from edgecase_agent.redaction import Mode, Terms
from edgecase_agent.replay import Options, Policies, Replay, ReplayError, must_end, replay
from edgecase_agent.replay_report import MOST_PICTURES, page
from edgecase_agent.replayed import Recorded, Replayed
from edgecase_agent.running import Model, RunningModel, model_of
from edgecase_agent.selection import Selection
from edgecase_agent.source import Frame, SourceState, open_source
from edgecase_agent.spool import Put, PutResult
from edgecase_agent.truths import Truths, read_truths
from edgecase_agent.watch import Shot, Watch, run
from edgecase_models.bundle import Bundle
from edgecase_models.detector import Detector
from edgecase_models.policy import Policy
from support.bundles import a_bundle
from support.clips import write_clip
from support.pictures import a_folder
from support.tiny_onnx import GOLDEN

FRAMES, FPS = 90, 10
SURE, DOUBTFUL, DARK = (220, 10, 10), (80, 10, 10), (70, 70, 70)
UNSURE = range(40, 60)
AMPLE = {"frames_per_minute": 480, "bytes_per_day": 1e12}


def seen_at(index: int) -> NDArray[np.uint8]:
    """A red cell that is seen, and from frame 40 to 59 another that is missed. The grey changes, so that no picture repeats another."""
    picture = np.full((128, 128, 3), DARK, np.uint8)
    picture[96:, :] = 60 + index
    picture[16:32, 16:32] = SURE
    if index in UNSURE:
        picture[64:80, 64:80] = DOUBTFUL
    return picture


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", map(seen_at, range(FRAMES)), fps=FPS)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return a_bundle(tmp_path_factory.mktemp("bundle") / "tiny.tar")


@pytest.fixture(scope="module")
def gt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [f"{index + 1},1,16,16,16,16,1" for index in range(FRAMES)]
    rows += [f"{index + 1},2,64,64,16,16,1" for index in UNSURE]
    path = tmp_path_factory.mktemp("truth") / "gt.txt"
    path.write_text("\n".join(rows))
    return path


def a_policy(**selection: object) -> Policy:
    """Eager, and on a committee whose cost counts nothing: how fast this machine is must not change what is picked."""
    eager = {"window_s": 1.0, "gap_s": 0.2, "budget": {"frames_per_hour": 3600}, "repeat_bits": -1}
    return Policy.model_validate({"selection": eager | selection, "committee": {"compute_share": 1.0}})


def replayed(
    clip: Path, bundle: Bundle, policies: Policies, options: Options | None = None, truths: Truths | None = None
) -> Recorded:
    return replay(open_source(str(clip)), bundle, policies, options or Options(), truths)


def indices(document: Replayed, policy: int = 0) -> list[int]:
    return [pick.frame_index for pick in document.policies[policy].picks]


# ---- as on the device ----------------------------------------------------------------------------------------------


class Kept:
    """A sink that remembers what it was given."""

    def __init__(self) -> None:
        self.frames: list[tuple[bytes, FrameMeta]] = []

    def put(self, jpeg: bytes, meta: FrameMeta) -> PutResult:
        self.frames.append((jpeg, meta))
        return PutResult(Put.KEPT)


class Slot:
    """The model that lies there."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def version(self) -> object:
        return self._model.digest

    def load(self) -> Model:
        return self._model


BESIDE = {"gap_s": 1.0, "audit_share": 0.0, "context_frames": 1, "context_before_s": 0.4}


@pytest.mark.parametrize(
    ("chosen", "triggers"),
    [
        ({}, {"rank", "audit"}),
        ({"strategy": "entropy_sum"}, {"rank", "audit"}),
        ({"strategy": "random"}, {"rank", "audit"}),
        (BESIDE, {"rank", "context"}),
    ],
)
def test_a_replay_keeps_what_the_device_would_keep(
    clip: Path, bundle: Bundle, tmp_path: Path, chosen: dict[str, object], triggers: set[str]
) -> None:
    policy = a_policy(**{"seed": 5, "budget": AMPLE} | chosen)
    selection: Selection[Shot] = Selection(rules_of(policy), None, Shot.compact)
    sink = Kept()
    model = RunningModel(Slot(model_of(bundle, bundle.detector())))
    run(Watch(open_source(str(clip)), model, a_judge(policy, selection), sink, tmp_path), threading.Event())
    watched = sorted((meta.frame_index, meta.reasons, len(jpeg)) for jpeg, meta in sink.frames)

    found = replayed(clip, bundle, {"other": a_policy(seed=9), "this": policy}).document.policies[1]
    assert [(pick.frame_index, pick.reasons, pick.size_bytes) for pick in found.picks] == watched
    assert set(found.by_trigger) == triggers


def test_every_frame_is_kept_or_let_go_for_one_reason(clip: Path, bundle: Bundle) -> None:
    tight = a_policy(budget={"frames_per_minute": 20}, triggers=["uncertainty"], repeat_bits=4)
    document = replayed(clip, bundle, {"eager": a_policy(), "tight": tight}).document
    assert document.frames == FRAMES
    for policy in document.policies:
        assert policy.kept == len(policy.picks) == sum(policy.by_trigger.values())
        assert policy.kept + sum(policy.skipped.values()) + policy.failed == FRAMES
        assert policy.near_duplicates is not None
    assert document.policies[1].kept < document.policies[0].kept


def test_policies_side_by_side_are_each_as_if_alone(clip: Path, bundle: Bundle) -> None:
    policies = {"a": a_policy(), "b": a_policy(strategy="margin_sum", audit_share=0.5), "c": a_policy(seed=3)}
    together = replayed(clip, bundle, policies).document
    for number, (name, policy) in enumerate(policies.items()):
        alone = replayed(clip, bundle, {name: policy}).document
        assert indices(alone) == indices(together, number)
        assert alone.policies[0].second_looks == together.policies[number].second_looks


class Counting(Detector):
    """The tiny detector, which counts its looks."""

    looks = 0

    def detect(self, *arguments: object, **ways: object) -> object:  # type: ignore[override]
        self.looks += 1
        return super().detect(*arguments, **ways)  # type: ignore[arg-type]


def test_a_look_is_taken_once_and_timed_for_everyone_who_asks() -> None:
    detector, meter = Counting(GOLDEN), Meter()
    once = Once(detector, meter)
    picture = seen_at(45)
    first = once.detect(picture)
    stages = once.stages_ms
    took_ms = meter.ms
    shifted = once.detect(picture, shift_px=8)
    assert once.stages_ms is not stages
    assert once.detect(picture) is first
    assert once.stages_ms is stages
    assert once.detect(picture, shift_px=8) is shifted
    assert detector.looks == 2
    second_ms = once.stages_ms.pre + once.stages_ms.run + once.stages_ms.post
    assert meter.ms == pytest.approx(2 * took_ms + 2 * second_ms)
    once.detect(seen_at(45))
    assert detector.looks == 3


def test_policies_that_name_the_same_bundle_share_its_looks(bundle: Bundle, tmp_path: Path) -> None:
    other = a_bundle(tmp_path / "other.tar", "2")
    members = Members(Options().runtime, Meter())
    base = a_policy()
    named = [
        base.model_copy(update={"committee": type(base.committee)(bundle=path)})
        for path in (other.path, other.path, bundle.path)
    ]
    lent = [members.lent(policy)[1]() for policy in named]
    assert [each.digest for each in lent if each is not None] == [other.digest, other.digest, bundle.digest]
    assert lent[0] is lent[1]
    assert members.lent(base)[1]() is None


def test_a_second_bundle_gives_its_opinion(clip: Path, bundle: Bundle, tmp_path: Path) -> None:
    other = a_bundle(tmp_path / "other.tar", "2")
    policy = Policy.model_validate(
        a_policy().model_dump(exclude_defaults=True) | {"committee": {"bundle": str(other.path), "share": 0.5}}
    )
    found = replayed(clip, bundle, {"a": policy}).document.policies[0]
    assert found.second_looks > 0
    assert found.second_looks_ms > 0
    told = {reason.model_digest for pick in found.picks for reason in pick.reasons}
    assert other.digest in told


# ---- budgets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_a_share_stands_in_the_place_of_every_budget(clip: Path, bundle: Bundle, share: float) -> None:
    policies = {"poor": a_policy(budget={"frames_per_day": 1, "bytes_per_day": 10_000}), "rich": a_policy()}
    document = replayed(clip, bundle, policies, Options(share=share)).document
    for policy in document.policies:
        assert policy.allowed_frames == pytest.approx(share * FRAMES, rel=0.01)
        assert share * FRAMES / 2 < policy.kept <= share * FRAMES + 1
        assert policy.notes == []
    assert indices(document, 0) == indices(document, 1)


def test_a_budget_too_small_for_the_recording_is_told(clip: Path, bundle: Bundle) -> None:
    policies = {"poor": a_policy(budget={"frames_per_hour": 60}), "none": a_policy(triggers=[])}
    poor, none = replayed(clip, bundle, policies).document.policies
    assert poor.allowed_frames == pytest.approx(0.15, abs=0.01)
    assert "60 frames an hour, 200 MB a day come to 0.15 frames in 9 s" in poor.notes[0]
    assert "--share" in poor.notes[0]
    assert (none.kept, none.notes) == (0, ["selection.triggers = [] keeps nothing"])


def test_notes_tell_what_a_replay_cannot_show(clip: Path, bundle: Bundle) -> None:
    campaigns = [
        {"name": "elsewhere", "when": "true", "quota_per_day": 1, "cohort": ["bus-*"]},
        {"name": "over", "when": "true", "quota_per_day": 1, "expires_at": "2020-01-01T00:00:00Z"},
        {"name": "reds", "when": '"red" in classes', "quota_per_day": 2},
    ]
    policy = Policy.model_validate(
        {
            "selection": {"triggers": ["campaign", "novelty"], "budget": {"frames_per_hour": 3600}, "window_s": 1},
            "committee": {"member": "candidate"},
            "campaigns": campaigns,
        }
    )
    found = replayed(clip, bundle, {"a": policy}).document.policies[0]
    assert [note.partition(";")[0] for note in found.notes] == [
        "no candidate waits in a replay: the second looks are those of the shifted view",
        "the model gives no features, so that nothing is novel to it",
        "campaign elsewhere is for bus-*",
        "campaign over does not run at the recording's time (expired)",
    ]
    assert found.by_trigger == {"campaign:reds": 2}
    as_bus = replayed(clip, bundle, {"a": policy}, Options(device="bus-7")).document.policies[0]
    assert as_bus.by_trigger == {"campaign:reds": 2, "campaign:elsewhere": 1}
    among_buses = replayed(clip, bundle, {"a": policy}, Options(cohorts=("north", "bus-line"))).document.policies[0]
    assert among_buses.by_trigger == as_bus.by_trigger


# ---- with a truth --------------------------------------------------------------------------------------------------


def test_what_is_caught_can_be_counted_by_hand(clip: Path, bundle: Bundle, gt: Path) -> None:
    truths = read_truths(str(gt), str(clip), bundle.manifest.classes, "red")
    found = replayed(clip, bundle, {"a": a_policy()}, Options(), truths).document
    assert found.truth is not None
    assert found.truth.classes == ["red"]
    assert (found.truth.labelled_frames, found.truth.objects) == (FRAMES, FRAMES + len(UNSURE))
    assert (found.truth.false_negatives, found.truth.false_positives) == (len(UNSURE), 0)
    assert (found.truth.failures, found.truth.severe, found.truth.missed_objects) == (len(UNSURE), 0, 1)
    policy = found.policies[0]
    caught, failing = policy.captured, [pick for pick in policy.picks if pick.frame_index in UNSURE]
    assert caught is not None
    assert [pick.false_negatives for pick in failing] == [1] * len(failing)
    assert caught.picks == policy.kept
    assert caught.errors.value == pytest.approx(len(failing) / len(UNSURE))
    assert caught.errors.by_chance == pytest.approx(policy.kept / FRAMES, abs=1e-4)
    assert caught.precision.value == pytest.approx(len(failing) / policy.kept, abs=1e-4)
    assert caught.precision.by_chance == pytest.approx(len(UNSURE) / FRAMES, abs=1e-4)
    assert (caught.severe.value, caught.severe.by_chance) == (None, None)
    assert caught.missed_objects.value == 1


def test_frames_without_a_label_are_left_out(clip: Path, bundle: Bundle, gt: Path, tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("\n".join(gt.read_text().splitlines()[:30]))
    truths = read_truths(str(tmp_path / "some.txt"), str(clip), bundle.manifest.classes, "red")
    recorded = replayed(clip, bundle, {"a": a_policy()}, Options(), truths)
    found = recorded.document
    assert found.truth is not None
    assert found.truth.labelled_frames == 30
    assert recorded.labelled.tolist() == [index < 30 for index in range(FRAMES)]
    assert found.policies[0].captured is not None
    assert found.policies[0].captured.picks == sum(index < 30 for index in indices(found))
    assert page(recorded)


def test_a_truth_that_fits_no_frame_is_refused(clip: Path, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "gt.txt").write_text("5000,1,0,0,9,9")
    truths = read_truths(str(tmp_path / "gt.txt"), str(clip), bundle.manifest.classes, "red")
    with pytest.raises(ReplayError, match="fits none of the 90 frames"):
        replayed(clip, bundle, {"a": a_policy()}, Options(), truths)


def test_context_frames_are_neither_labelled_nor_counted_as_caught(clip: Path, bundle: Bundle, gt: Path) -> None:
    truths = read_truths(str(gt), str(clip), bundle.manifest.classes, "red")
    policy = a_policy(context_frames=2, context_before_s=0.5, gap_s=1.0, budget=AMPLE)
    found = replayed(clip, bundle, {"a": policy}, Options(), truths).document.policies[0]
    beside = [pick for pick in found.picks if pick.trigger == "context"]
    assert beside
    assert {pick.expected_boxes for pick in beside} == {0}
    assert {pick.context_of for pick in beside} <= {pick.frame_index for pick in found.picks if pick not in beside}
    assert found.captured is not None
    assert found.captured.picks == found.kept - len(beside)


# ---- what goes wrong -----------------------------------------------------------------------------------------------


class Pictures:
    """A recording of given pictures, ten a second."""

    def __init__(self, pictures: Iterator[NDArray[np.uint8]] | list[NDArray[np.uint8]], *, live: bool = False) -> None:
        self.name = "pictures"
        self.live = live
        self.state = SourceState.PLAYING
        self.closed = 0
        self._pictures = pictures

    def close(self) -> None:
        self.closed += 1

    def __iter__(self) -> Iterator[Frame]:
        for index, picture in enumerate(self._pictures):
            yield Frame(picture, index, datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=index / 10), index)


FLAT = np.zeros((8, 8), np.uint8)


def test_a_frame_that_cannot_be_looked_at_is_counted_and_the_replay_goes_on(bundle: Bundle) -> None:
    pictures = [FLAT, *map(seen_at, range(20)), FLAT]
    source = Pictures(pictures)
    document = replay(source, bundle, {"a": a_policy()}, Options()).document
    assert (document.frames, document.failed) == (20, 2)
    assert document.problem.startswith("frame 0: ")
    assert 0 not in indices(document)
    assert source.closed


def test_a_recording_of_which_nothing_can_be_looked_at_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ReplayError, match="none of its 2 frames could be looked at"):
        replay(Pictures([FLAT, FLAT]), bundle, {"a": a_policy()}, Options(share=0.1))
    with pytest.raises(ReplayError, match="holds no frame"):
        replay(Pictures([]), bundle, {"a": a_policy()}, Options(share=0.1))


def test_one_picture_is_a_recording_too(bundle: Bundle) -> None:
    recorded = replay(Pictures([seen_at(0)]), bundle, {"a": a_policy()}, Options(share=0.5))
    assert recorded.document.policies[0].kept <= 1
    assert page(recorded)


def test_pictures_are_let_go_as_the_replay_goes_on(bundle: Bundle) -> None:
    alive: weakref.WeakSet[NDArray[np.uint8]] = weakref.WeakSet()
    most = 0

    class Watched(np.ndarray):  # type: ignore[type-arg]
        """A picture that can be counted."""

        __hash__ = object.__hash__

    def pictures() -> Iterator[NDArray[np.uint8]]:
        nonlocal most
        for index in range(300):
            picture = seen_at(index % FRAMES).view(Watched)
            alive.add(picture)
            most = max(most, len(alive))
            yield picture
            del picture

    going = Replay("pictures", bundle, {"a": a_policy(leaders=4), "b": a_policy(leaders=4, seed=1)}, Options())
    for frame in Pictures(pictures()):
        going.step(frame)
        del frame
    assert going.close().document.frames == 300
    assert 2 < most <= 24


def test_what_has_no_end_is_refused_unless_it_is_given_one() -> None:
    must_end("clip.mp4", Pictures([]), None)
    must_end("sim://street?frames=3", Pictures([]), None)
    must_end("sim://street", Pictures([]), 3)
    for uri in ("sim://street?seed=1", "rtsp://camera/stream"):
        with pytest.raises(ReplayError, match="--limit-frames"):
            must_end(uri, Pictures([]), None)
    with pytest.raises(ReplayError, match="a camera is no recording"):
        must_end("v4l2:///dev/video0", Pictures([], live=True), 3)


# ---- the page ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(clip: Path, bundle: Bundle, gt: Path) -> Recorded:
    truths = read_truths(str(gt), str(clip), bundle.manifest.classes, "red")
    policies = {"<b>&\"'": a_policy(context_frames=1, context_before_s=0.5), "other": a_policy(strategy="margin_sum")}
    return replayed(clip, bundle, policies, Options(), truths)


def test_the_page_asks_for_nothing_and_runs_nothing(recorded: Recorded) -> None:
    text = page(recorded)
    sheet = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert sheet is not None
    digest = base64.b64encode(hashlib.sha256(sheet[1].encode()).digest()).decode()
    assert f"default-src &#x27;none&#x27;; img-src data:; style-src &#x27;sha256-{digest}&#x27;" in text
    assert not re.search(r"<script|<link|<iframe|\son\w+=|\sstyle=|javascript:|url\(", text)
    assert {link[:16] for link in re.findall(r'(?:href|src)="([^"]*)"', text)} == {"data:image/jpeg;"}


def test_the_page_shows_every_pick_with_its_boxes(recorded: Recorded) -> None:
    text = page(recorded)
    picks = [pick for policy in recorded.document.policies for pick in policy.picks]
    assert text.count("<figure>") == len(picks)
    for pick in picks:
        assert f"frame {pick.frame_index}" in text
    missed = [pick for pick in picks if pick.frame_index in UNSURE]
    legends = 2
    assert text.count('class="missed"') == legends + len(missed) > legends
    assert text.count('class="there"') == legends + len(picks)
    assert text.count('class="low"') >= legends + len(missed)
    assert text.count('class="plot"') == 4


def test_what_others_named_is_shown_as_text(recorded: Recorded) -> None:
    text = page(recorded)
    assert "<b>&\"'" not in text
    assert "&lt;b&gt;&amp;&quot;&#x27;" in text


@pytest.mark.parametrize("mode", Mode)
def test_the_page_shows_pictures_as_they_would_leave(clip: Path, bundle: Bundle, mode: Mode) -> None:
    terms = Terms(mode=mode, classes=("red",), margin=1)
    found = replayed(clip, bundle, {"now": a_policy(context_frames=1, context_before_s=1)}, Options(redaction=terms))
    shown = [base64.b64decode(each) for each in re.findall(r'base64,([^"]+)"', page(found))]
    kept = found.document.policies[0].kept
    assert kept > 3
    if mode is Mode.DROP:
        assert not shown
        assert page(found).count("kept without its pixels") == kept
        return
    assert len(shown) == kept
    for content in shown:
        picture = simplejpeg.decode_jpeg(content).astype(int)
        assert np.ptp(picture[2:46, 2:46], axis=(0, 1)).max() <= 4, (
            "the red cell and its grey surroundings have one colour"
        )
        assert (picture[2:46, 2:46, 0] < 160).all()
        assert picture[50:60, 100:120].mean() == pytest.approx(70, abs=4), "the rest is as it was"


def test_of_many_picks_the_page_shows_some_evenly_spread(bundle: Bundle) -> None:
    policy = a_policy(gap_s=0, window_s=0.1, budget={"frames_per_minute": 1_000_000}, audit_share=1, leaders=50)
    recorded = replay(Pictures(seen_at(index % FRAMES) for index in range(300)), bundle, {"a": policy}, Options())
    assert recorded.document.policies[0].kept > MOST_PICTURES
    text = page(recorded)
    assert text.count("<figure>") == MOST_PICTURES
    assert f"{MOST_PICTURES} of {recorded.document.policies[0].kept}, evenly spread" in text
    assert recorded.document.truth is None
    assert "by chance" not in text


# ---- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def ran(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["replay", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def toml(path: Path, text: str = "") -> Path:
    path.write_text(f'name = "{path.stem}"\n[selection]\nwindow_s = 1\n{text}')
    return path


def test_the_command_compares_policies_and_leaves_a_report(
    clip: Path, bundle: Bundle, gt: Path, tmp_path: Path
) -> None:
    policies = [toml(tmp_path / "calm.toml"), toml(tmp_path / "eager.toml", "gap_s = 0.1")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EDGECASE_")}
    arguments = ["replay", clip, "--bundle", bundle.path, "--truth", gt, "--truth-class", "red", "--share", "0.1"]
    arguments += ["--policy", policies[0], "--policy", policies[1], "--limit-frames", "50"]
    done = subprocess.run(
        [sys.executable, "-m", "edgecase_agent", *map(str, arguments)],
        capture_output=True, text=True, timeout=90, check=False, cwd=tmp_path, env=environment | {"COLUMNS": "120"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for said in ("calm", "eager", "50 frames", "missed objects", "× chance", "replay/report.html"):
        assert said in done.stdout
    assert done.stderr == ""
    document = msgspec.json.decode((tmp_path / "replay" / "replay.json").read_bytes(), type=Replayed)
    assert [policy.name for policy in document.policies] == ["calm", "eager"]
    assert document.frames == 50
    assert "<figure>" in (tmp_path / "replay" / "report.html").read_text()


def test_json_is_one_document_and_nothing_else(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = a_folder(tmp_path / "pictures", 12)
    (folder / "broken.jpg").write_bytes(b"no picture")
    code, said, _ = ran(folder, "--bundle", bundle.path, "--json")
    assert code == 0
    document = msgspec.json.decode(said.encode(), type=Replayed)
    assert (document.frames, document.policies[0].name, document.truth) == (12, "default", None)
    assert document.model_digest == bundle.digest
    assert not (tmp_path / "replay").exists()
    assert json.loads(said)["policies"][0]["captured"] is None


def test_a_labelled_folder_is_judged(tmp_path: Path, bundle: Bundle) -> None:
    folder = a_folder(tmp_path / "pictures", 6)
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "00003.txt").write_text("1 0.5 0.5 0.9 0.9")
    code, said, _ = ran(folder, "--bundle", bundle.path, "--truth", labels, "--json", "--out", tmp_path / "out")
    assert code == 0
    truth = json.loads(said)["truth"]
    assert (truth["labelled_frames"], truth["objects"], truth["false_negatives"]) == (6, 1, 1)
    assert truth["missed_objects"] is None
    assert json.loads(said)["policies"][0]["near_duplicates"] is None
    assert (tmp_path / "out" / "report.html").exists()


def test_the_simulation_is_judged_by_itself(bundle: Bundle) -> None:
    street = "sim://street?seed=2&width=160&height=96&frames=8"
    code, _, said = ran(street, "--bundle", bundle.path, "--truth", "sim", "--json")
    assert code == 2
    assert "shares no class" in said
    starter = Path(__file__).parents[2] / "models" / "starter" / "starter.edgecase.tar"
    code, out, said = ran(street, "--bundle", starter, "--truth", "sim", "--json", "--limit-frames", 5, "--max-fps", 5)
    assert code == 0, said
    document = json.loads(out)
    assert document["frames"] == document["truth"]["labelled_frames"] == 4  # every second of eight


def test_a_devices_settings_give_model_and_policy(clip: Path, bundle: Bundle, tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(
        f'device = "cam-1"\n[source]\nuri = "x"\n[model]\nbundle = "{bundle.path}"\n[selection]\ntriggers = []\n'
    )
    code, said, _ = ran(clip, "-c", config, "--json")
    assert code == 0
    assert [(each["name"], each["kept"]) for each in json.loads(said)["policies"]] == [("agent", 0)]


def test_bad_input_ends_with_one_line(clip: Path, bundle: Bundle, gt: Path, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no video at all")
    wrong = toml(tmp_path / "wrong.toml", "windows_s = 3")
    torn = toml(tmp_path / "torn.toml", "[committee]\nbundle = 'nowhere.tar'")
    private = tmp_path / "private.toml"
    private.write_text(f'[source]\nuri = "x"\n[model]\nbundle = "{bundle.path}"\n[privacy]\nbundle = "faces.tar"\n')
    good, same = toml(tmp_path / "good.toml"), ("--bundle", bundle.path, "--json")
    for said, arguments in {
        "give --bundle": (clip,),
        "no such file": (clip, "--bundle", tmp_path / "none.tar"),
        "faces.tar: no such file": (clip, "-c", private, "--json"),
        "no such file or folder": (tmp_path / "nothing.mp4", *same),
        "cannot be": (tmp_path / "clip.mp4", *same),
        "has no end": ("sim://street?seed=1", *same),
        "unknown scheme": ("ftp://somewhere", *same),
        "windows_s": (clip, *same, "--policy", wrong),
        "nowhere.tar": (clip, *same, "--policy", torn),
        "given twice": (clip, *same, "--policy", good, "--policy", good),
        "--truth-class": (clip, *same, "--truth", gt),
        'did you mean "red"': (clip, *same, "--truth", gt, "--truth-class", "redd"),
        "truth nowhere": (clip, *same, "--truth", "nowhere"),
        "is no simulation": (clip, *same, "--truth", "sim"),
        "can be written": (clip, *same, "--out", gt),
    }.items():
        code, out, line = ran(*arguments)
        assert (code, out) == (2, ""), said
        assert said in line
        assert line.startswith("error: ")
        assert line.count("\n") == 1
