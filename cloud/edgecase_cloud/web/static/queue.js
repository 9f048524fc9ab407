// The queue by keyboard, and filters that act as soon as they are chosen.

const filters = document.getElementById("filters");

function send() {
  const url = new URL(filters.action);
  const usual = { review: "open", order: "batch" };
  for (const [key, value] of new FormData(filters)) if (value && value !== usual[key]) url.searchParams.set(key, value);
  location.assign(url);
}

filters.addEventListener("change", send);
filters.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});

const cards = () => [...document.querySelectorAll("[data-card]")];

// The card above or below is the one of the neighbouring line whose middle lies nearest.
function beside(from, key) {
  const all = cards();
  const at = all.indexOf(from);
  if (key === "ArrowRight") return all[at + 1];
  if (key === "ArrowLeft") return all[at - 1];
  const here = from.getBoundingClientRect();
  const down = key === "ArrowDown";
  const far = (card) => {
    const place = card.getBoundingClientRect();
    return Math.abs(place.top - here.top) * 1000 + Math.abs(place.left - here.left);
  };
  return all
    .filter((card) => (down ? card.getBoundingClientRect().top > here.top + 1 : card.getBoundingClientRect().top < here.top - 1))
    .sort((a, b) => far(a) - far(b))[0];
}

document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key.toLowerCase() === "g") document.querySelector(".section .button")?.click();
  if (!event.key.startsWith("Arrow") || !cards().length) return;
  const from = document.activeElement.closest?.("[data-card]");
  const to = from ? beside(from, event.key) : cards()[0];
  if (!to) return;
  event.preventDefault();
  to.focus();
  to.scrollIntoView({ block: "nearest" });
});
