// The boxes of one frame, with undo. Knows nothing of the page. Every change is one step back; a drag is one change.

const MIN_SIDE = 1;

const round = (value) => Math.round(value * 10) / 10;
const within = (value, low, high) => Math.min(Math.max(value, low), high);

export class Boxes {
  /**
   * @param {{width: number, height: number}} size of the picture in pixels
   * @param {Array} shown boxes that count now: {cls, x1, y1, x2, y2, origin, score?, candidate?}
   * @param {Array} candidates what the model gave below its operating point: {cls, score, x1, y1, x2, y2}
   */
  constructor(size, shown, candidates) {
    this.size = size;
    this.candidates = candidates.map((box, index) => ({ ...box, id: `c${index}`, candidate: index }));
    this.made = 0;
    this.list = shown.map((box) => ({ ...box, id: this.#name() }));
    this.first = this.#answer();
    this.back = [];
    this.ahead = [];
    this.held = null;
  }

  get dirty() {
    return this.#answer() !== this.first;
  }

  get canUndo() {
    return this.back.length > 0;
  }

  get canRedo() {
    return this.ahead.length > 0;
  }

  find(id) {
    return this.list.find((box) => box.id === id) ?? this.candidates.find((box) => box.id === id) ?? null;
  }

  /** Candidates nobody has taken over, from `floor` on. */
  open(floor) {
    const taken = new Set(this.list.map((box) => box.candidate).filter((index) => index !== undefined));
    return this.candidates.filter((box) => box.score >= floor && !taken.has(box.candidate));
  }

  add(cls, rect, origin = "human") {
    const box = { id: this.#name(), cls, origin, ...this.#clamped(rect) };
    this.#change([...this.list, box]);
    return box.id;
  }

  addAll(boxes) {
    const added = boxes.map((box) => ({ id: this.#name(), cls: box.cls, origin: "human", ...this.#clamped(box) }));
    this.#change([...this.list, ...added]);
  }

  /** Takes over what the model was not sure enough of. */
  promote(id, cls = null) {
    const found = this.candidates.find((box) => box.id === id);
    const { score, candidate, x1, y1, x2, y2 } = found;
    const own = cls === null || cls === found.cls;
    const box = own
      ? { id: this.#name(), cls: found.cls, x1, y1, x2, y2, origin: "model", score, candidate }
      : { id: this.#name(), cls, x1, y1, x2, y2, origin: "edited", candidate };
    this.#change([...this.list, box]);
    return box.id;
  }

  remove(id) {
    this.#change(this.list.filter((box) => box.id !== id));
  }

  relabel(id, cls) {
    const box = this.find(id);
    if (box.cls !== cls) this.#change(this.#with(id, { cls }));
  }

  reshape(id, rect) {
    this.#change(this.#with(id, this.#clamped(rect)));
  }

  shift(id, dx, dy) {
    this.reshape(id, this.moved(this.find(id), dx, dy));
  }

  /** A drag: hold, then drag as often as wanted, then settle (one step) or drop (none). */
  hold() {
    this.held = this.list;
  }

  drag(id, rect) {
    this.list = this.#with(id, this.#clamped(rect), this.held);
  }

  settle() {
    const changed = this.list;
    this.list = this.held;
    this.held = null;
    if (changed !== this.list) this.#change(changed);
  }

  drop() {
    this.list = this.held ?? this.list;
    this.held = null;
  }

  undo() {
    if (!this.canUndo) return;
    this.ahead.push(this.list);
    this.list = this.back.pop();
  }

  redo() {
    if (!this.canRedo) return;
    this.back.push(this.list);
    this.list = this.ahead.pop();
  }

  /** The same size, moved, and kept inside the picture. */
  moved(box, dx, dy) {
    const width = box.x2 - box.x1;
    const height = box.y2 - box.y1;
    const x1 = within(box.x1 + dx, 0, this.size.width - width);
    const y1 = within(box.y1 + dy, 0, this.size.height - height);
    return { x1, y1, x2: x1 + width, y2: y1 + height };
  }

  /** What is sent: no ids, no scores. */
  answer() {
    return this.list.map(({ cls, x1, y1, x2, y2, origin }) => ({ cls, x1, y1, x2, y2, origin }));
  }

  same(others) {
    const plain = ({ cls, x1, y1, x2, y2 }) => JSON.stringify([cls, round(x1), round(y1), round(x2), round(y2)]);
    const mine = this.list.map(plain).sort();
    const theirs = others.map(plain).sort();
    return mine.length === theirs.length && mine.every((box, index) => box === theirs[index]);
  }

  #name() {
    this.made += 1;
    return `b${this.made}`;
  }

  #answer() {
    return JSON.stringify(this.answer());
  }

  #change(list) {
    this.back.push(this.list);
    this.ahead = [];
    this.list = list;
  }

  // A box that was touched is no longer the model's own, and the model's score says nothing of it.
  #with(id, change, list = this.list) {
    return list.map((box) => {
      if (box.id !== id) return box;
      const { score, ...rest } = box;
      return { ...rest, ...change, origin: box.origin === "human" ? "human" : "edited" };
    });
  }

  #clamped({ x1, y1, x2, y2 }) {
    const { width, height } = this.size;
    const left = within(Math.min(x1, x2), 0, width - MIN_SIDE);
    const top = within(Math.min(y1, y2), 0, height - MIN_SIDE);
    return {
      x1: round(left),
      y1: round(top),
      x2: round(within(Math.max(x1, x2), left + MIN_SIDE, width)),
      y2: round(within(Math.max(y1, y2), top + MIN_SIDE, height)),
    };
  }
}
