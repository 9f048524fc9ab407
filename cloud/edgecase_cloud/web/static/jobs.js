// The button that starts a retraining.

const form = document.getElementById("retrain");
const state = document.getElementById("retrain-state");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const response = await fetch("/api/v1/jobs", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ kind: "retrain", request: {} }),
    });
    const body = await response.json();
    if (response.ok) location.assign(`/jobs/${body.id}`);
    else state.textContent = body.detail;
  } catch {
    state.textContent = "the cloud does not answer; nothing was started";
  }
  button.disabled = false;
});
