// SPDX-License-Identifier: Apache-2.0
// The canvas: which models are drawn, from where, how, and when.

import { Controls } from "./controls.js";
import { clamp } from "./maths.js";
import { MODES, Renderer } from "./renderer.js";
import { startView } from "./views.js";

const DEFAULT_UP = [0, -1, 0]; // of COLMAP's cameras, whose y points down
const MOST_PIXELS_PER_POINT = 2;
const REST_MILLISECONDS = 250; // without movement, until the picture is drawn at full resolution
const SLOW_MILLISECONDS = 60;
const FAST_MILLISECONDS = 24;
const LEAST_RESOLUTION = 0.25;
const LONGEST_STEP = 0.1; // seconds of flight per frame

export class Stage {
  // `onFrame(figures)` is called after each drawn frame.
  constructor(canvas, onFrame) {
    this.canvas = canvas;
    this.onFrame = onFrame;
    this.renderer = new Renderer(canvas);
    this.models = []; // one or two ShownModels, left and right
    this.up = DEFAULT_UP;
    this.view = startView();
    this.look = { mode: "single", split: 0.5, gain: 8, background: [0, 0, 0] };
    this.movingResolution = 1;
    this.lastMove = -Infinity;
    this.lastFrame = null;
    this.frameMilliseconds = null;
    this.isScheduled = false;
    this.isDirty = true;
    this.controls = new Controls(canvas, this);
    new ResizeObserver(() => this.redraw()).observe(canvas);
    canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      this.onLost?.();
    });
  }

  get gl() {
    return this.renderer.gl;
  }

  // A movement by the user.
  changeView(view) {
    this.lastMove = performance.now();
    this.onMove?.();
    this.setView(view);
  }

  setView(view) {
    this.view = view;
    this.redraw();
  }

  setLook(changes) {
    Object.assign(this.look, changes);
    this.redraw();
  }

  show(models) {
    this.models = models;
    this.redraw();
  }

  redraw() {
    this.isDirty = true;
    document.documentElement.dataset.settled = "false";
    this.requestFrame();
  }

  requestFrame() {
    if (this.isScheduled) return;
    this.isScheduled = true;
    requestAnimationFrame((time) => this.frame(time));
  }

  frame(time) {
    this.isScheduled = false;
    this.measure(time);
    this.fitCanvas();
    const visible = this.models.filter((model) => model.hasPicture);
    for (const { cloud } of visible) cloud.sort(this.view);
    const isMoving = performance.now() - this.lastMove < REST_MILLISECONDS;
    const resolution = isMoving ? this.movingResolution : 1;
    const isDrawn = this.isDirty || resolution !== this.drawnResolution;
    if (isDrawn) this.draw(visible, resolution);
    const goesOn = isMoving || this.controls.isActive;
    this.lastFrame = goesOn ? { time, isDrawn } : null;
    if (goesOn) this.requestFrame();
    else this.settle(visible);
  }

  draw(visible, resolution) {
    this.isDirty = false;
    this.drawnResolution = resolution;
    // One model alone is drawn in every mode: the other one has not arrived.
    const clouds = visible.map(({ cloud }) => cloud).slice(0, this.look.mode === "single" ? 1 : 2);
    const look = { ...this.look, mode: MODES[this.look.mode], resolution };
    const drawn = this.renderer.draw(clouds, this.view, look);
    this.onFrame({ ...drawn, framesPerSecond: this.frameMilliseconds && 1000 / this.frameMilliseconds });
  }

  // Between two frames in motion: their distance in time decides on the resolution of the next ones.
  measure(time) {
    if (this.lastFrame === null) return;
    const milliseconds = time - this.lastFrame.time;
    this.controls.advance(Math.min(milliseconds / 1000, LONGEST_STEP));
    if (!this.lastFrame.isDrawn) return;
    this.frameMilliseconds = 0.8 * (this.frameMilliseconds ?? milliseconds) + 0.2 * milliseconds;
    if (milliseconds > SLOW_MILLISECONDS) this.movingResolution *= Math.max(0.5, Math.sqrt(SLOW_MILLISECONDS / milliseconds));
    else if (milliseconds < FAST_MILLISECONDS) this.movingResolution *= 1.1;
    this.movingResolution = clamp(this.movingResolution, LEAST_RESOLUTION, 1);
  }

  settle(visible) {
    const isSettled = visible.every(({ cloud }) => cloud.isSettled) && this.models.every((model) => model.isComplete);
    document.documentElement.dataset.settled = String(isSettled && !this.isDirty);
  }

  fitCanvas() {
    const { canvas } = this;
    const ratio = Math.min(window.devicePixelRatio || 1, MOST_PIXELS_PER_POINT);
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (canvas.width === width && canvas.height === height) return;
    Object.assign(canvas, { width: Math.max(1, width), height: Math.max(1, height) });
    this.isDirty = true;
  }
}
