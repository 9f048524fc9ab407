// The picture with its boxes, as SVG: draws what `Boxes` holds, and turns pointers into changes of it.

const SVG = "http://www.w3.org/2000/svg";
const COLOURS = 12;
const CORNERS = ["nw", "ne", "se", "sw"];
const HANDLES = [...CORNERS, "n", "e", "s", "w"];
const ROOMY_PX = 36; // a smaller box has corner handles only
const CLICK_PX = 4; // a pointer that moved less has clicked
const EDGE_PX = 6;
const MAX_ZOOM = 24;

function element(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent?.append(made);
  return made;
}

export class Editor {
  constructor(svg, boxes, { classes, image, label, redacted, onChange, onSelect, onPoint }) {
    Object.assign(this, { svg, boxes, classes, onChange, onSelect, onPoint });
    this.selected = null;
    this.hovered = null;
    this.pen = 0;
    this.floor = 0;
    this.space = false;
    this.pointers = new Map();
    this.gesture = null;
    const { width, height } = boxes.size;
    this.view = { x: 0, y: 0, width, height };
    element("image", { href: image, width, height, role: "img", "aria-label": label }, svg);
    for (const { x1, y1, x2, y2 } of redacted) {
      element("rect", { class: "redacted", x: x1, y: y1, width: x2 - x1, height: y2 - y1 }, svg);
    }
    this.layer = element("g", {}, svg);
    svg.addEventListener("pointerdown", (event) => this.#down(event));
    svg.addEventListener("pointermove", (event) => this.#move(event));
    svg.addEventListener("pointerup", (event) => this.#up(event));
    svg.addEventListener("pointercancel", (event) => this.#cancel(event));
    svg.addEventListener("pointerleave", () => this.#hover(null));
    svg.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    new ResizeObserver(() => this.draw()).observe(svg);
    this.draw();
  }

  // ------------------------------------------------------------------ what the page calls

  select(id) {
    this.selected = id;
    this.draw();
    this.onSelect(id ? this.boxes.find(id) : null);
  }

  /** Boxes first, then the candidates that are shown, each from left to right. False where there is none further. */
  walk(step) {
    const across = (a, b) => a.x1 - b.x1 || a.y1 - b.y1;
    const ids = [...[...this.boxes.list].sort(across), ...this.#open().sort(across)].map((box) => box.id);
    const at = this.selected ? ids.indexOf(this.selected) : step > 0 ? -1 : ids.length;
    const next = ids[at + step] ?? null;
    this.select(next);
    return next !== null;
  }

  /** Draw again, after the boxes changed by other means. */
  refresh() {
    if (this.selected && !this.#shown().some((box) => box.id === this.selected)) this.selected = null;
    this.draw();
    this.onChange();
  }

  zoom(factor, at = null) {
    const { width, height } = this.boxes.size;
    const point = at ?? { x: this.view.x + this.view.width / 2, y: this.view.y + this.view.height / 2 };
    const wide = Math.min(Math.max(this.view.width / factor, width / MAX_ZOOM), width);
    const share = wide / this.view.width;
    this.#look(point.x - (point.x - this.view.x) * share, point.y - (point.y - this.view.y) * share, wide, (wide * height) / width);
  }

  fit() {
    this.#look(0, 0, this.boxes.size.width, this.boxes.size.height);
  }

  /** Look closely at a box; where one does already, at the whole picture. */
  closely(box) {
    const { size } = this.boxes;
    const whole = this.view.width > size.width * 0.999;
    if (!whole || !box) return this.fit();
    const wide = Math.max((box.x2 - box.x1) * 3, ((box.y2 - box.y1) * 3 * size.width) / size.height, size.width / MAX_ZOOM);
    const width = Math.min(wide, size.width);
    const height = (width * size.height) / size.width;
    return this.#look((box.x1 + box.x2 - width) / 2, (box.y1 + box.y2 - height) / 2, width, height);
  }

  /** A rectangle in the middle of what is seen. */
  middle() {
    const { x, y, width, height } = this.view;
    return { x1: x + width * 0.4, y1: y + height * 0.4, x2: x + width * 0.6, y2: y + height * 0.6 };
  }

  drop() {
    if (!this.gesture) return false;
    this.boxes.drop();
    this.gesture = null;
    this.refresh();
    return true;
  }

  draw() {
    this.layer.replaceChildren();
    this.unit = 1 / (this.svg.getScreenCTM()?.a || 1); // one pixel of the screen, in pixels of the picture
    for (const box of this.#open()) this.#paint(box, true);
    for (const box of this.boxes.list) if (box.id !== this.selected) this.#paint(box, false);
    const chosen = this.selected && this.boxes.find(this.selected);
    if (chosen) this.#paint(chosen, this.#isCandidate(chosen));
    if (chosen && !this.#isCandidate(chosen)) this.#paintHandles(chosen);
    if (this.gesture?.kind === "draw" && this.gesture.moved) this.#paintDraft(this.gesture);
  }

  // ------------------------------------------------------------------ drawing

  #paint(box, candidate) {
    const chosen = box.id === this.selected;
    const group = element("g", { "data-id": box.id, class: `box k${box.cls % COLOURS}` }, this.layer);
    group.classList.toggle("selected", chosen);
    group.classList.toggle("candidate", candidate);
    const at = { x: box.x1, y: box.y1, width: box.x2 - box.x1, height: box.y2 - box.y1 };
    element("rect", { ...at, class: "halo" }, group);
    element("rect", { ...at, class: "line" }, group);
    this.#paintTag(box, group, candidate, chosen || box.id === this.hovered);
  }

  #paintTag(box, group, candidate, wanted) {
    const score = box.score === undefined ? "" : ` ${box.score.toFixed(2)}`;
    const text = candidate && !wanted ? score.trim() : `${this.classes[box.cls] ?? box.cls}${score}`;
    const width = (text.length * 6.7 + 8) * this.unit;
    const height = 16 * this.unit;
    if (!wanted && width > (box.x2 - box.x1) * 1.5 + 12 * this.unit) return;
    const above = box.y1 - height >= this.view.y;
    const x = Math.max(Math.min(box.x1, this.boxes.size.width - width), 0);
    const y = above ? box.y1 - height : box.y1;
    const tag = element("g", { class: "tag" }, group);
    element("rect", { x, y, width, height }, tag);
    const label = element("text", { x: x + 4 * this.unit, y: y + 11.8 * this.unit, "font-size": 11 * this.unit }, tag);
    label.textContent = text;
  }

  #paintHandles(box) {
    const radius = 4 * this.unit;
    for (const name of this.#handles(box)) {
      const [x, y] = corner(box, name);
      element("rect", { class: "handle", "data-handle": name, x: x - radius, y: y - radius, width: 2 * radius, height: 2 * radius }, this.layer);
    }
  }

  #paintDraft({ from, to }) {
    const [x1, x2] = [Math.min(from.x, to.x), Math.max(from.x, to.x)];
    const [y1, y2] = [Math.min(from.y, to.y), Math.max(from.y, to.y)];
    const group = element("g", { class: `box draft k${this.pen % COLOURS}` }, this.layer);
    element("rect", { class: "line", x: x1, y: y1, width: x2 - x1, height: y2 - y1 }, group);
  }

  // ------------------------------------------------------------------ finding

  #open() {
    return this.boxes.open(this.floor);
  }

  #shown() {
    return [...this.boxes.list, ...this.#open()];
  }

  #isCandidate(box) {
    return box.id.startsWith("c");
  }

  // The smallest box at a point: small ones lie on top of large ones.
  #hit(point) {
    const slack = 2 * this.unit;
    const area = (box) => (box.x2 - box.x1) * (box.y2 - box.y1);
    return (
      this.#shown()
        .filter((box) => inside(box, point, slack))
        .sort((a, b) => area(a) - area(b))[0] ?? null
    );
  }

  #handleAt(point, reach) {
    const box = this.selected && this.boxes.list.find((each) => each.id === this.selected);
    if (!box) return null;
    const far = (name) => {
      const [x, y] = corner(box, name);
      return Math.hypot(x - point.x, y - point.y);
    };
    const nearest = this.#handles(box).map((name) => [far(name), name]).sort((a, b) => a[0] - b[0])[0];
    // Inside a small box its handles leave room for taking hold of the box itself.
    const limit = inside(box, point, 0) ? Math.min(reach * this.unit, side(box) / 4) : reach * this.unit;
    return nearest[0] <= limit ? nearest[1] : null;
  }

  #handles(box) {
    return side(box) < ROOMY_PX * this.unit ? CORNERS : HANDLES;
  }

  #point(event) {
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.svg.getScreenCTM().inverse());
    return { x, y };
  }

  // ------------------------------------------------------------------ pointers

  #down(event) {
    this.pointers.set(event.pointerId, event);
    this.svg.setPointerCapture(event.pointerId);
    if (this.pointers.size === 2) return this.#beginPinch();
    if (this.pointers.size > 2 || event.button > 1) return undefined;
    const point = this.#point(event);
    const start = { from: point, to: point, client: { x: event.clientX, y: event.clientY }, moved: false };
    if (event.button === 1 || this.space) {
      event.preventDefault();
      this.gesture = { ...start, kind: "pan", view: { ...this.view } };
      return undefined;
    }
    const handle = event.shiftKey ? null : this.#handleAt(point, event.pointerType === "touch" ? 18 : EDGE_PX + 3);
    const chosen = this.boxes.list.find((box) => box.id === this.selected);
    if (handle) this.gesture = { ...start, kind: "resize", handle, box: { ...chosen } };
    else if (chosen && !event.shiftKey && inside(chosen, point, 0)) this.gesture = { ...start, kind: "move", box: { ...chosen } };
    else this.gesture = { ...start, kind: "draw" };
    if (this.gesture.kind !== "draw") this.boxes.hold();
    return undefined;
  }

  #move(event) {
    if (this.pointers.has(event.pointerId)) this.pointers.set(event.pointerId, event);
    const point = this.#point(event);
    this.onPoint(point);
    if (this.gesture?.kind === "pinch") return this.#pinch();
    if (!this.gesture) return this.#hover(point);
    const { gesture } = this;
    const far = Math.hypot(event.clientX - gesture.client.x, event.clientY - gesture.client.y);
    if (!gesture.moved && far < CLICK_PX) return undefined;
    gesture.moved = true;
    gesture.to = point;
    if (gesture.kind === "pan") return this.#pan(event);
    const dx = point.x - gesture.from.x;
    const dy = point.y - gesture.from.y;
    if (gesture.kind === "move") this.boxes.drag(gesture.box.id, this.boxes.moved(gesture.box, dx, dy));
    if (gesture.kind === "resize") this.boxes.drag(gesture.box.id, pulled(gesture.box, gesture.handle, dx, dy));
    this.draw();
    return undefined;
  }

  #up(event) {
    this.pointers.delete(event.pointerId);
    const { gesture } = this;
    if (!gesture || gesture.kind === "pinch") {
      if (!this.pointers.size) this.gesture = null;
      return;
    }
    this.gesture = null;
    if (gesture.kind === "move" || gesture.kind === "resize") {
      if (gesture.moved) this.boxes.settle();
      else this.boxes.drop();
    }
    if (!gesture.moved && gesture.kind !== "pan") this.#click(gesture.from);
    else if (gesture.kind === "draw") this.#drawn(gesture);
    this.refresh();
    this.onSelect(this.selected ? this.boxes.find(this.selected) : null);
  }

  #cancel(event) {
    this.pointers.delete(event.pointerId);
    this.drop();
  }

  #click(point) {
    const hit = this.#hit(point);
    if (hit && this.#isCandidate(hit)) this.selected = this.boxes.promote(hit.id);
    else this.selected = hit?.id ?? null;
  }

  #drawn({ from, to }) {
    const least = 2 * CLICK_PX * this.unit;
    if (Math.abs(from.x - to.x) < least || Math.abs(from.y - to.y) < least) return;
    this.selected = this.boxes.add(this.pen, { x1: from.x, y1: from.y, x2: to.x, y2: to.y });
  }

  #hover(point) {
    const id = point ? (this.#hit(point)?.id ?? null) : null;
    const handle = point ? this.#handleAt(point, EDGE_PX) : null;
    const chosen = this.boxes.list.find((box) => box.id === this.selected);
    const over = chosen && point && inside(chosen, point, 0);
    this.svg.dataset.cursor = this.space ? "pan" : handle ? handle : over ? "move" : "draw";
    if (id === this.hovered) return;
    this.hovered = id;
    this.draw();
  }

  // ------------------------------------------------------------------ looking

  #look(x, y, width, height) {
    const { size } = this.boxes;
    this.view = {
      x: Math.min(Math.max(x, 0), size.width - width),
      y: Math.min(Math.max(y, 0), size.height - height),
      width,
      height,
    };
    this.svg.setAttribute("viewBox", `${this.view.x} ${this.view.y} ${width} ${height}`);
    this.draw();
  }

  #wheel(event) {
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), this.#point(event));
  }

  #pan(event) {
    const { view, client } = this.gesture;
    const x = view.x - (event.clientX - client.x) * this.unit;
    const y = view.y - (event.clientY - client.y) * this.unit;
    this.#look(x, y, view.width, view.height);
  }

  #beginPinch() {
    this.drop();
    this.gesture = { kind: "pinch", last: spread(this.pointers) };
  }

  #pinch() {
    const { last } = this.gesture;
    const now = spread(this.pointers);
    this.gesture.last = now;
    this.#look(this.view.x - (now.x - last.x) * this.unit, this.view.y - (now.y - last.y) * this.unit, this.view.width, this.view.height);
    this.zoom(now.apart / (last.apart || 1), this.#point({ clientX: now.x, clientY: now.y }));
  }
}

function inside(box, { x, y }, slack) {
  return x >= box.x1 - slack && x <= box.x2 + slack && y >= box.y1 - slack && y <= box.y2 + slack;
}

function side(box) {
  return Math.min(box.x2 - box.x1, box.y2 - box.y1);
}

function corner(box, name) {
  const x = name.includes("w") ? box.x1 : name.includes("e") ? box.x2 : (box.x1 + box.x2) / 2;
  const y = name.includes("n") ? box.y1 : name.includes("s") ? box.y2 : (box.y1 + box.y2) / 2;
  return [x, y];
}

function pulled(box, handle, dx, dy) {
  return {
    x1: box.x1 + (handle.includes("w") ? dx : 0),
    y1: box.y1 + (handle.includes("n") ? dy : 0),
    x2: box.x2 + (handle.includes("e") ? dx : 0),
    y2: box.y2 + (handle.includes("s") ? dy : 0),
  };
}

function spread(pointers) {
  const [a, b] = [...pointers.values()];
  return {
    x: (a.clientX + b.clientX) / 2,
    y: (a.clientY + b.clientY) / 2,
    apart: Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY),
  };
}
