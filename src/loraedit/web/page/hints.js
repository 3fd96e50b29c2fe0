// Corrections of the mask on a player: points, boxes and brush strokes, by mouse or keyboard.

import { make } from "./dom.js";

const COLOURS = { on: "#19b34a", off: "#e02c2c", box: "#2c7be0", brush: "rgba(44, 123, 224, 0.6)", cross: "#ffffff" };
const HELP = "Arrow keys move the cross. Enter sets a point, a corner of a box, or a dot of the brush.";

export class Hints {
  // `act` has addPoint(frame, x, y, on), addBox(frame, x0, y0, x1, y1) and addSeed(frame, blob).
  constructor(player, act) {
    this.player = player;
    this.act = act;
    this.tool = "view";
    this.painted = new Map();
    this.draft = { points: [], boxes: [], seeds: {} };
    const ink = player.ink;
    ink.setAttribute("role", "application");
    ink.setAttribute("aria-label", `The frame with its mask. ${HELP}`);
    ink.onpointerdown = (event) => this.down(event);
    ink.onpointermove = (event) => this.move(event);
    ink.onpointerup = (event) => this.up(event);
    ink.onkeydown = (event) => this.key(event);
    ink.onfocus = ink.onblur = () => this.draw();
    player.onFrame = () => { this.start = null; this.draw(); };
  }

  choose(tool) {
    this.tool = tool;
    this.start = null;
    const ink = this.player.ink;
    ink.className = tool === "view" ? "idle" : "busy";
    if (tool === "view") ink.removeAttribute("tabindex");
    else ink.tabIndex = 0;
    this.draw();
  }

  place(event) {
    const box = this.player.ink.getBoundingClientRect();
    const { width, height } = this.player.clip;
    const inside = (value, end) => Math.min(end - 1, Math.max(0, Math.floor(value)));
    return [
      inside(((event.clientX - box.left) / box.width) * width, width),
      inside(((event.clientY - box.top) / box.height) * height, height),
    ];
  }

  async down(event) {
    if (event.button) return;
    this.player.pause();
    this.player.ink.setPointerCapture(event.pointerId);
    this.start = this.place(event);
    if (this.tool === "brush") await this.stroke(this.start, this.start);
  }

  async move(event) {
    if (!this.start) return;
    const here = this.place(event);
    if (this.tool === "brush") {
      const before = this.start;
      this.start = here;
      await this.stroke(before, here);
    } else if (this.tool === "box") this.draw(here);
  }

  up(event) {
    if (!this.start) return;
    this.finish(this.place(event));
  }

  finish(here) {
    const { frame } = this.player;
    const start = this.start;
    this.start = null;
    if (this.tool === "on" || this.tool === "off") this.act.addPoint(frame, here[0], here[1], this.tool === "on");
    if (this.tool === "box") {
      const [x0, x1] = [start[0], here[0]].sort((a, b) => a - b);
      const [y0, y1] = [start[1], here[1]].sort((a, b) => a - b);
      if (x1 - x0 > 1 && y1 - y0 > 1) this.act.addBox(frame, x0, y0, x1 + 1, y1 + 1);
    }
    if (this.tool === "brush") this.painted.get(frame)?.toBlob((blob) => this.act.addSeed(frame, blob));
    this.draw();
  }

  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const { width, height } = this.player.clip;
    this.cross ??= [Math.floor(width / 2), Math.floor(height / 2)];
    if (event.key in steps) {
      const far = event.shiftKey ? 1 : Math.max(2, Math.round(width / 60));
      const [dx, dy] = steps[event.key];
      this.cross = [
        Math.min(width - 1, Math.max(0, this.cross[0] + dx * far)),
        Math.min(height - 1, Math.max(0, this.cross[1] + dy * far)),
      ];
    } else if (event.key === "Enter" || event.key === " ") {
      if (this.tool === "box" && !this.start) this.start = this.cross;
      else if (this.tool === "brush") this.stroke(this.cross, this.cross).then(() => this.finish(this.cross));
      else this.finish(this.cross);
    } else return;
    event.preventDefault();
    this.draw(this.cross);
  }

  // Paints a white line on the mask of this frame, which starts with what was painted before.
  async stroke(from, to) {
    const { frame, clip } = this.player;
    if (!this.painted.has(frame)) {
      const canvas = make("canvas", { width: clip.width, height: clip.height });
      this.painted.set(frame, canvas);
      const context = canvas.getContext("2d");
      context.fillRect(0, 0, clip.width, clip.height);
      if (this.draft.seeds[frame]) {
        const before = make("img", { src: `/media/image/${this.draft.seeds[frame]}` });
        await before.decode();
        context.drawImage(before, 0, 0);
      }
    }
    line(this.painted.get(frame).getContext("2d"), from, to, this.brushWidth(), "#ffffff");
    line(this.player.ink.getContext("2d"), from, to, this.brushWidth(), COLOURS.brush);
  }

  brushWidth() {
    return Math.max(3, Math.round(Math.min(this.player.clip.width, this.player.clip.height) / 14));
  }

  forget() {
    this.painted.clear();
  }

  draw(here = null) {
    const { ink, frame, clip } = this.player;
    if (!clip) return;
    const context = ink.getContext("2d");
    context.clearRect(0, 0, ink.width, ink.height);
    const size = Math.max(2, Math.min(clip.width, clip.height) / 60);
    for (const [at, x, y, on] of this.draft.points) {
      if (at !== frame) continue;
      context.beginPath();
      context.arc(x + 0.5, y + 0.5, size, 0, 7);
      context.fillStyle = on ? COLOURS.on : COLOURS.off;
      context.fill();
      context.lineWidth = size / 3;
      context.strokeStyle = "#ffffff";
      context.stroke();
    }
    context.lineWidth = size / 2;
    context.strokeStyle = COLOURS.box;
    for (const [at, x0, y0, x1, y1] of this.draft.boxes) {
      if (at === frame) context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    }
    if (here && this.start && this.tool === "box") {
      context.strokeRect(this.start[0], this.start[1], here[0] - this.start[0], here[1] - this.start[1]);
    }
    if (this.cross && document.activeElement === ink) {
      context.strokeStyle = COLOURS.cross;
      context.lineWidth = Math.max(1, size / 4);
      context.strokeRect(this.cross[0] - size, this.cross[1] - size, 2 * size, 2 * size);
    }
  }
}

export function line(context, from, to, width, colour) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.lineCap = "round";
  context.beginPath();
  context.moveTo(from[0] + 0.5, from[1] + 0.5);
  context.lineTo(to[0] + 0.5, to[1] + 0.5);
  context.stroke();
}
