// SPDX-License-Identifier: Apache-2.0
// Which models are compared and how: the choice of both, the modes, the slider, the gain of the difference.

import { describe, element, fillSelect, makeChoice } from "./panel.js";

const NO_SECOND = "none";
const SLIDER_STEP = 0.02;

export class Comparison {
  // `choose(left, right)`: indices of the entries that were chosen, right -1 for none.
  constructor(stage, choose) {
    this.stage = stage;
    this.choose = choose;
    this.press = makeChoice(element("modes"), "mode", (mode) => this.setMode(mode));
    for (const side of ["left", "right"]) element(side).addEventListener("change", () => this.changed());
    element("gain").addEventListener("input", () => this.setGain());
    this.listenToSlider();
    this.setGain();
  }

  // Fills both choices and selects entries.
  setEntries(names, left, right) {
    fillSelect(element("left"), names, left);
    fillSelect(element("right"), [NO_SECOND, ...names], right + 1);
    element("left").disabled = names.length === 0;
    element("right-choice").hidden = names.length < 2;
    this.setMode(right < 0 ? "single" : this.stage.look.mode);
  }

  get chosen() {
    return [Number(element("left").value || -1), Number(element("right").value || 0) - 1];
  }

  changed() {
    const [left, right] = this.chosen;
    this.choose(left, right);
    if (right < 0) this.setMode("single");
    else if (this.stage.look.mode === "single") this.setMode("slider");
    else this.setMode(this.stage.look.mode);
  }

  exchange() {
    const [left, right] = this.chosen;
    if (right < 0) return;
    element("left").value = String(right);
    element("right").value = String(left + 1);
    this.changed();
  }

  setMode(mode) {
    const hasTwo = this.chosen[1] >= 0;
    const allowed = hasTwo ? mode : "single";
    for (const button of element("modes").children) button.disabled = !hasTwo && button.dataset.mode !== "single";
    this.stage.setLook({ mode: allowed });
    this.press(allowed);
    element("slider").hidden = allowed !== "slider";
    element("gain-choice").hidden = allowed !== "difference";
    this.setSplit(this.stage.look.split);
  }

  // Names, Gaussians and bytes of the ShownModels (or null), left and right.
  label(shown) {
    ["left", "right"].forEach((side, i) => {
      const label = element(`${side}-label`);
      label.hidden = !shown[i] || (i === 1 && this.stage.look.mode === "single");
      label.textContent = shown[i] ? describe(shown[i]) : "";
    });
  }

  setSplit(split) {
    const value = Math.min(1, Math.max(0, split));
    this.stage.setLook({ split: value });
    element("slider").style.left = `${100 * value}%`;
    element("slider").setAttribute("aria-valuenow", String(Math.round(100 * value)));
  }

  setGain() {
    const gain = 2 ** Number(element("gain").value);
    this.stage.setLook({ gain });
    element("gain-value").textContent = `× ${gain}`;
  }

  listenToSlider() {
    const slider = element("slider");
    slider.addEventListener("pointerdown", (event) => slider.setPointerCapture(event.pointerId));
    slider.addEventListener("pointermove", (event) => {
      if (slider.hasPointerCapture(event.pointerId)) this.setSplit(event.clientX / window.innerWidth);
    });
    slider.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -SLIDER_STEP, ArrowRight: SLIDER_STEP }[event.code];
      if (!by) return;
      this.setSplit(this.stage.look.split + by);
      event.preventDefault();
      event.stopPropagation();
    });
  }
}
