// The review of one frame: wires the editor to the panel, the keys and the API, and goes on to the next frame after an answer.

import { Boxes } from "./boxes.js";
import { Editor } from "./editor.js";
import { remember, recall, forget } from "./memory.js";

const PALETTE = 9;
const COLOURS = 12;
const data = JSON.parse(document.getElementById("frame").textContent);
const { frame, classes } = data;
const byId = (id) => document.getElementById(id);
const className = (cls) => classes[cls] ?? `class ${cls}`;

// An answer that was given is shown again; otherwise what the model says at its operating point.
const below = frame.candidates.filter((box) => box.score < frame.operating_point);
const sure = frame.candidates.filter((box) => box.score >= frame.operating_point);
const scored = (box) => {
  const own = sure.find((each) => each.cls === box.cls && ["x1", "y1", "x2", "y2"].every((k) => Math.abs(each[k] - box[k]) < 0.11));
  return own ? { ...box, score: own.score } : box;
};
const answered = frame.answer && frame.answer.verdict !== "rejected";
const shown = (answered ? frame.answer.boxes : data.model_boxes).map(scored);

let revision = frame.revision;
let saving = false;
let left = false;

const boxes = new Boxes({ width: frame.width_px, height: frame.height_px }, shown, below);
const svg = byId("editor");
svg.setAttribute("viewBox", `0 0 ${frame.width_px} ${frame.height_px}`);
const editor = new Editor(svg, boxes, {
  classes,
  image: `/api/v1/frames/${frame.id}/image`,
  label: `Frame of ${frame.device}, ${frame.camera}`,
  redacted: frame.redaction?.boxes ?? [],
  onChange: showBoxes,
  onSelect: showSelected,
  onPoint: () => {},
});

// -------------------------------------------------------------------- panel

function swatch(cls) {
  const made = document.createElement("i");
  made.className = `swatch k${cls % COLOURS}`;
  return made;
}

function buildPalette() {
  const select = byId("class-select");
  classes.forEach((name, cls) => {
    const option = new Option(name, String(cls));
    select.add(option);
    if (cls >= PALETTE) return;
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.cls = String(cls);
    const key = document.createElement("kbd");
    key.textContent = String(cls + 1);
    button.append(swatch(cls), name, key);
    button.addEventListener("click", () => useClass(cls));
    byId("palette").append(button);
  });
  byId("more-classes").hidden = classes.length <= PALETTE;
  select.addEventListener("change", () => useClass(Number(select.value)));
}

function showClass(cls) {
  for (const button of byId("palette").children) button.setAttribute("aria-pressed", String(Number(button.dataset.cls) === cls));
  byId("class-select").value = String(cls);
}

function row(box, candidate) {
  const item = document.createElement("li");
  item.dataset.id = box.id;
  item.classList.toggle("selected", box.id === editor.selected);
  item.classList.toggle("candidate", candidate);
  const choose = document.createElement("button");
  choose.type = "button";
  choose.setAttribute("aria-pressed", String(box.id === editor.selected));
  const note = document.createElement("span");
  note.className = "muted";
  note.textContent = box.score === undefined ? (box.origin === "edited" ? "edited" : "drawn") : box.score.toFixed(2);
  choose.append(swatch(box.cls), className(box.cls), note);
  choose.addEventListener("click", () => editor.select(box.id));
  const act = document.createElement("button");
  act.type = "button";
  act.className = "act";
  act.textContent = candidate ? "take" : "×";
  act.setAttribute("aria-label", candidate ? `Take over ${className(box.cls)}` : `Delete ${className(box.cls)}`);
  act.addEventListener("click", () => (candidate ? promote(box.id) : remove(box.id)));
  item.append(choose, act);
  return item;
}

function showBoxes() {
  const open = boxes.open(editor.floor).sort((a, b) => b.score - a.score);
  byId("boxes").replaceChildren(...boxes.list.map((box) => row(box, false)), ...open.map((box) => row(box, true)));
  byId("box-count").textContent = open.length ? `${boxes.list.length} and ${open.length} unlikely` : `${boxes.list.length}`;
  byId("undo").disabled = !boxes.canUndo;
  byId("redo").disabled = !boxes.canRedo;
  const own = boxes.same(data.model_boxes);
  byId("accept").classList.toggle("main", own);
  byId("correct").classList.toggle("main", !own);
  byId("state").textContent = boxes.dirty ? "not saved" : "";
}

function showSelected(box) {
  showBoxes();
  if (!box) return announce("nothing selected");
  if (!box.id.startsWith("c")) editor.pen = box.cls;
  showClass(box.cls);
  byId("boxes").querySelector(".selected")?.scrollIntoView({ block: "nearest" });
  const score = box.score === undefined ? "" : `, score ${box.score.toFixed(2)}`;
  const kind = box.id.startsWith("c") ? ", below the operating point: Enter takes it over" : "";
  return announce(`${className(box.cls)}${score}, ${Math.round(box.x2 - box.x1)} by ${Math.round(box.y2 - box.y1)} pixels${kind}`);
}

function announce(text) {
  byId("announce").textContent = text;
}

function say(text) {
  byId("state").textContent = text;
  announce(text);
}

function banner(text, actions = []) {
  byId("banner-text").textContent = text;
  byId("banner-actions").replaceChildren(
    ...actions.map(([label, act]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "button quiet";
      button.textContent = label;
      button.addEventListener("click", act);
      return button;
    }),
  );
  byId("banner").hidden = !text;
}

// -------------------------------------------------------------------- changes

function useClass(cls) {
  if (cls < 0 || cls >= classes.length) return;
  editor.pen = cls;
  const id = editor.selected;
  if (id?.startsWith("c")) editor.selected = boxes.promote(id, cls);
  else if (id) boxes.relabel(id, cls);
  editor.refresh();
  showClass(cls);
  remember("class", cls);
  announce(id ? `now ${className(cls)}` : `new boxes are ${className(cls)}`);
}

function promote(id) {
  editor.selected = boxes.promote(id);
  editor.refresh();
  editor.select(editor.selected);
}

function remove(id) {
  const name = className(boxes.find(id).cls);
  boxes.remove(id);
  editor.refresh();
  announce(`${name} deleted; Z brings it back`);
}

function addInTheMiddle() {
  editor.select(boxes.add(editor.pen, editor.middle()));
  editor.refresh();
}

function copyLast() {
  const last = recall("last");
  const key = `${frame.device}/${frame.camera}`;
  if (!last || last.camera !== key || last.width !== frame.width_px || last.height !== frame.height_px || !last.boxes.length) {
    say("no boxes of this camera to copy yet");
    return;
  }
  boxes.addAll(last.boxes);
  editor.refresh();
  announce(`${last.boxes.length} boxes copied`);
}

function arrow(event) {
  const box = boxes.list.find((each) => each.id === editor.selected);
  if (!box) return false;
  const step = event.ctrlKey || event.metaKey ? 10 : 1;
  const dx = { ArrowLeft: -step, ArrowRight: step }[event.key] ?? 0;
  const dy = { ArrowUp: -step, ArrowDown: step }[event.key] ?? 0;
  if (event.shiftKey) boxes.reshape(box.id, { ...box, x2: Math.max(box.x2 + dx, box.x1 + 1), y2: Math.max(box.y2 + dy, box.y1 + 1) });
  else boxes.shift(box.id, dx, dy);
  editor.refresh();
  return true;
}

// -------------------------------------------------------------------- answers

async function answer(verdict) {
  if (saving) return;
  const author = byId("author").value.trim();
  if (!author) {
    banner("Say who answers: put a name into “Reviewer” below.");
    byId("author").focus();
    return;
  }
  if (verdict === "accepted" && !boxes.same(data.model_boxes)) {
    banner("Accept takes the model's boxes as they are, but these differ. Save them as a correction, or go back to the model's.", [
      ["Save correction (S)", () => answer("corrected")],
      ["Back to the model's", backToModel],
    ]);
    return;
  }
  saving = true;
  banner("");
  say("saving …");
  const sent = verdict === "corrected" ? boxes.answer() : [];
  try {
    const response = await fetch(`/api/v1/frames/${frame.id}/annotation`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ revision, verdict, boxes: sent, author }),
    });
    const body = await response.json();
    if (response.ok) return goOn(verdict, body);
    refused(response.status, body, verdict);
  } catch {
    banner("Not saved: the cloud does not answer. Your boxes are still here; try again when it is back.", [["Try again", () => answer(verdict)]]);
  }
  saving = false;
  showBoxes();
  return undefined;
}

function goOn(verdict, body) {
  left = true;
  remember("author", byId("author").value.trim());
  remember("last", { camera: `${frame.device}/${frame.camera}`, width: frame.width_px, height: frame.height_px, boxes: body.boxes });
  remember("said", verdict);
  location.assign(data.next);
}

function refused(status, body, verdict) {
  if (status !== 409) {
    banner(`Not saved: ${body.detail}`);
    return;
  }
  const who = body.current ? `${body.current.author} ${body.current.verdict} this frame` : "This frame changed";
  banner(`Not saved: ${who} while you looked at it. Your boxes are still here.`, [
    ["Show their answer", () => reload()],
    [
      "Save mine over it",
      () => {
        revision = body.revision;
        answer(verdict);
      },
    ],
  ]);
}

function reload() {
  left = true;
  location.reload();
}

function backToModel() {
  const keep = editor.selected;
  while (boxes.canUndo) boxes.undo();
  if (!boxes.same(data.model_boxes)) {
    for (const box of [...boxes.list]) boxes.remove(box.id);
    for (const box of data.model_boxes) boxes.add(box.cls, box, "model");
  }
  banner("");
  editor.selected = keep;
  editor.refresh();
}

// -------------------------------------------------------------------- keys

const keys = {
  a: () => answer("accepted"),
  s: () => answer("corrected"),
  r: () => answer("rejected"),
  n: () => byId("next").click(),
  p: () => byId("previous").click(),
  b: addInTheMiddle,
  c: copyLast,
  z: undo,
  y: redo,
  "?": toggleHelp,
  "+": () => editor.zoom(1.4),
  "=": () => editor.zoom(1.4),
  "-": () => editor.zoom(1 / 1.4),
  0: () => editor.fit(),
  f: () => editor.closely(editor.selected && boxes.find(editor.selected)),
  Delete: removeSelected,
  Backspace: removeSelected,
  Enter: () => editor.selected?.startsWith("c") && promote(editor.selected),
  Escape: () => {
    if (!editor.drop()) editor.select(null);
    banner("");
  },
};

function undo() {
  boxes.undo();
  editor.refresh();
  announce("undone");
}

function redo() {
  boxes.redo();
  editor.refresh();
  announce("done again");
}

function removeSelected() {
  if (boxes.list.some((box) => box.id === editor.selected)) remove(editor.selected);
}

function toggleHelp() {
  const help = byId("help");
  if (help.open) help.close();
  else help.showModal();
}

function typing(target) {
  return target.matches("input:not([type=range]), select, textarea");
}

function onKey(event) {
  if (event.key === "Escape" && typing(event.target)) return event.target.blur();
  if (typing(event.target) || event.altKey) return undefined;
  if (byId("help").open) return event.key === "?" ? toggleHelp() : undefined;
  if (event.key === " " && event.target === svg) {
    editor.space = true;
    svg.dataset.cursor = "pan";
    return event.preventDefault();
  }
  if (event.key === "Tab") {
    if (event.target === svg && editor.walk(event.shiftKey ? -1 : 1)) event.preventDefault();
    return undefined;
  }
  if (event.key.startsWith("Arrow")) {
    if (event.target.type !== "range" && arrow(event)) event.preventDefault();
    return undefined;
  }
  if (event.ctrlKey || event.metaKey) return withControl(event);
  if (event.key === "Enter" && event.target.matches("a, button")) return undefined;
  if (/^[1-9]$/.test(event.key)) useClass(Number(event.key) - 1);
  else if (!event.repeat || event.key === "z" || event.key === "y") act(event);
  return undefined;
}

function act(event) {
  const wanted = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!wanted) return;
  event.preventDefault();
  wanted();
}

function withControl(event) {
  const key = event.key.toLowerCase();
  if (key !== "z" && key !== "y") return;
  event.preventDefault();
  if (key === "y" || event.shiftKey) redo();
  else undo();
}

// -------------------------------------------------------------------- begin

function begin() {
  buildPalette();
  const pen = Number(recall("class") ?? 0);
  editor.pen = pen < classes.length ? pen : 0;
  showClass(editor.pen);
  byId("author").value = recall("author") ?? "reviewer";
  const floor = byId("floor");
  floor.value = String(Math.min(recall("floor") ?? 0.1, Number(floor.max)));
  const settle = () => {
    editor.floor = Number(floor.value);
    byId("floor-value").textContent = editor.floor.toFixed(2);
    remember("floor", editor.floor);
    editor.refresh();
  };
  floor.addEventListener("input", settle);
  settle();
  byId("accept").addEventListener("click", () => answer("accepted"));
  byId("correct").addEventListener("click", () => answer("corrected"));
  byId("reject").addEventListener("click", () => answer("rejected"));
  byId("undo").addEventListener("click", undo);
  byId("redo").addEventListener("click", redo);
  byId("zoom-in").addEventListener("click", () => editor.zoom(1.4));
  byId("zoom-out").addEventListener("click", () => editor.zoom(1 / 1.4));
  byId("zoom-fit").addEventListener("click", () => editor.fit());
  byId("help-open").addEventListener("click", toggleHelp);
  document.addEventListener("keydown", onKey);
  document.addEventListener("keyup", (event) => {
    if (event.key === " ") editor.space = false;
  });
  window.addEventListener("beforeunload", (event) => {
    if (boxes.dirty && !left) event.preventDefault();
  });
  const said = recall("said");
  forget("said");
  if (said) say(`${said}; P goes back`);
  if (data.upcoming) new Image().src = data.upcoming;
  svg.focus({ preventScroll: true });
  document.body.dataset.ready = "yes";
}

begin();
