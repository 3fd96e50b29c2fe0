// What an edit takes, as `loraedit plan` says it.

import { $, make, seconds } from "./dom.js";

export function drawPlan(plan, mask) {
  $("plan").hidden = !plan;
  if (!plan) return;
  $("ask-plan").disabled = mask?.state !== "done" || ["waiting", "running", "done"].includes(plan.state);
  const key = JSON.stringify(plan);
  if ($("plan-found").key === key) return;
  $("plan-found").key = key;
  $("plan-found").replaceChildren(...linesOf(plan));
}

function linesOf(plan) {
  if (plan.state === "failed") return [make("p", { className: "error" }, plan.error)];
  if (plan.state === "waiting" || plan.state === "running") return [make("p", {}, "Counting")];
  if (!plan.found) return [];
  const { found } = plan;
  const gigabytes = (bytes) => (bytes < 1e9 ? `${Math.ceil(bytes / 1e6)} MB` : `${(bytes / 1e9).toFixed(1)} GB`);
  const peak = gigabytes(Math.max(...Object.values(found.peak_bytes)));
  const { here } = found;
  const memory = `At its peak it takes ${peak} of memory, of the ${here.memory_gb} GB of ${here.name}: ${here.fits && found.fits ? "it fits" : "it does not fit"}. `;
  const time = here.fits && found.fits ? `Time here: about ${seconds(here.seconds)} if everything is to be learnt. ` : "";
  const rows = found.cards.map((card) => make("tr", {}, make("th", { scope: "row" }, card.name), make("td", {}, card.fits ? `about ${seconds(card.seconds)}` : "too small")));
  return [
    make("p", {}, `${memory}${time}${found.remedy || ""} On disk at most ${gigabytes(found.disk_bytes)}.`),
    make("details", {}, make("summary", {}, "Time on common graphics cards, estimated"), make("table", {}, make("tbody", {}, ...rows))),
  ];
}
