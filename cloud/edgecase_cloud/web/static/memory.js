// What this browser remembers from page to page: small things only, and nothing breaks where it may not.

const PREFIX = "edgecase.";
const LASTING = new Set(["author", "floor"]);
const place = (key) => (LASTING.has(key) ? localStorage : sessionStorage);

export function remember(key, value) {
  try {
    place(key).setItem(PREFIX + key, JSON.stringify(value));
  } catch {
    // storage is switched off or full: the page works without
  }
}

export function recall(key) {
  try {
    return JSON.parse(place(key).getItem(PREFIX + key));
  } catch {
    return null;
  }
}

export function forget(key) {
  try {
    place(key).removeItem(PREFIX + key);
  } catch {
    // nothing to forget
  }
}
