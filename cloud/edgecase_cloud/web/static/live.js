// Keeps a page true: asks for the summary every few seconds and, when it has changed, swaps the parts that are marked `data-live`.

const EVERY_MS = 2000;
const SLOWEST_MS = 30000;
let known = null;
let wait = EVERY_MS;

async function look() {
  const response = await fetch("/api/v1/summary", { cache: "no-store" });
  if (!response.ok) throw new Error(String(response.status));
  const text = await response.text();
  if (known !== null && text !== known) await swap();
  known = text;
}

async function swap() {
  const response = await fetch(location.href, { cache: "no-store" });
  if (!response.ok) throw new Error(String(response.status));
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(part.id);
    const busy = part.contains(document.activeElement);
    if (other && !busy && other.innerHTML !== part.innerHTML) part.replaceChildren(...other.childNodes);
  }
  document.dispatchEvent(new Event("swapped"));
}

function ages() {
  for (const time of document.querySelectorAll("time[data-age]")) {
    const text = ago((Date.now() - Date.parse(time.dateTime)) / 1000);
    if (time.textContent !== text) time.textContent = text;
  }
}

function ago(seconds) {
  const past = Math.max(seconds, 0);
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (past >= length) return `${Math.round(past / length)} ${unit} ago`;
  }
  return `${Math.round(past)} s ago`;
}

let timer = 0;

function hurry() {
  if (document.hidden) return;
  clearTimeout(timer);
  wait = EVERY_MS;
  turn();
}

async function turn() {
  const state = document.getElementById("link-state");
  if (!document.hidden) {
    try {
      await look();
      wait = EVERY_MS;
      state.textContent = "";
    } catch {
      wait = Math.min(wait * 2, SLOWEST_MS);
      state.textContent = "the cloud does not answer";
    }
    ages();
  }
  clearTimeout(timer);
  timer = setTimeout(turn, wait);
}

window.addEventListener("online", hurry);
document.addEventListener("visibilitychange", hurry);
turn();
