// SPDX-License-Identifier: Apache-2.0
// The viewer's page: loads the session, and connects models, cameras and controls.

import { Comparison } from "./comparison.js";
import { firstView } from "./framing.js";
import { add, isVector, unit } from "./maths.js";
import { ShownModel } from "./model.js";
import { element, fillSelect, showFault, showMessage } from "./panel.js";
import { Photographs } from "./photographs.js";
import { readSession } from "./session.js";
import { Stage } from "./stage.js";
import { focusOf, upOf, viewOfCamera } from "./views.js";

class Page {
  constructor(session) {
    this.session = session;
    this.stage = new Stage(element("canvas"), (figures) => this.showFigures(figures));
    this.stage.onMove = () => {
      this.hasMoved = true;
      this.photographs.leave();
    };
    this.stage.onLost = () => showMessage("The graphics card was reset: reload the page.");
    this.photographs = new Photographs((camera) => this.stage.setView(viewOfCamera(camera, this.middle)));
    this.comparison = new Comparison(this.stage, (left, right) => this.choose(left, right));
    this.shown = [null, null]; // ShownModels, left and right
    this.listen();
    fillSelect(element("scene"), session.scenes.map(({ name }) => name), 0); // prettier-ignore
    element("scene-choice").hidden = session.scenes.length < 2;
    this.openScene(session.scenes[0]);
  }

  openScene(scene) {
    this.scene = scene;
    this.entries = [...scene.models];
    this.framed = null;
    const focus = focusOf(scene.cameras);
    this.middle = focus?.middle ?? [0, 0, 0];
    this.stage.up = upOf(scene.cameras) ?? this.stage.up;
    this.stage.setLook({ background: scene.background ?? [0, 0, 0] });
    this.photographs.setCameras(scene.cameras);
    if (scene.cameras.length) this.frame();
    element("title").hidden = this.session.scenes.length > 1; // the choice of the scene has the name
    element("title").textContent = scene.name || "Fast-3DGS";
    document.title = scene.name ? `${scene.name} - Fast-3DGS` : "Fast-3DGS";
    element("empty").hidden = this.entries.length > 0;
    const right = this.entries.length > 1 ? 1 : -1;
    this.stage.look.mode = right > 0 ? "slider" : "single";
    this.comparison.setEntries(this.names, this.entries.length ? 0 : -1, right);
    this.choose(this.entries.length ? 0 : -1, right);
  }

  get names() {
    return this.entries.map(({ name }) => name);
  }

  // The first view: that of the first camera, or one of the whole model.
  frame() {
    const [camera] = this.scene.cameras;
    const model = this.shown.find((one) => one?.samples);
    if (camera) this.photographs.jump(0);
    else if (model) {
      const view = firstView(model.samples, this.stage.up);
      if (view) this.stage.setView({ ...view, position: add(view.position, model.cloud.origin) });
    }
    this.hasMoved = false;
  }

  // Shows these entries; those that are shown already stay.
  choose(left, right) {
    const wanted = [left, right].map((index) => this.entries[index] ?? null);
    const before = this.shown.filter(Boolean);
    const kept = (entry) => before.find((model) => model.entry === entry);
    const made = new Map();
    this.shown = wanted.map((entry) => {
      if (!entry) return null;
      const model = kept(entry) ?? made.get(entry) ?? this.start(entry);
      made.set(entry, model);
      return model;
    });
    for (const model of before) if (!this.shown.includes(model)) model.remove();
    this.update();
  }

  makeModel(entry) {
    return new ShownModel(this.stage.gl, entry, {
      onProgress: () => this.comparison.label(this.shown),
      onChange: () => this.update(),
      onSorted: () => this.stage.redraw(),
    });
  }

  start(entry) {
    const model = this.makeModel(entry);
    model
      .load()
      .catch((error) => this.shown.includes(model) && showFault(entry.name, error))
      .finally(() => this.update());
    return model;
  }

  update() {
    const model = this.shown.find((one) => one?.samples);
    if (model && this.framed !== model) {
      this.framed = model;
      this.useMetadata(model.metadata);
      if (!this.scene.cameras.length) this.frame();
    } else if (model && this.useMetadata(model.metadata) && !this.hasMoved) this.frame();
    this.stage.show(this.shown.filter(Boolean));
    this.showFigures(this.figures ?? {});
  }

  // Up axis and background from the file, where the session holds none: they may come last. Whether the axis is new.
  useMetadata({ up, white_background: isWhite }) {
    if (!this.scene.background && isWhite === true) this.stage.setLook({ background: [1, 1, 1] });
    if (this.scene.cameras.length || !isVector(up)) return false;
    const isNew = unit(up).some((x, c) => Math.abs(x - this.stage.up[c]) > 1e-6);
    this.stage.up = unit(up);
    return isNew;
  }

  showFigures(figures) {
    this.figures = figures;
    this.comparison.label(this.shown);
    const { width, height, framesPerSecond: rate } = figures;
    const parts = width ? [`${width} × ${height} pixels`] : [];
    if (rate) parts.push(`${rate.toFixed(rate < 10 ? 1 : 0)} frames/s`);
    element("status").textContent = parts.join(" · ");
  }

  // Files from the user: shown in place of the model on that side, once they are known to be correct.
  async open(file, side) {
    showMessage(null);
    try {
      await this.replace({ name: file.name, bytes: file.size, source: { file } }, side);
    } catch (error) {
      if (!error.isUnknown || !this.session.convert) {
        showFault(file.name, error);
        return;
      }
      await this.convert(file, side).catch((problem) => showFault(file.name, problem));
    }
  }

  async convert(file, side) {
    const headers = { "Content-Type": "application/octet-stream", "X-File-Name": encodeURIComponent(file.name) };
    const answer = await fetch(this.session.convert, { method: "POST", body: file, headers });
    if (!answer.ok) throw new Error(await answer.text());
    const source = { bytes: await answer.arrayBuffer() };
    await this.replace({ name: file.name, bytes: file.size, source }, side);
  }

  // Loads an entry into one side; the model that is there stays until the new one is complete.
  async replace(entry, side) {
    const model = this.makeModel(entry);
    try {
      await model.load();
    } catch (error) {
      model.remove();
      throw error;
    }
    this.adopt(model, side);
  }

  adopt(model, side) {
    const before = this.shown[side];
    this.entries.push(model.entry);
    this.shown[side] = model;
    if (before && !this.shown.includes(before)) before.remove();
    element("empty").hidden = true;
    const indices = this.shown.map((one) => (one ? this.entries.indexOf(one.entry) : -1));
    this.comparison.setEntries(this.names, indices[0], indices[1]);
    this.update();
  }

  // The side of the window that a file is dropped on, while two models are compared.
  sideAt(x) {
    const isCompared = this.stage.look.mode !== "single";
    return isCompared && x >= this.stage.look.split * window.innerWidth ? 1 : 0;
  }

  listen() {
    element("scene").addEventListener("change", ({ target }) => this.openScene(this.session.scenes[target.value]));
    element("message").querySelector("button").addEventListener("click", () => showMessage(null));
    element("open").addEventListener("click", () => element("file").click());
    element("help-button").addEventListener("click", () => element("help").showModal());
    element("file").addEventListener("change", ({ target }) => {
      if (target.files[0]) this.open(target.files[0], this.sideAt(0));
      target.value = "";
    });
    window.addEventListener("resize", () => this.photographs.place());
    window.addEventListener("keydown", (event) => this.key(event));
    this.listenToDrops();
  }

  listenToDrops() {
    const hint = element("drop");
    window.addEventListener("dragover", (event) => {
      event.preventDefault();
      hint.hidden = false;
    });
    window.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) hint.hidden = true;
    });
    window.addEventListener("drop", async (event) => {
      event.preventDefault();
      hint.hidden = true;
      const files = [...event.dataTransfer.files].slice(0, 2);
      const first = this.sideAt(event.clientX);
      for (const [i, file] of files.entries()) await this.open(file, files.length === 2 ? i : first);
    });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("select, dialog")) return;
    const actions = {
      1: () => this.comparison.setMode("single"),
      2: () => this.comparison.setMode("slider"),
      3: () => this.comparison.setMode("difference"),
      x: () => this.comparison.exchange(),
      ",": () => this.photographs.step(-1),
      ".": () => this.photographs.step(1),
      f: () => this.photographs.nextMode(),
      r: () => this.frame(),
      h: () => document.body.classList.toggle("bare"),
      o: () => element("file").click(),
      "?": () => element("help").showModal(),
    };
    actions[event.key.toLowerCase()]?.();
  }
}

readSession()
  .then((session) => {
    globalThis.viewer = new Page(session); // for the browser's console and for tests
  })
  .catch((error) => showMessage(error.message));
