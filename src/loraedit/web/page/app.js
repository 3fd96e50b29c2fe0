// The page. It is drawn from the state that the server sends as the answer to every action.

import { getState, send, upload } from "./api.js";
import { $, make, say, seconds } from "./dom.js";
import { Hints } from "./hints.js";
import { Paint } from "./paint.js";
import { Player } from "./player.js";
import { drawPlan } from "./plan.js";
import { Runs } from "./runs.js";
import { drawSettings, readSettings } from "./settings.js";

const POLL_MS = 700;
const SETTLE_MS = 500;

let state = null;
let settling = null;
let newest = 0;
let corrections = []; // corrections of the mask in order; each entry undoes one

const clipPlayer = new Player($("clip-player"), "Your clip");
const maskPlayer = new Player($("mask-player"), "The clip with its mask");
const referencePlayer = new Player($("reference-player"), "Your clip, to pick a frame");
const paint = new Paint();
const runs = new Runs(async (run, action) => {
  if (action === "remove" && !confirm("Delete this run with its result?")) return;
  await tryTo(() => send("POST", `/api/runs/${run}/${action}`));
  if (action === "again") say($("edited-status"), "The clip and the mask are the same. Drop another edited frame; the trained LoRA is reused.");
  if (action === "again" || action === "reopen") forgetCorrections();
  if (action === "again" || action === "reopen") $("h-edit").scrollIntoView();
});
const hints = new Hints(maskPlayer, {
  addPoint: (...point) => correct((draft) => { draft.points.push(point); }, (draft) => { draft.points.pop(); }),
  addBox: (...box) => correct((draft) => { draft.boxes.push(box); }, (draft) => { draft.boxes.pop(); }),
  addSeed: async (frame, blob) => {
    const name = await uploadWithStatus("image", blob, $("mask-status"));
    const before = state.draft.seeds[frame];
    if (name) correct((draft) => { draft.seeds[frame] = name; }, (draft) => {
      hints.painted.delete(frame);
      if (before) draft.seeds[frame] = before;
      else delete draft.seeds[frame];
    });
  },
});

// ---- changing -------------------------------------------------------------------------------------------------------

// Runs an action that returns the state, and draws the state or shows the error.
async function tryTo(action) {
  const turn = ++newest;
  try {
    const answer = await action();
    if (turn === newest) draw(answer);
    say($("trouble"), "");
    $("trouble").hidden = true;
    return answer;
  } catch (error) {
    say($("trouble"), error.message);
    $("trouble").hidden = false;
    return null;
  }
}

// Changes the draft, and sends it when no other change follows.
function change(update, wait = 0) {
  update(state.draft);
  const { draft } = state;
  if (draft.kept_mask && (draft.points.length || draft.boxes.length || Object.keys(draft.seeds).length)) draft.kept_mask = null;
  hints.draft = draft;
  hints.draw();
  clearTimeout(settling);
  newest += 1;
  settling = setTimeout(settle, wait);
}

function correct(update, undo) {
  corrections.push(undo);
  change(update);
}

function forgetCorrections() {
  corrections = [];
  hints.forget();
}

function settle() {
  clearTimeout(settling);
  settling = null;
  return tryTo(() => send("PUT", "/api/draft", state.draft));
}

// Uploads a file with a status line; resolves to its name, or to null if it was refused.
async function uploadWithStatus(kind, blob, status) {
  try {
    say(status, "Uploading");
    const name = await upload(kind, blob, (share) => say(status, share < 1 ? `Uploading, ${Math.round(100 * share)} %` : "Reading"));
    say(status, "");
    return name;
  } catch (error) {
    say(status, error.message, true);
    return null;
  }
}

const receivers = {
  clip: async (file) => {
    const clip = await uploadWithStatus("clip", file, $("clip-status"));
    if (!clip) return;
    forgetCorrections();
    const empty = { references: {}, points: [], boxes: [], seeds: {}, margin: null, kept_mask: null, edited: null };
    change((draft) => Object.assign(draft, { ...empty, clip, whole: clip, name: file.name.slice(0, 200) }));
  },
  edited: async (file) => {
    const edited = await uploadWithStatus("image", file, $("edited-status"));
    if (edited) change((draft) => { draft.edited = edited; });
  },
  reference: async (file) => {
    const { frame } = referencePlayer;
    const name = await uploadWithStatus("image", file, $("reference-status"));
    if (name && frame > 0) change((draft) => { draft.references[frame] = name; });
    else if (name) say($("reference-status"), "Frame 0 is the edited first frame. Pick a later frame.", true);
  },
};

for (const [kind, receive] of Object.entries(receivers)) {
  const area = document.querySelector(`[data-drop="${kind}"]`);
  const input = area.querySelector("input[type=file]");
  input.onchange = () => { if (input.files[0]) receive(input.files[0]); input.value = ""; };
  area.ondragover = (event) => { event.preventDefault(); area.classList.add("over"); };
  area.ondragleave = () => area.classList.remove("over");
  area.ondrop = (event) => {
    event.preventDefault();
    area.classList.remove("over");
    if (event.dataTransfer.files[0]) receive(event.dataTransfer.files[0]);
  };
}

$("example").onclick = () => {
  forgetCorrections();
  tryTo(() => send("POST", "/api/example"));
};
$("trim").onclick = () => {
  const [first, last] = [Number($("trim-first").value), Number($("trim-last").value)];
  forgetCorrections();
  tryTo(() => send("POST", "/api/trim", { first, end: last + 1 }));
};
$("paint").onclick = () => {
  const frame = `/media/frame/${state.draft.clip}/0`;
  const start = state.draft.edited ? `/media/image/${state.draft.edited}` : frame;
  paint.open(frame, start, (blob) => receivers.edited(blob));
};
$("reference-paint").onclick = () => {
  const at = referencePlayer.frame;
  const frame = `/media/frame/${state.draft.clip}/${at}`;
  const start = state.draft.references[at] ? `/media/image/${state.draft.references[at]}` : frame;
  paint.open(frame, start, (blob) => receivers.reference(blob));
};
for (const radio of document.querySelectorAll("input[name=tool]")) radio.onchange = () => hints.choose(radio.value);
$("undo-hint").onclick = () => change((draft) => {
  const lastOf = (list) => list.length && (() => list.pop());
  const undo = corrections.pop() || lastOf(draft.points) || lastOf(draft.boxes); // earlier visits leave no order
  if (undo) undo(draft);
});
$("clear-hints").onclick = () => {
  forgetCorrections();
  change((draft) => Object.assign(draft, { points: [], boxes: [], seeds: {}, margin: null, kept_mask: null }));
};
$("margin").oninput = () => {
  $("margin-shown").textContent = `${Math.round(100 * $("margin").value)} %`;
  change((draft) => { draft.margin = Number($("margin").value); draft.kept_mask = null; }, SETTLE_MS);
};
$("ask-plan").onclick = async () => {
  if (!settling || (await settle())) await tryTo(() => send("POST", "/api/plan"));
};
$("retry-mask").onclick = () => tryTo(() => send("POST", "/api/retry-mask"));
$("steps").addEventListener("input", (event) => {
  if (event.target.dataset.setting) change((draft) => { draft.settings = readSettings(state.fields, draft.settings); }, SETTLE_MS);
});
$("start").onclick = async () => {
  $("start").disabled = true;
  if (settling && !(await settle())) return;
  const answer = await tryTo(() => send("POST", "/api/runs"));
  if (answer) runs.open(answer.run);
};
referencePlayer.onFrame = (frame) => {
  $("reference-frame").href = `/media/frame/${state.draft.clip}/${frame}`;
  $("reference-frame").download = `frame-${frame}.png`;
  $("reference-index").textContent = frame;
};

// ---- drawing --------------------------------------------------------------------------------------------------------

function draw(next) {
  if (settling) next.draft = state.draft; // the page has changes that the server does not have yet
  state = next;
  const { draft } = state;
  hints.draft = draft;
  for (const section of document.querySelectorAll("[data-needs]")) {
    const ready = section.dataset.needs === "clip" ? draft.clip : draft.clip && state.mask;
    section.classList.toggle("later", !ready);
  }
  $("example").hidden = !state.example;
  drawClip(draft);
  if (draft.clip) {
    drawEdit(draft);
    drawMask(draft);
    drawReferences(draft);
  }
  drawSettings(state.fields, state.models, state.recipes, draft.settings);
  drawPlan(state.plan, state.mask);
  drawStart(draft);
  runs.show(state.runs);
}

function drawClip(draft) {
  $("clip-shown").hidden = !draft.clip;
  if (!draft.clip) return;
  clipPlayer.load(state.whole, { key: draft.whole, clip: draft.whole, url: (k) => `/media/view/${draft.whole}/${k}` });
  const { frames, width, height, fps } = state.clip;
  const [, first, end] = draft.clip.match(/-(\d+)-(\d+)\./) || [null, 0, frames];
  const key = `${draft.clip}`;
  if ($("trim").key !== key) {
    $("trim").key = key;
    $("trim-first").value = first;
    $("trim-last").value = end - 1;
    $("trim-first").max = $("trim-last").max = state.whole.frames - 1;
  }
  const part = draft.clip === draft.whole ? "" : `Frames ${first} to ${end - 1} are used.`;
  say($("trim-note"), [part, ...state.clip.notes].join(" "));
  say($("clip-status"), `${draft.name || "Clip"}: ${frames} frames, ${width}x${height}, ${seconds(frames / fps)}.`);
}

function drawEdit(draft) {
  $("first-frame").href = `/media/frame/${draft.clip}/0`;
  $("first-frame").download = "first-frame.png";
  $("edited-shown").hidden = !draft.edited;
  const source = draft.edited ? `/media/image/${draft.edited}` : "";
  if (draft.edited && !$("edited-shown").src.endsWith(source)) $("edited-shown").src = source;
}

function drawMask(draft) {
  const { mask } = state;
  if (!mask) return;
  const done = mask.state === "done";
  maskPlayer.load(state.clip, {
    key: `${draft.clip} ${done && mask.key}`, clip: draft.clip, url: (k) => `/media/view/${draft.clip}/${k}`,
    over: done ? (k) => `/media/mask/${mask.key}/${k}` : null,
  });
  hints.draw();
  const step = mask.phases.at(-1);
  const share = step && step.total > 1 ? ` (${step.done} of ${step.total} frames)` : "";
  const kept = mask.kept ? " It is the mask of the earlier run, so its LoRA is reused." : "";
  const texts = {
    done: `The mask is ready.${kept}`, failed: mask.error, waiting: "The mask is queued.",
    running: `Making the mask${share}`, stopping: "Stopping", stopped: "Stopped.",
  };
  say($("mask-status"), texts[mask.state], mask.state === "failed");
  $("retry-mask").hidden = mask.state !== "failed";
  if (document.activeElement !== $("margin") && !settling) {
    $("margin").value = draft.margin ?? 0.15;
    $("margin-shown").textContent = `${Math.round(100 * (draft.margin ?? 0.15))} %`;
  }
}

function drawReferences(draft) {
  if (!state.mask) return;
  referencePlayer.load(state.clip, { key: draft.clip, clip: draft.clip, url: (k) => `/media/view/${draft.clip}/${k}` });
  const list = $("reference-list");
  const key = JSON.stringify([draft.clip, draft.references]);
  if (list.key === key) return;
  list.key = key;
  list.replaceChildren(...Object.entries(draft.references).map(([frame, image]) => make("li", {},
    make("img", { className: "thumb", src: `/media/image/${image}`, alt: `Your edit of frame ${frame}` }), `Frame ${frame}`,
    make("button", { type: "button", onclick: () => change((now) => { delete now.references[frame]; }) }, `Remove frame ${frame}`))));
}

function drawStart(draft) {
  const missing = !draft.edited ? "Add the edited first frame first." : state.mask?.state !== "done" ? "The mask is not ready yet." : "";
  $("start").disabled = Boolean(missing) || Boolean(settling);
  const same = state.runs.find((run) => run.finished && run.clip === draft.clip && run.mask === state.mask?.key);
  const reuse = same && "An earlier run has the same clip and mask. Its LoRA is reused if the training settings are the same.";
  say($("start-note"), missing || reuse || "");
}

// ---- polling --------------------------------------------------------------------------------------------------------

const busy = (job) => job && ["waiting", "running", "stopping"].includes(job.state);

async function poll() {
  const turn = newest;
  const idle = state && !busy(state.mask) && !busy(state.plan) && !state.runs.some(busy);
  if (!document.hidden && !settling && !(idle && poll.rest-- > 0)) {
    poll.rest = 10;
    try {
      const next = await getState();
      if (turn === newest && !settling) draw(next);
      if (poll.lost) { poll.lost = false; $("trouble").hidden = true; }
    } catch {
      poll.lost = true;
      say($("trouble"), "The server does not answer. This page continues when the server is back.");
      $("trouble").hidden = false;
    }
  }
  setTimeout(poll, POLL_MS);
}
poll.rest = 0;
poll();
