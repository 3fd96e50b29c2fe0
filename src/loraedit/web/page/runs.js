// The list of runs: their progress, and their results.

import { $, make, say, seconds } from "./dom.js";
import { Player } from "./player.js";

const STATES = { waiting: "waiting", running: "running", stopping: "stopping", stopped: "stopped", failed: "failed", done: "done" };
const PRODUCTS = {
  video: "Video (.mp4)", frames: "Lossless frames (.zip)", mask: "Mask (.zip)", lora: "LoRA (.safetensors)",
  report: "Report (.html)", command: "Command line (.txt)", settings: "Settings (.json)",
};

export class Runs {
  constructor(act) {
    this.act = act;
    this.boxes = new Map();
  }

  show(runs) {
    $("runs-section").hidden = runs.length === 0;
    for (const [id, box] of this.boxes) {
      if (!runs.some((run) => run.id === id)) { box.root.remove(); this.boxes.delete(id); }
    }
    runs.forEach((run, index) => {
      const box = this.boxes.get(run.id) || this.add(run, index);
      if (box.shown !== JSON.stringify(run)) { box.shown = JSON.stringify(run); this.fill(box, run); }
    });
    const latest = runs[0];
    if (latest) say($("run-news"), newsOf(latest));
  }

  add(run, index) {
    const head = make("summary");
    const body = make("div");
    const root = make("details", { className: "run", open: index === 0 || location.hash === `#${run.id}`, id: run.id }, head, body);
    $("runs").insertBefore(root, $("runs").children[index] || null);
    const box = { root, head, body };
    this.boxes.set(run.id, box);
    return box;
  }

  open(id) {
    for (const [name, box] of this.boxes) box.root.open = name === id;
    location.hash = id;
    this.boxes.get(id)?.root.scrollIntoView({ block: "start" });
  }

  fill(box, run) {
    const state = run.state === "running" && run.finished ? "measuring" : STATES[run.state];
    const when = new Date(run.created * 1000).toLocaleString();
    box.head.replaceChildren(
      make("span", { className: `state ${run.state}` }, state), make("span", {}, run.name || "clip"),
      make("span", { className: "hint" }, run.prompt), make("span", { className: "hint" }, when),
    );
    if (!box.parts) {
      box.parts = { note: make("p"), progress: make("div"), preview: make("div"), result: make("div"), buttons: make("div", { className: "row" }) };
      box.body.append(...Object.values(box.parts));
    }
    say(box.parts.note, noteOf(run), run.state === "failed");
    box.parts.progress.replaceChildren(...(run.finished ? [] : progressOf(run)));
    this.fillPreview(box, run);
    if (run.finished) this.fillResult(box, run);
    this.fillButtons(box.parts.buttons, run);
  }

  // Shows the latest preview; the old one stays until the new one has loaded.
  fillPreview(box, run) {
    if (run.finished || !run.preview) {
      box.parts.preview.replaceChildren();
      box.preview = null;
    } else if (box.preview !== run.preview) {
      box.preview = run.preview;
      const caption = captionOf(run.preview);
      const image = make("img", { className: "sheet", src: `/media/run/${run.id}/preview?of=${run.preview}`, alt: `${caption}: source, mask and preview over time` });
      image.onload = () => {
        if (box.preview === run.preview) box.parts.preview.replaceChildren(make("figure", {}, make("figcaption", { className: "hint" }, caption), image));
      };
    }
  }

  fillButtons(row, run) {
    const button = (label, action) => make("button", { type: "button", onclick: () => this.act(run.id, action) }, label);
    const busy = run.state === "running" || run.state === "waiting";
    const key = `${run.state} ${run.finished}`;
    if (row.key === key) return;
    row.key = key;
    row.replaceChildren(...[
      busy && button("Stop", "stop"),
      (run.state === "stopped" || run.state === "failed") && button("Continue", "resume"),
      run.finished && button("New edit with this clip and mask", "again"),
      button("Open above", "reopen"),
      !busy && run.state !== "stopping" && button("Delete", "remove"),
    ].filter(Boolean));
  }

  fillResult(box, run) {
    const { result } = box.parts;
    if (!box.player) {
      const place = make("div", { className: "player" });
      box.measures = make("div");
      box.downloads = make("ul", { className: "plain" });
      const video = make("video", { src: `/media/run/${run.id}/video#t=0.01`, controls: true, loop: true, playsInline: true, preload: "metadata" });
      video.setAttribute("aria-label", "The edited clip");
      const both = make("video", { src: `/media/run/${run.id}/side_by_side#t=0.01`, controls: true, loop: true, muted: true, playsInline: true, preload: "metadata" });
      both.setAttribute("aria-label", "Source and edited clip side by side");
      const sheet = make("img", { className: "sheet", src: `/media/run/${run.id}/sheet`, loading: "lazy", alt: "Contact sheet: source, mask and result over time" });
      result.append(
        make("h3", {}, "Before and after"), place, make("h3", {}, "The edited clip"), video,
        make("details", {}, make("summary", {}, "Side by side"), both),
        make("details", {}, make("summary", {}, "Contact sheet"), sheet),
        make("details", { open: true }, make("summary", {}, "Measures"), box.measures),
        make("h3", {}, "Download"), box.downloads,
      );
      box.player = new Player(place, "Before and after");
      box.player.load(run.clip_facts, {
        key: run.id, clip: run.id, url: (k) => `/media/view/${run.clip}/${k}`, compare: (k) => `/media/result/${run.id}/${k}`,
      });
    }
    box.measures.replaceChildren(run.measures.length ? tableOf(run.measures) : make("p", { className: "hint" }, "Measuring"));
    box.downloads.replaceChildren(...downloadsOf(run.products).map((name) =>
      make("li", {}, make("a", { href: `/media/run/${run.id}/${name}?download`, download: "" }, PRODUCTS[name] || `LoRA ${name.slice(5)} (.safetensors)`))));
  }
}

// Returns the downloads in the order of the table, then the LoRAs of further objects.
function downloadsOf(products) {
  const known = Object.keys(PRODUCTS).filter((name) => products.includes(name));
  return [...known, ...products.filter((name) => name.startsWith("lora_"))];
}

function newsOf(run) {
  const phase = run.phases?.at(-1);
  return `Run of ${run.name || "clip"}: ${run.finished ? "the result is ready" : STATES[run.state]}${phase && !run.finished ? `, ${phase.label}` : ""}`;
}

function noteOf(run) {
  if (run.state === "waiting") return run.ahead ? `${run.ahead} ${run.ahead === 1 ? "run" : "runs"} before it in the queue.` : "It starts soon.";
  if (run.state === "failed") return run.error;
  if (run.state === "stopped") return "Stopped. It continues where it stopped.";
  if (!run.finished) return "";
  const time = run.saved.seconds >= 1 ? ` and about ${seconds(run.saved.seconds)}` : "";
  const reused = run.saved.train_steps ? ` The LoRA of an earlier run was reused, which saved ${run.saved.train_steps} training steps${time}.` : "";
  const exact = run.exact ? "Outside the mask every frame equals the source, bit for bit." : "Outside the mask the result differs from the source.";
  return [`Done in ${seconds(run.seconds)}.${reused} ${exact}`, ...run.notes].join(" ");
}

// Returns the caption of the previews `start-KEY`, `train-000020` and `sample-0005`.
function captionOf(name) {
  const [kind, step] = name.split("-");
  return kind === "start" ? "Preview before training" : `Preview after ${Number(step)} ${kind === "train" ? "training" : "sampling"} steps`;
}

function progressOf(run) {
  const rows = (run.phases || []).map((phase) => {
    const name = phase.label;
    const bar = make("progress", { max: phase.total, value: phase.done });
    bar.setAttribute("aria-label", name);
    const ended = phase.done === phase.total;
    const count = phase.total > 1 ? `${phase.done} of ${phase.total}, ` : "";
    const left = ended ? `done in ${seconds(phase.seconds)}` : phase.left === null ? "running" : `about ${seconds(phase.left)} left`;
    return make("div", { className: "phase" }, make("span", {}, name), bar, make("span", { className: "hint" }, count + left));
  });
  return run.losses?.length > 1 ? [...rows, lossCurve(run.losses)] : rows;
}

// Draws the loss as a curve, with the latest value as text.
function lossCurve(losses) {
  const [steps, values] = [losses.map((pair) => pair[0]), losses.map((pair) => pair[1])];
  const [first, last, low, high] = [steps[0], steps.at(-1), Math.min(...values), Math.max(...values)];
  const at = (step, value) => `${(((step - first) / (last - first || 1)) * 300).toFixed(1)},${(96 - ((value - low) / (high - low || 1)) * 92).toFixed(1)}`;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [name, value] of Object.entries({ class: "loss", viewBox: "0 0 300 100", preserveAspectRatio: "none", role: "img" })) svg.setAttribute(name, value);
  svg.setAttribute("aria-label", `Training loss: ${values.at(-1).toFixed(4)} after step ${last}`);
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", `M${losses.map(([step, value]) => at(step, value)).join("L")}`);
  svg.append(path);
  return make("div", {}, make("p", { className: "hint" }, `Training loss ${values.at(-1).toFixed(4)} after step ${last}`), svg);
}

function tableOf(measures) {
  const rows = measures.map(([label, value, meaning]) =>
    make("tr", {}, make("th", { scope: "row" }, label, make("br"), make("span", { className: "hint" }, meaning)), make("td", {}, value)));
  return make("table", {}, make("tbody", {}, ...rows));
}
