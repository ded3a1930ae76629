// SPDX-License-Identifier: Apache-2.0
// Reads binary little-endian PLY files of Gaussians, part by part while they arrive.
//
// Properties may have any order and be floats or doubles. Other PLYs (text, big-endian, compressed) raise UnreadablePly:
// view.py converts them.

const LONGEST_HEADER = 1 << 20;
const ROWS_PER_PART = 1 << 16;
const MOST_GAUSSIANS = 1 << 27;
const BYTES = { float: 4, float32: 4, double: 8, float64: 8, char: 1, uchar: 1, int8: 1, uint8: 1, short: 2, ushort: 2,
  int16: 2, uint16: 2, int: 4, uint: 4, int32: 4, uint32: 4 }; // prettier-ignore
const DEGREES = new Map([
  [0, 0],
  [9, 1],
  [24, 2],
  [45, 3],
]);
const GROUPS = {
  xyz: ["x", "y", "z"],
  featuresDc: ["f_dc_0", "f_dc_1", "f_dc_2"],
  opacity: ["opacity"],
  scaling: ["scale_0", "scale_1", "scale_2"],
  rotation: ["rot_0", "rot_1", "rot_2", "rot_3"],
};

// A PLY that is damaged.
export class PlyError extends Error {}

// A PLY that this module cannot read, although it may be correct.
export class UnreadablePly extends PlyError {}

export const isPly = (bytes) => bytes.length > 3 && bytes[0] === 0x70 && bytes[1] === 0x6c && bytes[2] === 0x79 &&
  (bytes[3] === 10 || bytes[3] === 13); // prettier-ignore

// Yields Models as those of f3dgs.js, with `total`, the number of Gaussians in the file.
export async function* readPly(stream) {
  const source = new Source(stream.getReader());
  const header = await readHeader(source);
  const layout = layoutOf(header);
  let origin = null;
  for (let first = 0; first === 0 || first < header.count; first += ROWS_PER_PART) {
    const rows = Math.min(ROWS_PER_PART, header.count - first);
    const bytes = await source.take(rows * layout.stride);
    if (bytes === null) throw new PlyError(`the file ends before its ${header.count} Gaussians do`);
    origin ??= originOf(bytes, layout, rows);
    yield modelOf(bytes, layout, rows, header, origin);
  }
  await source.skip();
}

// Bytes of a stream in pieces of the wanted lengths.
class Source {
  constructor(reader) {
    this.reader = reader;
    this.chunks = [];
    this.length = 0;
  }

  async more() {
    const { done, value } = await this.reader.read();
    if (done) return false;
    this.chunks.push(value);
    this.length += value.length;
    return true;
  }

  // The first `wanted` bytes, all that there are (null: `more` decides), as one array.
  joined() {
    const all = new Uint8Array(this.length);
    let at = 0;
    for (const chunk of this.chunks) {
      all.set(chunk, at);
      at += chunk.length;
    }
    this.chunks = [all];
    return all;
  }

  async take(wanted) {
    while (this.length < wanted) if (!(await this.more())) return null;
    const all = this.joined();
    this.chunks = [all.subarray(wanted)];
    this.length -= wanted;
    return all.subarray(0, wanted);
  }

  // Reads on to the end: what follows the Gaussians is not needed.
  async skip() {
    for (this.chunks = []; await this.more(); ) this.chunks = [];
  }
}

async function readHeader(source) {
  for (;;) {
    const text = new TextDecoder("latin1").decode(source.joined().subarray(0, LONGEST_HEADER));
    const end = /(^|\n|\r)end_header(\r\n|\n|\r(?=[^\n]))/.exec(text);
    if (end) {
      await source.take(end.index + end[0].length);
      return parseHeader(text.slice(0, end.index));
    }
    if (source.length >= LONGEST_HEADER || !(await source.more())) throw new PlyError("the header has no end");
  }
}

function parseHeader(text) {
  const header = { count: null, properties: [], antialiasing: false };
  let inVertex = false;
  for (const line of text.split(/\r\n|\n|\r/)) {
    const [word, ...rest] = line.trim().split(/\s+/);
    if (word === "format" && rest[0] !== "binary_little_endian") throw new UnreadablePly(`a PLY in the format ${rest[0]}`);
    if (word === "comment") readComment(rest.join(" "), header);
    if (word === "element") {
      if (header.count === null && rest[0] !== "vertex") throw new UnreadablePly(`a PLY that begins with ${rest[0]}`);
      inVertex = header.count === null;
      if (inVertex) header.count = Number(rest[1]);
    }
    if (word === "property" && inVertex) header.properties.push({ type: rest[0], name: rest[1] });
  }
  if (!Number.isInteger(header.count) || header.count < 0 || header.count > MOST_GAUSSIANS) {
    throw new PlyError("the header has no valid number of Gaussians");
  }
  return header;
}

// Comments of Brush and Postshot, as in splat_formats/ply.py; the last one counts.
function readComment(comment, header) {
  const found = /(?:SplatRenderMode:\s*(\w+)|antialiased:?\s+(\w+))$/i.exec(comment);
  if (found) header.antialiasing = ["mip", "1", "true"].includes((found[1] ?? found[2]).toLowerCase());
}

function layoutOf({ properties }) {
  const places = new Map();
  let stride = 0;
  for (const { type, name } of properties) {
    if (!(type in BYTES)) throw new UnreadablePly(`a PLY with a property of the type ${type}`);
    places.set(name, { at: stride, type });
    stride += BYTES[type];
  }
  const rest = [...places.keys()].filter((name) => name.startsWith("f_rest_")).length;
  const degree = DEGREES.get(rest);
  if (degree === undefined) throw new UnreadablePly(`a PLY with ${rest} f_rest properties`);
  if (places.has("filter_3D")) throw new UnreadablePly("a PLY of Mip-Splatting");
  const inFile = rest / 3;
  const names = { ...GROUPS, featuresRest: [] };
  for (let k = 0; k < inFile; k += 1) {
    for (let channel = 0; channel < 3; channel += 1) names.featuresRest.push(`f_rest_${channel * inFile + k}`);
  }
  const groups = Object.entries(names).map(([group, list]) => [group, list.map((name) => placeOf(places, name))]);
  return { stride, degree, groups: Object.fromEntries(groups) };
}

function placeOf(places, name) {
  const place = places.get(name);
  if (place === undefined) throw new UnreadablePly(`a PLY without the property ${name}`);
  const isFloat = ["float", "float32", "double", "float64"].includes(place.type);
  if (!isFloat) throw new UnreadablePly(`a PLY whose property ${name} is of the type ${place.type}`);
  return { at: place.at, isDouble: BYTES[place.type] === 8 };
}

const valueAt = (view, at, isDouble) => (isDouble ? view.getFloat64(at, true) : view.getFloat32(at, true));

// Positions in doubles may be too far from 0 for single precision: they are stored relative to the first Gaussian.
function originOf(bytes, { groups }, rows) {
  if (rows === 0 || !groups.xyz.some(({ isDouble }) => isDouble)) return [0, 0, 0];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const first = groups.xyz.map(({ at, isDouble }) => Math.round(valueAt(view, at, isDouble)));
  return first.every(Number.isFinite) ? first : [0, 0, 0];
}

function modelOf(bytes, { stride, degree, groups }, rows, header, origin) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const metadata = { origin, antialiasing: header.antialiasing };
  const model = { count: rows, total: header.count, shDegree: degree, metadata };
  for (const [group, places] of Object.entries(groups)) {
    const width = places.length;
    const values = new Float32Array(rows * width);
    for (let c = 0; c < width; c += 1) {
      const { at, isDouble } = places[c];
      const shift = group === "xyz" ? origin[c] : 0;
      for (let row = 0; row < rows; row += 1) values[row * width + c] = valueAt(view, row * stride + at, isDouble) - shift;
    }
    model[group] = values;
  }
  return model;
}
