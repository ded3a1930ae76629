// SPDX-License-Identifier: Apache-2.0
// The training cameras to jump to, and their photographs beside or over the picture.

import { element, fillSelect, makeChoice } from "./panel.js";
import { focalLengths } from "./renderer.js";

const MODES = ["off", "beside", "over"];

export class Photographs {
  // `choose(camera)` is called with the camera that was jumped to.
  constructor(choose) {
    this.choose = choose;
    this.cameras = [];
    this.index = -1;
    this.mode = "off";
    this.press = makeChoice(element("photo-modes"), "photo", (mode) => this.setMode(mode));
    element("previous").addEventListener("click", () => this.step(-1));
    element("next").addEventListener("click", () => this.step(1));
    element("camera").addEventListener("change", ({ target }) => this.jump(Number(target.value) - 1));
    element("fade").addEventListener("input", () => this.place());
    for (const image of [element("photo-over"), element("photo-beside").querySelector("img")]) {
      image.addEventListener("error", () => this.forget());
    }
  }

  setCameras(cameras) {
    this.cameras = cameras;
    this.index = -1;
    element("cameras").hidden = cameras.length === 0;
    fillSelect(element("camera"), ["free view", ...cameras.map(({ name }) => name)], 0);
    this.setMode(this.mode);
  }

  get camera() {
    return this.cameras[this.index] ?? null;
  }

  step(by) {
    const count = this.cameras.length;
    if (count) this.jump(this.index < 0 ? (by > 0 ? 0 : count - 1) : (this.index + by + count) % count);
  }

  jump(index) {
    this.index = index;
    element("camera").value = String(index + 1);
    if (this.camera) this.choose(this.camera);
    this.setMode(this.mode);
  }

  // The view was moved away from the camera.
  leave() {
    if (this.index >= 0) this.jump(-1);
  }

  nextMode() {
    if (this.cameras.length) this.setMode(MODES[(MODES.indexOf(this.mode) + 1) % MODES.length]);
  }

  setMode(mode) {
    this.mode = mode;
    this.press(mode);
    const address = this.camera?.photograph ?? null;
    const [over, beside] = [element("photo-over"), element("photo-beside")];
    over.hidden = mode !== "over" || !address;
    beside.hidden = mode !== "beside" || !this.camera;
    element("fade").hidden = mode !== "over";
    const image = beside.querySelector("img");
    image.hidden = !address;
    beside.querySelector("p").textContent = address ? this.camera.name : `${this.camera?.name}: no photograph was found`;
    for (const [picture, isShown] of [
      [over, !over.hidden],
      [image, !beside.hidden],
    ]) {
      if (isShown && address && picture.getAttribute("src") !== address) picture.src = address;
    }
    this.place();
  }

  forget() {
    if (this.camera?.photograph) this.camera.photograph = null;
    this.setMode(this.mode);
  }

  // Puts the photograph where the camera's picture lies on the canvas.
  place() {
    const over = element("photo-over");
    over.style.opacity = String(element("fade").value / 100);
    if (!this.camera) return;
    const { width, height, fx } = this.camera;
    const factor = focalLengths(this.camera, window.innerWidth, window.innerHeight)[0] / fx;
    over.style.width = `${width * factor}px`;
    over.style.height = `${height * factor}px`;
    over.style.left = `${(window.innerWidth - width * factor) / 2}px`;
    over.style.top = `${(window.innerHeight - height * factor) / 2}px`;
  }
}
