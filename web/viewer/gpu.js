// SPDX-License-Identifier: Apache-2.0
// Programs and textures of WebGL 2.

export function makeProgram(gl, vertex, fragment) {
  const program = gl.createProgram();
  for (const [kind, source] of [
    [gl.VERTEX_SHADER, vertex],
    [gl.FRAGMENT_SHADER, fragment],
  ]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
    gl.deleteShader(shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
    const logs = gl.getAttachedShaders(program).map((shader) => gl.getShaderInfoLog(shader));
    throw new Error(`the graphics driver refused a shader: ${[gl.getProgramInfoLog(program), ...logs].join(" ")}`);
  }
  const uniforms = {};
  for (let i = 0; i < gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS); i += 1) {
    const { name } = gl.getActiveUniform(program, i);
    uniforms[name] = gl.getUniformLocation(program, name);
  }
  return { program, uniforms };
}

// An empty texture of one level; `layers` makes an array of it.
export function makeTexture(gl, format, width, height, { layers = 0, filter = gl.NEAREST } = {}) {
  const target = layers ? gl.TEXTURE_2D_ARRAY : gl.TEXTURE_2D;
  const texture = gl.createTexture();
  gl.bindTexture(target, texture);
  if (layers) gl.texStorage3D(target, 1, format, width, height, layers);
  else gl.texStorage2D(target, 1, format, width, height);
  gl.texParameteri(target, gl.TEXTURE_MIN_FILTER, filter);
  gl.texParameteri(target, gl.TEXTURE_MAG_FILTER, filter);
  gl.texParameteri(target, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
  gl.texParameteri(target, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
  return texture;
}

export function makeTarget(gl, textures) {
  const target = gl.createFramebuffer();
  gl.bindFramebuffer(gl.FRAMEBUFFER, target);
  textures.forEach((texture, i) =>
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0 + i, gl.TEXTURE_2D, texture, 0),
  );
  gl.drawBuffers(textures.map((_, i) => gl.COLOR_ATTACHMENT0 + i));
  return target;
}

export function bindTexture(gl, unit, location, texture, target = gl.TEXTURE_2D) {
  gl.activeTexture(gl.TEXTURE0 + unit);
  gl.bindTexture(target, texture);
  gl.uniform1i(location, unit);
}

// The triangles of quads with the vertices 4 q .. 4 q + 3, as an index buffer in a vertex array.
export function makeQuads(gl, count) {
  const array = gl.createVertexArray();
  gl.bindVertexArray(array);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  const corners = Array.from({ length: count }, (_, q) => [0, 1, 2, 2, 1, 3].map((corner) => 4 * q + corner));
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, new Uint16Array(corners.flat()), gl.STATIC_DRAW);
  gl.bindVertexArray(null);
  return array;
}
