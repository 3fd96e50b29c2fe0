// The plan of an edit, as `loraedit plan` prints it.

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
  if (plan.state === "waiting" || plan.state === "running") return [make("p", {}, "Estimating")];
  if (!plan.found) return [];
  const { found } = plan;
  const gigabytes = (bytes) => (bytes < 1e9 ? `${Math.ceil(bytes / 1e6)} MB` : `${(bytes / 1e9).toFixed(1)} GB`);
  const peak = gigabytes(Math.max(...Object.values(found.peak_bytes)));
  const { here } = found;
  const memory = `Peak memory: ${peak} of ${here.memory_gb} GB on ${here.name}: ${here.fits && found.fits ? "it fits" : "it does not fit"}. `;
  const slow = here.runs === "too slow" ? ", which is too slow" : "";
  const time = here.fits && found.fits ? `Time on this machine: about ${seconds(here.seconds)} with training${slow}. ` : "";
  const rows = found.gpus.map((gpu) => make("tr", {}, make("th", { scope: "row" }, gpu.name), make("td", {}, gpu.fits ? `about ${seconds(gpu.seconds)}` : "too small")));
  return [
    make("p", {}, `${memory}${time}${found.remedy || ""} Disk space: at most ${gigabytes(found.disk_bytes)}.`),
    make("details", {}, make("summary", {}, "Estimated time on common GPUs"), make("table", {}, make("tbody", {}, ...rows))),
  ];
}
