// SPDX-License-Identifier: Apache-2.0
// Draws one or two clouds onto the canvas.

import { bindTexture, makeProgram, makeQuads, makeTarget, makeTexture } from "./gpu.js";
import { COMPOSE, PROJECT, QUADS_PER_INSTANCE, SPLAT_FRAGMENT, SPLAT_VERTEX, WHOLE_TARGET } from "./shaders.js";

export const MODES = { single: 0, slider: 1, difference: 2 };

export class Renderer {
  constructor(canvas) {
    const options = { antialias: false, depth: false, stencil: false, alpha: false, powerPreference: "high-performance" };
    const gl = canvas.getContext("webgl2", options);
    if (!gl) throw new Error("this browser offers no WebGL 2, which drawing needs");
    this.gl = gl;
    this.canvas = canvas;
    // Blending in 8 bits would add up rounding errors of many layers.
    const hasHalf = gl.getExtension("EXT_color_buffer_float") || gl.getExtension("EXT_color_buffer_half_float");
    this.pictureFormat = hasHalf ? gl.RGBA16F : gl.RGBA8;
    this.projecting = makeProgram(gl, WHOLE_TARGET, PROJECT);
    this.drawing = makeProgram(gl, SPLAT_VERTEX, SPLAT_FRAGMENT);
    this.composing = makeProgram(gl, WHOLE_TARGET, COMPOSE);
    this.quads = makeQuads(gl, QUADS_PER_INSTANCE);
    this.pictures = [];
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 4);
  }

  // Textures to draw into, of the wanted size.
  sizePictures(width, height) {
    const { gl } = this;
    if (this.pictures.length && this.pictures[0].width === width && this.pictures[0].height === height) return;
    for (const { texture, target } of this.pictures) {
      gl.deleteTexture(texture);
      gl.deleteFramebuffer(target);
    }
    this.pictures = [0, 1].map(() => {
      const texture = makeTexture(gl, this.pictureFormat, width, height, { filter: gl.LINEAR });
      return { texture, target: makeTarget(gl, [texture]), width, height };
    });
  }

  // `clouds`: one or two. `look`: {mode, split, gain, background, resolution: pixels drawn per canvas pixel}.
  draw(clouds, view, look) {
    const { gl, canvas } = this;
    const width = Math.max(1, Math.round(canvas.width * look.resolution));
    const height = Math.max(1, Math.round(canvas.height * look.resolution));
    this.sizePictures(width, height);
    const frame = { size: [width, height], focal: focalLengths(view.lens, width, height) };
    const split = Math.round(look.split * width);
    clouds.forEach((cloud, i) => {
      const isCut = look.mode === MODES.slider && clouds.length === 2;
      const [from, to] = isCut ? [[0, split], [split, width]][i] : [0, width]; // prettier-ignore
      if (cloud.filled) cloud.project(this.projecting, view, frame);
      this.drawPicture(cloud, this.pictures[i], frame, look.background, from, to);
    });
    this.compose(clouds.length === 2 ? look : { ...look, mode: MODES.single });
    return { width, height };
  }

  // The columns from..to of one cloud's picture.
  drawPicture(cloud, { target, width, height }, frame, background, from, to) {
    const { gl } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, target);
    gl.viewport(0, 0, width, height);
    gl.enable(gl.SCISSOR_TEST);
    gl.scissor(from, 0, Math.max(0, to - from), height);
    gl.clearColor(...background, 1);
    gl.clear(gl.COLOR_BUFFER_BIT);
    if (cloud.count && to > from) cloud.draw(this.drawing, this.quads, frame);
    gl.disable(gl.SCISSOR_TEST);
  }

  compose({ mode, split, gain }) {
    const { gl, canvas } = this;
    const { program, uniforms } = this.composing;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.useProgram(program);
    bindTexture(gl, 0, uniforms.left, this.pictures[0].texture);
    bindTexture(gl, 1, uniforms.right, this.pictures[1].texture);
    gl.uniform1i(uniforms.mode, mode);
    gl.uniform1f(uniforms.split, split);
    gl.uniform1f(uniforms.gain, gain);
    gl.uniform2f(uniforms.canvas, canvas.width, canvas.height);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }
}

// Focal lengths in pixels, so that the lens' whole picture fits into width x height.
export function focalLengths(lens, width, height) {
  const factor = Math.min(width / lens.width, height / lens.height);
  return [lens.fx * factor, lens.fy * factor];
}
