// Painting on a frame at its full size; unpainted pixels stay the same.

import { $, make } from "./dom.js";
import { line } from "./hints.js";

export class Paint {
  constructor() {
    this.canvas = $("paint-canvas");
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.canvas.onpointerdown = (event) => this.down(event);
    this.canvas.onpointermove = (event) => this.last && this.to(this.place(event));
    this.canvas.onpointerup = () => { this.last = null; };
    this.canvas.onkeydown = (event) => this.key(event);
    this.canvas.onblur = () => { $("paint-cross").hidden = true; };
    $("paint-undo").onclick = () => this.undo();
    $("paint-cancel").onclick = () => $("paint-dialog").close();
    $("paint-save").onclick = () => this.canvas.toBlob((blob) => { $("paint-dialog").close(); this.onSave(blob); });
  }

  // Opens the dialog; `under` is the source frame, `url` the picture to paint on.
  async open(under, url, onSave) {
    this.onSave = onSave;
    this.under = make("img", { src: under });
    const picture = make("img", { src: url });
    await Promise.all([this.under.decode(), picture.decode()]);
    this.canvas.width = this.under.naturalWidth;
    this.canvas.height = this.under.naturalHeight;
    this.context.drawImage(picture, 0, 0, this.canvas.width, this.canvas.height);
    this.before = [];
    this.cross = [this.canvas.width >> 1, this.canvas.height >> 1];
    $("paint-size").max = Math.max(20, Math.round(this.canvas.width / 4));
    $("paint-size").value = Math.max(4, Math.round(this.canvas.width / 24));
    $("paint-dialog").showModal();
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      Math.floor(((event.clientX - box.left) / box.width) * this.canvas.width),
      Math.floor(((event.clientY - box.top) / box.height) * this.canvas.height),
    ];
  }

  tool() {
    return document.querySelector("input[name='paint-tool']:checked").value;
  }

  down(event) {
    const here = this.place(event);
    if (this.tool() === "pick") {
      const pixel = this.context.getImageData(here[0], here[1], 1, 1).data;
      $("paint-colour").value = "#" + [...pixel.slice(0, 3)].map((part) => part.toString(16).padStart(2, "0")).join("");
      document.querySelector("input[name='paint-tool'][value='brush']").checked = true;
      return;
    }
    this.canvas.setPointerCapture(event.pointerId);
    this.keep();
    this.last = here;
    this.to(here);
  }

  to(here) {
    const width = Number($("paint-size").value);
    if (this.tool() === "restore") {
      this.context.save();
      this.context.beginPath();
      this.context.arc(here[0], here[1], width / 2, 0, 7);
      this.context.clip();
      this.context.drawImage(this.under, 0, 0);
      this.context.restore();
    } else line(this.context, this.last, here, width, $("paint-colour").value);
    this.last = here;
  }

  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const far = Math.max(1, Number($("paint-size").value) / 2);
    if (event.key in steps) {
      const [before, ends] = [this.cross, [this.canvas.width - 1, this.canvas.height - 1]];
      this.cross = before.map((value, axis) => Math.min(ends[axis], Math.max(0, value + steps[event.key][axis] * far)));
      if (event.shiftKey) {
        this.keep();
        this.last = before;
        this.to(this.cross);
        this.last = null;
      }
    } else if (event.key === "Enter" || event.key === " ") {
      this.keep();
      this.last = this.cross;
      this.to(this.cross);
      this.last = null;
    } else return;
    event.preventDefault();
    this.showCross();
  }

  // Shows the brush of the keyboard as an element over the canvas, so that it is not painted into the picture.
  showCross() {
    const { canvas, cross } = this;
    const { style } = $("paint-cross");
    style.left = `${canvas.offsetLeft + ((cross[0] + 0.5) / canvas.width) * canvas.offsetWidth}px`;
    style.top = `${canvas.offsetTop + ((cross[1] + 0.5) / canvas.height) * canvas.offsetHeight}px`;
    $("paint-cross").hidden = false;
  }

  keep() {
    this.before.push(this.context.getImageData(0, 0, this.canvas.width, this.canvas.height));
    if (this.before.length > 20) this.before.shift();
  }

  undo() {
    const picture = this.before.pop();
    if (picture) this.context.putImageData(picture, 0, 0);
  }
}
