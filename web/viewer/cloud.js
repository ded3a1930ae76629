// SPDX-License-Identifier: Apache-2.0
// One model on the graphics card, and the worker that sorts it.

import { bindTexture, makeTarget, makeTexture } from "./gpu.js";
import { dot, subtract } from "./maths.js";
import { harmonicLayers } from "./pack.js";
import { QUADS_PER_INSTANCE, ROW_LENGTH } from "./shaders.js";
import { startWorker } from "./workers.js";

// The same view of two clouds is sorted anew only where it changed by more than this (relative to the depths' unit vector).
const SAME_VIEW = 1e-9;

export class SplatCloud {
  // `onSorted` is called whenever a new order is ready to be drawn.
  constructor(gl, total, shDegree, onSorted) {
    const rows = Math.max(1, Math.ceil(total / ROW_LENGTH));
    if (rows > gl.getParameter(gl.MAX_TEXTURE_SIZE)) {
      throw new Error(`${total.toLocaleString("en")} Gaussians are more than this graphics card holds`);
    }
    Object.assign(this, { gl, total, shDegree, onSorted, filled: 0, count: 0 });
    this.origin = [0, 0, 0];
    this.antialiasing = false;
    this.positions = makeTexture(gl, gl.RGBA32F, ROW_LENGTH, rows);
    this.scales = makeTexture(gl, gl.RGB32F, ROW_LENGTH, rows);
    this.rotations = makeTexture(gl, gl.RGBA32F, ROW_LENGTH, rows);
    this.layers = harmonicLayers(shDegree);
    this.harmonics = makeTexture(gl, gl.RGBA32UI, ROW_LENGTH, rows, { layers: this.layers });
    this.ellipses = makeTexture(gl, gl.RGBA32UI, ROW_LENGTH, rows);
    this.paints = makeTexture(gl, gl.RGBA32UI, ROW_LENGTH, rows);
    this.projected = makeTarget(gl, [this.ellipses, this.paints]);
    this.order = makeTexture(gl, gl.R32UI, ROW_LENGTH, rows);
    this.startSorting(total, rows);
  }

  startSorting(total, rows) {
    this.worker = startWorker("sort_worker");
    this.worker.postMessage({ total });
    this.spare = new ArrayBuffer(4 * rows * ROW_LENGTH);
    this.wanted = { number: 0, filled: 0, forward: [0, 0, 0], offset: 0 };
    this.sorted = 0;
    this.isSorting = false;
    this.worker.onmessage = ({ data }) => {
      const { gl } = this;
      gl.bindTexture(gl.TEXTURE_2D, this.order);
      const used = Math.ceil(data.count / ROW_LENGTH);
      gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, ROW_LENGTH, used, gl.RED_INTEGER, gl.UNSIGNED_INT, data.order);
      this.count = data.count;
      this.sorted = data.number;
      this.spare = data.order.buffer;
      this.isSorting = false;
      this.onSorted();
    };
  }

  // Adds the next Gaussians (pack.js).
  append(parts) {
    const { gl } = this;
    if (this.filled + parts.count > this.total) throw new Error("the file holds more Gaussians than it declares");
    this.upload(this.positions, gl.RGBA, gl.FLOAT, 4, parts.positions, parts.count);
    this.upload(this.scales, gl.RGB, gl.FLOAT, 3, parts.scales, parts.count);
    this.upload(this.rotations, gl.RGBA, gl.FLOAT, 4, parts.rotations, parts.count);
    parts.harmonics.forEach((texels, layer) =>
      this.upload(this.harmonics, gl.RGBA_INTEGER, gl.UNSIGNED_INT, 4, texels, parts.count, layer),
    );
    this.worker.postMessage({ positions: parts.centres }, [parts.centres.buffer]);
    this.filled += parts.count;
  }

  // Writes texels from number `this.filled` on: the end of a row, whole rows, the beginning of a row.
  upload(texture, format, type, width, texels, count, layer = -1) {
    const { gl } = this;
    const target = layer < 0 ? gl.TEXTURE_2D : gl.TEXTURE_2D_ARRAY;
    gl.bindTexture(target, texture);
    for (let done = 0; done < count; ) {
      const at = this.filled + done;
      const x = at % ROW_LENGTH;
      const y = Math.floor(at / ROW_LENGTH);
      const left = count - done;
      const columns = Math.min(ROW_LENGTH - x, left);
      const rows = x === 0 && left >= ROW_LENGTH ? Math.floor(left / ROW_LENGTH) : 1;
      const part = texels.subarray(width * done, width * (done + columns * rows));
      if (layer < 0) gl.texSubImage2D(target, 0, x, y, columns, rows, format, type, part);
      else gl.texSubImage3D(target, 0, x, y, layer, columns, rows, 1, format, type, part);
      done += columns * rows;
    }
  }

  // The camera's centre relative to the cloud's origin.
  eye(view) {
    return subtract(view.position, this.origin);
  }

  // Requests the order of this view, unless it is the one that was requested last.
  sort(view) {
    if (this.isSorting) return;
    const [, , forward] = view.axes;
    const offset = -dot(forward, this.eye(view));
    const { wanted } = this;
    const moved = forward.some((x, c) => Math.abs(x - wanted.forward[c]) > SAME_VIEW) || offset !== wanted.offset;
    if (!moved && wanted.filled === this.filled) return;
    this.wanted = { number: wanted.number + 1, filled: this.filled, forward, offset };
    this.isSorting = true;
    this.worker.postMessage({ forward, offset, number: this.wanted.number, buffer: this.spare }, [this.spare]);
  }

  // Whether the order drawn is the right one for the view that was sorted last, and no Gaussian is missing in it.
  get isSettled() {
    return !this.isSorting && this.sorted === this.wanted.number && this.wanted.filled === this.filled;
  }

  // Computes the ellipses and colours in a view. `frame`: size and focal lengths, pixels.
  project({ program, uniforms }, view, frame) {
    const { gl } = this;
    gl.useProgram(program);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.projected);
    gl.viewport(0, 0, ROW_LENGTH, Math.max(1, Math.ceil(this.filled / ROW_LENGTH)));
    gl.disable(gl.BLEND);
    bindTexture(gl, 0, uniforms.positions, this.positions);
    bindTexture(gl, 1, uniforms.scales, this.scales);
    bindTexture(gl, 2, uniforms.rotations, this.rotations);
    bindTexture(gl, 3, uniforms.harmonics, this.harmonics, gl.TEXTURE_2D_ARRAY);
    const [right, down, forward] = view.axes;
    const columns = [0, 1, 2].flatMap((c) => [right[c], down[c], forward[c]]);
    gl.uniformMatrix3fv(uniforms.view, false, columns);
    gl.uniform3fv(uniforms.eye, this.eye(view));
    gl.uniform2fv(uniforms.focal, frame.focal);
    gl.uniform2fv(uniforms.size, frame.size);
    gl.uniform1i(uniforms.degree, this.shDegree);
    gl.uniform1i(uniforms.antialiasing, this.antialiasing ? 1 : 0);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  // Blends the quads, far to near, into the bound target. `quads`: vertices of one instance (gpu.js).
  draw({ program, uniforms }, quads, frame) {
    const { gl } = this;
    gl.useProgram(program);
    bindTexture(gl, 0, uniforms.order, this.order);
    bindTexture(gl, 1, uniforms.ellipses, this.ellipses);
    bindTexture(gl, 2, uniforms.paints, this.paints);
    gl.uniform1i(uniforms.count, this.count);
    gl.uniform2fv(uniforms.size, frame.size);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.bindVertexArray(quads);
    const instances = Math.ceil(this.count / QUADS_PER_INSTANCE);
    gl.drawElementsInstanced(gl.TRIANGLES, 6 * QUADS_PER_INSTANCE, gl.UNSIGNED_SHORT, 0, instances);
    gl.bindVertexArray(null);
    gl.disable(gl.BLEND);
  }

  remove() {
    const { gl } = this;
    this.worker.terminate();
    gl.deleteFramebuffer(this.projected);
    const { positions, scales, rotations, harmonics, ellipses, paints, order } = this;
    for (const texture of [positions, scales, rotations, harmonics, ellipses, paints, order]) gl.deleteTexture(texture);
  }
}
