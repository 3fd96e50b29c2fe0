// A player of single pictures: it can stop at every frame, overlay a mask, and compare two clips.

import { make } from "./dom.js";

const PRELOADED = 400;

export class Player {
  // `clip` is {frames, width, height, fps}; `pictures` has url(frame), and optionally over(frame) or compare(frame).
  constructor(root, name) {
    this.root = root;
    this.name = name;
    this.frame = 0;
    this.onFrame = () => {};
    this.base = make("img", { className: "base", alt: "", draggable: false });
    this.over = make("img", { className: "over blank", alt: "", draggable: false });
    this.ink = make("canvas", { className: "idle" });
    this.split = make("span", { className: "split", hidden: true });
    this.pictures = make("div", { className: "pictures" }, this.base, this.over, this.split, this.ink);
    this.button = make("button", { type: "button" }, "Play");
    this.slider = make("input", { type: "range", min: 0, value: 0, step: 1 });
    this.slider.setAttribute("aria-label", `${name}: frame`);
    this.label = make("output");
    this.wipe = make("input", { type: "range", min: 0, max: 100, value: 50, step: 1, className: "wipe" });
    this.wipe.setAttribute("aria-label", `${name}: share of the source`);
    this.wipeRow = make("label", { className: "controls", hidden: true }, "before", this.wipe, "after");
    const controls = make("div", { className: "controls" }, this.button, this.slider, this.label);
    root.replaceChildren(make("div", { className: "stage" }, this.pictures), controls, this.wipeRow);
    this.button.onclick = () => (this.timer ? this.pause() : this.play());
    this.slider.oninput = () => { this.pause(); this.show(Number(this.slider.value)); };
    this.wipe.oninput = () => this.placeWipe();
    this.over.onload = () => this.over.classList.remove("blank");
    this.over.onerror = () => this.over.classList.add("blank");
  }

  load(clip, pictures) {
    const key = JSON.stringify([clip, pictures.key]);
    if (key === this.key) return;
    const sameClip = this.clipKey === JSON.stringify(clip) && this.clipName === pictures.clip;
    this.key = key;
    this.clipKey = JSON.stringify(clip);
    this.clipName = pictures.clip;
    this.clip = clip;
    this.urls = pictures;
    this.pause();
    this.slider.max = clip.frames - 1;
    this.pictures.style.width = `min(100%, ${(48 * clip.width) / clip.height}vh, 640px)`;
    this.ink.width = clip.width;
    this.ink.height = clip.height;
    this.base.width = clip.width;
    this.base.height = clip.height;
    this.wipeRow.hidden = this.split.hidden = !pictures.compare;
    this.show(sameClip ? Math.min(this.frame, clip.frames - 1) : 0);
    this.preload();
  }

  preload() {
    const count = Math.min(this.clip.frames, PRELOADED);
    const kinds = [this.urls.url, this.urls.over, this.urls.compare].filter(Boolean);
    this.loaded = Array.from({ length: count }, (_, frame) => kinds.map((url) => make("img", { src: url(frame) })));
  }

  show(frame) {
    this.frame = frame;
    this.base.src = this.urls.url(frame);
    this.base.alt = `${this.name}, frame ${frame}`;
    const over = this.urls.over || this.urls.compare;
    this.over.classList.toggle("blank", !over);
    if (over) this.over.src = over(frame);
    this.placeWipe();
    this.slider.value = frame;
    this.slider.setAttribute("aria-valuetext", `frame ${frame} of ${this.clip.frames - 1}`);
    this.label.textContent = `frame ${frame} / ${this.clip.frames - 1}`;
    this.onFrame(frame);
  }

  placeWipe() {
    this.split.style.left = `${this.wipe.value}%`;
    this.over.style.clipPath = this.urls?.compare ? `inset(0 0 0 ${this.wipe.value}%)` : "none";
  }

  play() {
    this.button.textContent = "Pause";
    this.timer = setInterval(() => this.show((this.frame + 1) % this.clip.frames), 1000 / Math.min(this.clip.fps, 30));
  }

  pause() {
    this.button.textContent = "Play";
    clearInterval(this.timer);
    this.timer = null;
  }
}
