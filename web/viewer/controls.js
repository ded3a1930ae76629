// SPDX-License-Identifier: Apache-2.0
// Mouse, touch and flight keys to changes of the view.

import { lookedAround, moved, orbited, zoomed } from "./views.js";
import { focalLengths } from "./renderer.js";

const TURN_PER_PIXEL = 0.005; // radians
const ZOOM_PER_PIXEL = 0.0012; // of the wheel, in the exponent
const PIXELS_PER_LINE = 16;
const FLIGHT = 0.6; // distances to the target per second
const FAST = 4;
const ROLL_PER_SECOND = 0.8; // radians
const DIRECTIONS = {
  KeyW: [0, 0, 1],
  KeyS: [0, 0, -1],
  KeyA: [-1, 0, 0],
  KeyD: [1, 0, 0],
  KeyE: [0, -1, 0],
  KeyQ: [0, 1, 0],
};
const TURNS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Controls {
  // `stage`: {view, up, changeView(view)} of the page.
  constructor(element, stage) {
    this.element = element;
    this.stage = stage;
    this.pointers = new Map();
    this.held = new Set();
    element.addEventListener("pointerdown", (event) => this.press(event));
    element.addEventListener("pointermove", (event) => this.drag(event));
    for (const kind of ["pointerup", "pointercancel"]) {
      element.addEventListener(kind, (event) => this.pointers.delete(event.pointerId));
    }
    element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    element.addEventListener("contextmenu", (event) => event.preventDefault());
    window.addEventListener("keydown", (event) => this.keyDown(event));
    window.addEventListener("keyup", (event) => this.held.delete(event.code));
    window.addEventListener("blur", () => this.held.clear());
  }

  press(event) {
    this.element.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, button: event.button });
  }

  drag(event) {
    const pointer = this.pointers.get(event.pointerId);
    if (!pointer) return;
    const before = [...this.pointers.values()].map(({ x, y }) => ({ x, y }));
    const [dx, dy] = [event.clientX - pointer.x, event.clientY - pointer.y];
    Object.assign(pointer, { x: event.clientX, y: event.clientY });
    if (this.pointers.size === 1) this.dragOne(pointer, dx, dy, event);
    else if (this.pointers.size === 2) this.dragTwo(before, [...this.pointers.values()]);
  }

  dragOne({ button }, dx, dy, event) {
    const { view, up } = this.stage;
    const angles = [dx * TURN_PER_PIXEL, -dy * TURN_PER_PIXEL];
    if (button === 1 || button === 2 || event.shiftKey) this.pan(dx, dy);
    else if (event.ctrlKey || event.metaKey) this.stage.changeView(lookedAround(view, up, angles[0], -angles[1]));
    else this.stage.changeView(orbited(view, up, -angles[0], angles[1]));
  }

  dragTwo(before, after) {
    const middle = ([a, b]) => [(a.x + b.x) / 2, (a.y + b.y) / 2];
    const gap = ([a, b]) => Math.max(1, Math.hypot(a.x - b.x, a.y - b.y));
    const [from, to] = [middle(before), middle(after)];
    this.pan(to[0] - from[0], to[1] - from[1]);
    this.stage.changeView(zoomed(this.stage.view, gap(before) / gap(after)));
  }

  // So that the target stays under the pointer.
  pan(dx, dy) {
    const { view } = this.stage;
    const [fx, fy] = focalLengths(view.lens, this.element.clientWidth, this.element.clientHeight);
    this.stage.changeView(moved(view, (-dx * view.distance) / fx, (-dy * view.distance) / fy, 0));
  }

  wheel(event) {
    event.preventDefault();
    const pixels = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? event.deltaY * PIXELS_PER_LINE : event.deltaY;
    this.stage.changeView(zoomed(this.stage.view, Math.exp(pixels * ZOOM_PER_PIXEL)));
  }

  keyDown(event) {
    const isTyping = event.target.closest?.("input, select, textarea, button");
    if (event.ctrlKey || event.metaKey || event.altKey || (isTyping && event.code in TURNS)) return;
    if (event.code in DIRECTIONS || event.code in TURNS) {
      this.held.add(event.code);
      this.stage.requestFrame();
      if (event.code in TURNS) event.preventDefault();
    }
    this.isFast = event.shiftKey;
  }

  // Whether a key or a pointer may change the next frame.
  get isActive() {
    return this.held.size > 0 || this.pointers.size > 0;
  }

  // The flight of the last `seconds`.
  advance(seconds) {
    let { view } = this.stage;
    const step = seconds * FLIGHT * view.distance * (this.isFast ? FAST : 1);
    for (const code of this.held) {
      const turn = TURNS[code];
      if (turn) view = orbited(view, this.stage.up, turn[0] * ROLL_PER_SECOND * seconds, turn[1] * ROLL_PER_SECOND * seconds);
      else view = moved(view, ...DIRECTIONS[code].map((direction) => direction * step));
    }
    if (this.held.size) this.stage.changeView(view);
  }
}
