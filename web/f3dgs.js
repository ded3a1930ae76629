// SPDX-License-Identifier: Apache-2.0
/**
 * Decoder of .f3dgs files, versions 1 to 3, in one module without dependencies: for web pages,
 * workers and Node.js 18 or later. It follows docs/format.md; docs/web.md shows how to use it.
 *
 * All numbers of the decoded model are the same bits that the Python decoder gives.
 */

const MAGIC = [0x89, 0x46, 0x33, 0x44, 0x47, 0x53, 0x0d, 0x0a, 0x1a, 0x0a];
const HEAD_BYTES = 14;
const ENTRY_BYTES = 20;
const CRC_BYTES = 4;
const MAX_SECTIONS = 80;
const MAX_LAYERS = 16;
const BLOCKS_VERSION = 3;
const MAX_COUNT = 2 ** 27;
const MAX_VALUE = 2 ** 127;
const MAX_METADATA_BYTES = 2 ** 20;
const MAX_METADATA_DEPTH = 100;

/** The parts of a file that are before its sections. */
const NOT_SECTIONS = ["header", "section table"];

/** A file that is damaged or not of this format. The message is one sentence. */
export class F3dgsError extends Error {
  /**
   * @param {string} section the part of the file: a section's name, `header` or `section table`
   * @param {string} reason what was expected there, and what was found
   */
  constructor(section, reason) {
    const place = NOT_SECTIONS.includes(section) ? section : `section ${section}`;
    super(`corrupt file: ${place}: ${reason}`);
    this.name = "F3dgsError";
    this.section = section;
    this.reason = reason;
  }
}

/**
 * A decoded model of N Gaussians; C = 3 ((shDegree + 1)^2 - 1). In file order.
 *
 * @typedef {object} Model
 * @property {number} version 1, 2 or 3
 * @property {number} count N
 * @property {number} shDegree 0 to 3
 * @property {number[]} layerEnds Gaussians of the layers 0 to k together, for each layer k that is
 *   read; of version 1 empty
 * @property {Record<string, any>} metadata the section `meta`; an empty object where it is missing
 * @property {Record<string, number>} sectionBytes bytes of each section of the whole file, and
 *   `container` for the header and the table
 * @property {Float32Array} xyz (3 N) centres, world units; `metadata.origin` is not added
 * @property {Float32Array} opacity (N) logits
 * @property {Float32Array} scaling (3 N) natural logarithms of the standard deviations
 * @property {Float32Array} rotation (4 N) quaternions w, x, y, z of any length
 * @property {Float32Array} featuresDc (3 N) SH coefficients of degree 0: R, G, B
 * @property {Float32Array} featuresRest (C N) higher SH coefficients, row by row, in a row
 *   coefficient by coefficient, R, G, B of each together
 */

/**
 * Whether a file begins with the format's magic number.
 *
 * @param {ArrayBuffer | Uint8Array} bytes at least the first ten bytes
 * @returns {boolean}
 */
export function isF3dgs(bytes) {
  const head = bytesOf(bytes);
  return head.length >= MAGIC.length && MAGIC.every((byte, i) => head[i] === byte);
}

/**
 * Decodes a whole file, or the first layers of one.
 *
 * @param {ArrayBuffer | Uint8Array} data the file's bytes; those after the layers may be missing
 * @param {{layers?: number}} [options] layers: how many importance layers of version 2 are read
 * @returns {Model}
 * @throws {F3dgsError} for a file that breaks a rule of docs/format.md
 */
export function decode(data, { layers = Infinity } = {}) {
  checkLayersOption(layers);
  const bytes = bytesOf(data);
  if (readHead(bytes).version === BLOCKS_VERSION) return decodeBlocks(bytes, layers);
  const container = unpackContainer(bytes, layers < MAX_LAYERS);
  const decoder = decoderOf(container, bytes.length);
  const models = Math.min(layers, decoder.layers);
  const columns = new Columns(decoder.channels);
  for (let layer = 0; layer < models; layer++) decoder.readLayer(layer, columns);
  decoder.finish(models);
  return modelOf(container, decoder, models, columns);
}

/**
 * Decodes a file while it arrives: of version 2 one model for each layer, with that layer's
 * Gaussians only, as soon as its sections have come; of version 1 one model at the end; of version 3
 * one for each block, with `total`, the number of Gaussians in the file. The last model comes when
 * the file was read to its end and found valid. Where later layers of version 2 are not read, the
 * stream is cancelled after the last layer that is.
 *
 * The models have two more properties: `layer` (from 0) and `layers`, the number of models that the
 * generator yields if the file is valid. Their `layerEnds` are those of all models together, and
 * `metadata` is empty until the section has come.
 *
 * @param {ReadableStream<Uint8Array> | AsyncIterable<Uint8Array>} stream the file's bytes
 * @param {{layers?: number, signal?: AbortSignal}} [options] layers: see `decode`; signal: ends the
 *   decoding with its reason
 * @returns {AsyncGenerator<Model & {layer: number, layers: number}>}
 * @throws {F3dgsError} for a file that breaks a rule of docs/format.md, or ends early
 */
export async function* decodeStream(stream, { layers = Infinity, signal } = {}) {
  checkLayersOption(layers);
  const source = new ByteSource(stream, signal);
  try {
    const container = await readTable(source);
    if (container.version === BLOCKS_VERSION) {
      yield* streamBlocks(container, source, layers);
      return;
    }
    let decoder = null;
    let models = 0;
    let next = 0; // the layer to decode next
    for (const entry of container.entries) {
      container.add(entry, await source.take(entry.length));
      if (decoder === null && container.hasGrids()) {
        decoder = decoderOf(container, container.fileBytes);
        models = Math.min(layers, decoder.layers);
      }
      // The last layer of the file waits for the end: only then is the file known to be valid.
      const early = Math.min(models, (decoder?.layers ?? 0) - 1);
      while (next < early && container.hasLayer(next)) {
        yield layerModel(container, decoder, models, next++);
      }
      if (decoder !== null && next === models) return;
    }
    await source.requireEnd();
    decoder ??= decoderOf(container, container.fileBytes);
    models = Math.min(layers, decoder.layers);
    while (next < models) yield layerModel(container, decoder, models, next++);
  } finally {
    source.close();
  }
}

/** The model of one layer; after the last one that is read, what is left in the file is checked. */
function layerModel(container, decoder, models, layer) {
  const columns = new Columns(decoder.channels);
  decoder.readLayer(layer, columns);
  if (layer === models - 1 && container.isWhole()) decoder.finish(models);
  return { ...modelOf(container, decoder, models, columns), layer, layers: models };
}

function modelOf(container, decoder, models, columns) {
  return {
    version: container.version,
    count: columns.count,
    shDegree: decoder.shDegree,
    layerEnds: decoder.layerEnds.slice(0, models),
    metadata: container.metadata(),
    sectionBytes: container.sectionBytes,
    ...columns.arrays,
  };
}

function decoderOf(container, fileBytes) {
  return container.version === 1
    ? new EvenDecoder(container, fileBytes)
    : new GridDecoder(container, fileBytes);
}

function checkLayersOption(layers) {
  if (layers !== Infinity && !(Number.isInteger(layers) && layers >= 1)) {
    throw new RangeError(`layers: a whole number of at least 1 expected, got ${layers}`);
  }
}

/** @returns {Uint8Array} the bytes of an ArrayBuffer, or of the part that a view shows */
function bytesOf(data) {
  if (ArrayBuffer.isView(data)) {
    return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  }
  return new Uint8Array(data);
}

/** Bytes from a stream, as many at a time as are needed. */
class ByteSource {
  #chunks = []; // at most one: the part of the last chunk that is not yet taken
  #read;
  #cancel;
  #signal;
  #aborted; // rejected when the signal is given
  #onAbort;

  constructor(stream, signal) {
    this.#signal = signal;
    this.#aborted = new Promise((_, reject) => {
      this.#onAbort = () => reject(signal.reason);
    });
    this.#aborted.catch(() => {}); // also where nothing waits for bytes at that moment
    signal?.addEventListener("abort", this.#onAbort);
    if (typeof stream.getReader === "function") {
      const reader = stream.getReader();
      this.#read = () => reader.read();
      this.#cancel = () => reader.cancel();
    } else {
      const iterator = stream[Symbol.asyncIterator]();
      this.#read = () => iterator.next();
      this.#cancel = () => iterator.return?.();
    }
  }

  /** The next `length` bytes; fewer where the stream ends before. */
  async take(length) {
    const taken = [];
    let missing = length;
    while (missing > 0) {
      const chunk = this.#chunks.pop() ?? (await this.#next());
      if (chunk === null) break;
      if (chunk.length > missing) this.#chunks.push(chunk.subarray(missing));
      taken.push(chunk.subarray(0, missing));
      missing -= taken.at(-1).length;
    }
    return joined(taken);
  }

  /** F3dgsError if bytes are left over. */
  async requireEnd() {
    for (;;) {
      const chunk = this.#chunks.pop() ?? (await this.#next());
      if (chunk === null) return;
      if (chunk.length) throw leftOver(chunk.length);
    }
  }

  /** Cancels the stream, without waiting for it, because a read may still be pending. */
  close() {
    this.#signal?.removeEventListener("abort", this.#onAbort);
    Promise.resolve(this.#cancel()).catch(() => {}); // a stream that failed cannot be cancelled
  }

  async #next() {
    this.#signal?.throwIfAborted();
    const { done, value } = await Promise.race([this.#read(), this.#aborted]);
    return done ? null : bytesOf(value);
  }
}

/** One array with the bytes of all parts. */
function joined(parts) {
  if (parts.length === 1) return parts[0];
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let end = 0;
  for (const part of parts) {
    whole.set(part, end);
    end += part.length;
  }
  return whole;
}

// ---------------------------------------------------------------------------------- container

/** The section table, and the sections' bytes by name. */
class Container {
  constructor(version, entries, start) {
    this.version = version;
    /** @type {{name: string, length: number, crc: number}[]} in file order */
    this.entries = entries;
    this.fileBytes = entries.reduce((sum, entry) => sum + entry.length, start);
    this.sectionBytes = Object.fromEntries(entries.map(({ name, length }) => [name, length]));
    this.sectionBytes.container = start;
    this.#names = new Set(entries.map(({ name }) => name));
  }

  #names;
  #sections = new Map();
  #added = 0;
  #metadata = null;

  /** Adds the next section; F3dgsError if it is cut short or damaged. */
  add({ name, length, crc }, bytes) {
    if (bytes.length < length) {
      throw new F3dgsError(name, `cut short: ${bytes.length} bytes of ${length}`);
    }
    if (crc32(bytes) !== crc) throw new F3dgsError(name, "checksum does not match");
    this.#added++;
    this.#sections.set(name, bytes);
  }

  /** Whether the file lists the section but `add` has not been called with it. */
  lacks(name) {
    return this.#names.has(name) && !this.#sections.has(name);
  }

  has(name) {
    return this.#sections.has(name);
  }

  /** Removes a section; F3dgsError if it is missing. */
  take(name) {
    const bytes = this.#sections.get(name);
    if (bytes === undefined) throw new F3dgsError(name, "missing");
    this.#sections.delete(name);
    return bytes;
  }

  discard(name) {
    this.#sections.delete(name);
  }

  /** Whether layers of version 2 can be decoded. */
  hasGrids() {
    return this.version === 2 && this.has("model") && this.has("tables");
  }

  /** Whether all sections of a layer that the file lists have come. */
  hasLayer(layer) {
    return ["rans", "bits", "far", "exact"].every((kind) => !this.lacks(kind + layer));
  }

  isWhole() {
    return this.#added === this.entries.length;
  }

  /** The section `meta`; an empty object where it is missing, or has not come yet. */
  metadata() {
    if (this.has("meta")) this.#metadata = readMetadata(this.take("meta"));
    return this.#metadata ?? {};
  }

  /** F3dgsError if the metadata is damaged, or a section is left that nothing has taken. */
  finish() {
    this.metadata();
    for (const name of this.#sections.keys()) throw new F3dgsError(name, "unknown section");
  }
}

/** The sections of a file's bytes; those at the end may be missing if `mayBeCut`. */
function unpackContainer(bytes, mayBeCut) {
  const { count } = readHead(bytes);
  const container = readEntries(bytes.subarray(0, tableBytes(count)));
  let start = tableBytes(count);
  for (const entry of container.entries) {
    if (mayBeCut && entry.length > bytes.length - start) return container;
    container.add(entry, bytes.subarray(start, start + entry.length));
    start += entry.length;
  }
  if (start !== bytes.length) throw leftOver(bytes.length - start);
  return container;
}

async function readTable(source) {
  const head = await source.take(HEAD_BYTES);
  const { count } = readHead(head);
  return readEntries(joined([head, await source.take(tableBytes(count) - HEAD_BYTES)]));
}

/** Bytes of header and table, with the checksum. */
function tableBytes(sections) {
  return HEAD_BYTES + sections * ENTRY_BYTES + CRC_BYTES;
}

function readHead(bytes) {
  if (!isF3dgs(bytes)) {
    throw new F3dgsError("header", "this is not a .f3dgs file (magic number missing)");
  }
  if (bytes.length < HEAD_BYTES) {
    throw new F3dgsError("header", `cut short: ${bytes.length} bytes of ${HEAD_BYTES}`);
  }
  const view = viewOf(bytes);
  const [version, count] = [view.getUint16(10, true), view.getUint16(12, true)];
  if (version < 1 || version > BLOCKS_VERSION) {
    throw new F3dgsError("header", `version ${version}, this program reads 1 to 3`);
  }
  if (count > MAX_SECTIONS) {
    throw new F3dgsError("header", `${count} sections, at most ${MAX_SECTIONS} allowed`);
  }
  return { version, count };
}

/** The container of header and table, still without sections. */
function readEntries(bytes) {
  const { version, count } = readHead(bytes);
  const end = tableBytes(count);
  if (bytes.length < end) {
    throw new F3dgsError("section table", `cut short: ${bytes.length} bytes of ${end}`);
  }
  const view = viewOf(bytes);
  if (view.getUint32(end - CRC_BYTES, true) !== crc32(bytes.subarray(0, end - CRC_BYTES))) {
    throw new F3dgsError("section table", "checksum does not match");
  }
  const entries = [];
  for (let at = HEAD_BYTES; at < end - CRC_BYTES; at += ENTRY_BYTES) {
    const name = sectionName(bytes.subarray(at, at + 8));
    if (entries.some((entry) => entry.name === name)) throw new F3dgsError(name, "listed twice");
    const length = view.getUint32(at + 8, true) + 2 ** 32 * view.getUint32(at + 12, true);
    entries.push({ name, length, crc: view.getUint32(at + 16, true) });
  }
  return new Container(version, entries, end);
}

function sectionName(padded) {
  const name = String.fromCharCode(...padded).replace(/\0+$/, "");
  if (!/^[A-Za-z0-9]+$/.test(name)) {
    const text = JSON.stringify(name);
    throw new F3dgsError("section table", `section name ${text} is not alphanumeric ASCII`);
  }
  return name;
}

function leftOver(count) {
  return new F3dgsError("end", `${count} bytes left over after the last section`);
}

function viewOf(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Takes numbers from a section, one after the other. */
class SectionReader {
  #name;
  #bytes;
  #view;
  #position = 0;

  constructor(name, bytes) {
    this.#name = name;
    this.#bytes = bytes;
    this.#view = viewOf(bytes);
  }

  /** The next `length` bytes. */
  bytes(length) {
    const start = this.#advance(length);
    return this.#bytes.subarray(start, start + length);
  }

  u8 = () => this.#view.getUint8(this.#advance(1));
  u16 = () => this.#view.getUint16(this.#advance(2), true);
  u32 = () => this.#view.getUint32(this.#advance(4), true);
  i16 = () => this.#view.getInt16(this.#advance(2), true);
  i32 = () => this.#view.getInt32(this.#advance(4), true);
  f32 = () => this.#view.getFloat32(this.#advance(4), true);

  hasMore() {
    return this.#position < this.#bytes.length;
  }

  /** F3dgsError if bytes are left over. */
  finish() {
    const left = this.#bytes.length - this.#position;
    if (left) throw new F3dgsError(this.#name, `${left} bytes left over`);
  }

  #advance(length) {
    const start = this.#position;
    if (length > this.#bytes.length - start) {
      throw new F3dgsError(this.#name, `cut short: ${this.#bytes.length} bytes`);
    }
    this.#position += length;
    return start;
  }
}

/** A list of `count` numbers, each from a call of `take`. */
function listOf(count, take) {
  return Array.from({ length: count }, () => take());
}

const IS_LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

/** The numbers, of an array type, in little-endian bytes that may begin anywhere. */
function numbersOf(ArrayType, bytes) {
  const [copy, size] = [new Uint8Array(bytes), ArrayType.BYTES_PER_ELEMENT];
  if (!IS_LITTLE_ENDIAN) {
    for (let at = 0; at < copy.length; at += size) copy.subarray(at, at + size).reverse();
  }
  return new ArrayType(copy.buffer);
}

// ------------------------------------------------------------------------ checksums and inflate

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  return crc;
});

/** The CRC-32 of zlib, gzip and PNG. */
function crc32(bytes, before = 0) {
  let crc = ~before;
  for (let i = 0; i < bytes.length; i++) {
    crc = CRC_TABLE[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  }
  return ~crc >>> 0;
}

/** The checksum at the end of a zlib stream (RFC 1950). */
function adler32(bytes) {
  let [a, b] = [1, 0];
  for (const byte of bytes) {
    a = (a + byte) % 65521;
    b = (b + a) % 65521;
  }
  return ((b << 16) | a) >>> 0;
}

// RFC 1951, section 3.2.5: the least length or distance of each symbol, and its extra bits.
const LENGTH_BITS = Array.from({ length: 28 }, (_, symbol) => Math.max(0, (symbol >> 2) - 1));
const LENGTH_BASE = [...runningSums(3, LENGTH_BITS).slice(0, 28), 258];
LENGTH_BITS.push(0);
const DISTANCE_BITS = Array.from({ length: 30 }, (_, symbol) => Math.max(0, (symbol >> 1) - 1));
const DISTANCE_BASE = runningSums(1, DISTANCE_BITS);
const CODE_LENGTH_ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/** Where each range begins, if range i has 2^bits[i] members and the first begins at `start`. */
function runningSums(start, bits) {
  const sums = [start];
  for (const count of bits) sums.push(sums.at(-1) + 2 ** count);
  return sums;
}

/** The content of a zlib stream of at most `limit` bytes (RFC 1950); F3dgsError otherwise. */
function inflate(bytes, limit, section) {
  const fail = (reason) => new F3dgsError(section, `zlib: ${reason}`);
  const [method, flags] = bytes;
  if (bytes.length < 2) throw fail("ends early");
  const hasDictionary = (flags & 32) !== 0;
  if ((method & 15) !== 8 || method >> 4 > 7 || ((method << 8) | flags) % 31 || hasDictionary) {
    throw fail("no header of a stream without a dictionary");
  }
  const inflater = new Inflater(bytes.subarray(2), limit, fail);
  const content = inflater.content();
  const end = 2 + inflater.bytesRead();
  if (bytes.length !== end + 4) throw fail("ends early, or bytes are left over");
  if (viewOf(bytes).getUint32(end) !== adler32(content)) throw fail("checksum does not match");
  return content;
}

/** Inflates a deflate stream (RFC 1951). */
class Inflater {
  #bytes;
  #next = 0;
  #held = 0; // bits of the bytes before #next that are not yet taken
  #heldBits = 0;
  #content;
  #length = 0;
  #fail;

  constructor(bytes, limit, fail) {
    this.#bytes = bytes;
    this.#content = new Uint8Array(limit);
    this.#fail = fail;
  }

  /** The inflated bytes. */
  content() {
    for (let isLast = 0; !isLast; ) {
      isLast = this.#bits(1);
      const kind = this.#bits(2);
      if (kind === 0) this.#copyStored();
      else if (kind === 1) this.#copyCoded(FIXED_LITERALS, FIXED_DISTANCES);
      else if (kind === 2) this.#copyCoded(...this.#codes());
      else throw this.#fail("unknown kind of block");
    }
    return this.#content.subarray(0, this.#length);
  }

  /** Bytes taken from the stream, the last one perhaps in part. */
  bytesRead() {
    return this.#next;
  }

  #bits(count) {
    while (this.#heldBits < count) {
      if (this.#next >= this.#bytes.length) throw this.#fail("ends early");
      this.#held |= this.#bytes[this.#next++] << this.#heldBits;
      this.#heldBits += 8;
    }
    const taken = this.#held & ((1 << count) - 1);
    this.#held >>>= count;
    this.#heldBits -= count;
    return taken;
  }

  #put(byte) {
    if (this.#length >= this.#content.length) {
      throw this.#fail(`more than ${this.#content.length} bytes`);
    }
    this.#content[this.#length++] = byte;
  }

  #copyStored() {
    this.#held = this.#heldBits = 0; // such a block begins at a byte
    const [length, inverse] = [this.#bits(16), this.#bits(16)];
    if (length !== (~inverse & 0xffff)) throw this.#fail("length of a stored block is damaged");
    for (let i = 0; i < length; i++) this.#put(this.#bits(8));
  }

  #copyCoded(literals, distances) {
    for (;;) {
      const symbol = this.#symbol(literals);
      if (symbol < 256) {
        this.#put(symbol);
        continue;
      }
      if (symbol === 256) return;
      if (symbol > 285) throw this.#fail("unknown length");
      const length = LENGTH_BASE[symbol - 257] + this.#bits(LENGTH_BITS[symbol - 257]);
      const code = this.#symbol(distances);
      if (code > 29) throw this.#fail("unknown distance");
      const distance = DISTANCE_BASE[code] + this.#bits(DISTANCE_BITS[code]);
      if (distance > this.#length) throw this.#fail("distance beyond the first byte");
      for (let i = 0; i < length; i++) this.#put(this.#content[this.#length - distance]);
    }
  }

  /** The two codes of a block of kind 2 (RFC 1951, section 3.2.7). */
  #codes() {
    const [literals, distances] = [this.#bits(5) + 257, this.#bits(5) + 1];
    const count = this.#bits(4) + 4;
    if (literals > 286 || distances > 30) throw this.#fail("too many lengths of codes");
    const ofLengths = new Array(19).fill(0);
    for (let i = 0; i < count; i++) ofLengths[CODE_LENGTH_ORDER[i]] = this.#bits(3);
    const lengths = this.#codeLengths(this.#code(ofLengths, false), literals + distances);
    if (lengths[256] === 0) throw this.#fail("no code for the end of a block");
    return [
      this.#code(lengths.slice(0, literals), true),
      this.#code(lengths.slice(literals), true),
    ];
  }

  #codeLengths(code, count) {
    const lengths = [];
    while (lengths.length < count) {
      const symbol = this.#symbol(code);
      if (symbol < 16) {
        lengths.push(symbol);
        continue;
      }
      if (symbol === 16 && !lengths.length) throw this.#fail("no length to repeat");
      const [repeated, bits, least] = [[lengths.at(-1), 2, 3], [0, 3, 3], [0, 7, 11]][symbol - 16];
      for (let i = this.#bits(bits) + least; i > 0; i--) lengths.push(repeated);
    }
    if (lengths.length > count) throw this.#fail("lengths of codes repeat too often");
    return lengths;
  }

  #code(lengths, mayBeSingle) {
    const code = huffmanCode(lengths);
    const isSingle = code.counts[1] === 1 && code.symbols.length === 1;
    const isAllowed = code.left === 0 || (mayBeSingle && (isSingle || !code.symbols.length));
    if (!isAllowed) throw this.#fail("a code is incomplete or has too many words");
    return code;
  }

  #symbol({ counts, symbols }) {
    let [word, first, index] = [0, 0, 0];
    for (let length = 1; length < counts.length; length++) {
      word |= this.#bits(1);
      if (word - first < counts[length]) return symbols[index + word - first];
      index += counts[length];
      first = (first + counts[length]) << 1;
      word <<= 1;
    }
    throw this.#fail("a word that is in no code");
  }
}

/**
 * A canonical Huffman code (RFC 1951, section 3.2.2) from the length of each symbol's word, 0 for
 * unused symbols: how many words have each length, the symbols in ascending order of their words,
 * and how many words of the greatest length are left.
 */
function huffmanCode(lengths) {
  const counts = new Array(16).fill(0);
  for (const length of lengths) counts[length]++;
  counts[0] = 0;
  let left = 1;
  for (let length = 1; length < 16 && left >= 0; length++) left = 2 * left - counts[length];
  const symbols = [...lengths.keys()].filter((symbol) => lengths[symbol]);
  symbols.sort((a, b) => lengths[a] - lengths[b] || a - b);
  return { counts, symbols, left };
}

const FIXED_LITERALS = huffmanCode(
  Array.from({ length: 288 }, (_, i) => (i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8)),
);
const FIXED_DISTANCES = huffmanCode(new Array(30).fill(5));

// ------------------------------------------------------------------- version 2: model and tables

const CLASSES = 32;
const MAX_SYMBOL = 2 ** 15 - 1;
const MODEL_LIMIT = 2 ** 16;
const TABLES_LIMIT = 2 ** 18;
const IS_SHARED = 1; // the last byte of `model` where Gaussians share SH
const EDGES = 7;
const BINNED = ["opacity", "scale0", "scale1", "scale2", "dc0", "dc1", "dc2", "groups"];

/** F3dgsError where a file of `fileBytes` may not hold `count` Gaussians. */
function checkCount(count, fileBytes) {
  const most = Math.min(MAX_COUNT, 2 ** 20 + 64 * fileBytes);
  if (count > most) {
    throw new F3dgsError("model", `${count} Gaussians, at most ${most} allowed in this file`);
  }
}

/** The section `model` of version 2: the layers, and the grids that give integers their values. */
function readModelSection(bytes, fileBytes) {
  const reader = new SectionReader("model", inflate(bytes, MODEL_LIMIT, "model"));
  const layers = listOf(reader.u8(), () => {
    return { count: reader.u32(), far: reader.u32(), lanes: 2 ** reader.u8() };
  });
  checkLayers(layers, fileBytes);
  const grids = readGrids(reader);
  const isShared = reader.hasMore();
  if (isShared && (reader.u8() !== IS_SHARED || !grids.channels)) {
    const text = "bytes after the grids that do not announce shared SH";
    throw new F3dgsError("model", text);
  }
  reader.finish();
  checkGrids(grids);
  return { layers, grids, isShared };
}

function checkLayers(layers, fileBytes) {
  if (layers.length < 1 || layers.length > MAX_LAYERS) {
    throw new F3dgsError("model", `${layers.length} layers, 1 to ${MAX_LAYERS} allowed`);
  }
  const total = layers.reduce((sum, { count }) => sum + count, 0);
  checkCount(total, fileBytes);
  for (const { count, far, lanes } of layers) {
    if (far > count) {
      const text = `${far} centres outside the cells, but only ${count} Gaussians`;
      throw new F3dgsError("model", text);
    }
    const least = Math.min(2 ** 13, Math.ceil(count / 2 ** 10));
    if (lanes < least || lanes > 2 ** 14) {
      const text = `${lanes} lanes for ${count} rows, ${least} to ${2 ** 14} allowed`;
      throw new F3dgsError("model", text);
    }
  }
}

function readGrids(reader) {
  const { u8, u16, u32, i16, i32, f32 } = reader;
  const rule = (factors) => ({ most: u8(), bias: i32(), factors: listOf(factors, i32) });
  const evenGrid = () => ({ minimum: f32(), step: f32(), levels: u16() });
  const shDegree = u8();
  if (shDegree > 3) throw new F3dgsError("model", `SH degree ${shDegree}, at most 3 allowed`);
  const channels = restChannels(shDegree);
  // The properties are evaluated in this order, which is that of the file.
  const grids = {
    shDegree,
    channels,
    origin: listOf(3, f32),
    cell: f32(),
    bits: u8(),
    coarseBits: u8(),
    positionShift: rule(4),
    opacity: evenGrid(),
    scale: evenGrid(),
  };
  grids.byOpacity = listOf(grids.opacity.levels, i32);
  grids.scaleFactors = listOf(3, i32);
  grids.centre = listOf(3, i32);
  grids.radii = listOf(u8(), u32);
  grids.byShell = listOf(grids.radii.length + 1, i32);
  grids.rotationStep = f32();
  grids.rotationShift = rule(4);
  grids.dcStep = f32();
  grids.dcLow = listOf(3, i32);
  grids.dcMatrix = Float64Array.from(listOf(9, i16));
  grids.dcShift = rule(1);
  grids.shSteps = Float32Array.from(listOf(CLASSES, f32));
  grids.shMatrix = Float64Array.from(listOf(channels ** 2, i16));
  return grids;
}

/** Higher SH coefficients of all three colours. */
function restChannels(shDegree) {
  return 3 * ((shDegree + 1) ** 2 - 1);
}

/** F3dgsError unless every number is within the format's limits. */
function checkGrids(grids) {
  const { opacity, scale, radii } = grids;
  const steps = [grids.cell, opacity.step, scale.step, grids.rotationStep, grids.dcStep];
  steps.push(...grids.shSteps);
  const rules = [grids.positionShift, grids.rotationShift, grids.dcShift];
  const factors = rules.flatMap((rule) => [rule.bias, ...rule.factors]);
  factors.push(...grids.byOpacity, ...grids.scaleFactors, ...grids.byShell);
  const isBelow = (limit) => (number) => Math.abs(number) < limit;
  const limits = {
    number: [...grids.origin, opacity.minimum, scale.minimum, ...steps].every(Number.isFinite),
    step: steps.every((step) => step > 0),
    "rotation step": grids.rotationStep <= 2 ** 32,
    "decoded value": greatestValues(grids).every((value) => value <= MAX_VALUE),
    "position bits": 1 <= grids.coarseBits && grids.coarseBits <= grids.bits && grids.bits <= 21,
    "position shift": grids.positionShift.most <= grids.bits - grids.coarseBits,
    levels: [opacity, scale].every(({ levels }) => levels >= 2 && levels <= 2 ** 12),
    rule: rules.every(({ most }) => most <= 15),
    factor: factors.every(isBelow(2 ** 31)),
    shells: radii.length < 64,
    radii: radii.every((radius, i) => radius < 2 ** 24 && (i === 0 || radii[i - 1] <= radius)),
    centre: grids.centre.every(isBelow(2 ** 24)),
    "DC offset": grids.dcLow.every(isBelow(2 ** 15)),
  };
  for (const [what, holds] of Object.entries(limits)) {
    if (!holds) throw new F3dgsError("model", `grids: ${what} out of range`);
  }
}

/** Bounds of the magnitudes that a file's integers can decode to. */
function greatestValues(grids) {
  const { opacity, scale } = grids;
  const dc = 2 ** (15 + Math.min(grids.dcShift.most, 15)) + Math.max(...grids.dcLow.map(Math.abs));
  return [
    ...grids.origin.map((origin) => Math.abs(origin) + grids.cell * 2 ** grids.bits),
    ...[opacity, scale].map((grid) => Math.abs(grid.minimum) + grid.step * grid.levels),
    dc * greatestSum(grids.dcMatrix, 3) * grids.dcStep,
    2 ** 15 * greatestSum(grids.shMatrix, grids.channels) * Math.max(...grids.shSteps),
  ];
}

/** The greatest sum of magnitudes in a column of a square matrix. */
function greatestSum(matrix, size) {
  const sums = new Float64Array(size);
  matrix.forEach((entry, i) => (sums[i % size] += Math.abs(entry)));
  return Math.max(0, ...sums);
}

/** The section `tables`: edges of bins, the histogram of each context, and rANS entries. */
function readTables(bytes) {
  const reader = new SectionReader("tables", inflate(bytes, TABLES_LIMIT, "tables"));
  const edges = Object.fromEntries(BINNED.map((name) => [name, listOf(EDGES, reader.u16)]));
  for (const list of Object.values(edges)) {
    if (list.some((edge, i) => i > 0 && edge < list[i - 1])) {
      throw new F3dgsError("tables", "edges of bins out of order");
    }
  }
  const [contexts, histograms] = [reader.u32(), reader.u32()];
  if (contexts > 2 ** 16 || histograms > 255) {
    const text = `${contexts} contexts, ${histograms} histograms: beyond limits`;
    throw new F3dgsError("tables", text);
  }
  const map = reader.bytes(contexts);
  if (map.some((histogram) => histogram >= histograms)) {
    throw new F3dgsError("tables", "a context has no histogram");
  }
  const entries = readHistograms(reader, histograms);
  reader.finish();
  const bins = Object.fromEntries(BINNED.map((name) => [name, binTable(edges[name])]));
  return { edges, bins, map, entries };
}

/**
 * What a state's low bits mean, for every histogram: entry histogram x 4096 + low bits is
 * (frequency of the token - 1) << 20 | (low bits - start of the token) << 8 | token.
 */
function readHistograms(reader, histograms) {
  const lengths = Array.from(reader.bytes(histograms), (less) => less + 1);
  const total = lengths.reduce((sum, length) => sum + length, 0);
  const [low, high] = [reader.bytes(total), reader.bytes(total)];
  const entries = new Int32Array(histograms << 12);
  let next = 0;
  for (const [histogram, length] of lengths.entries()) {
    let place = histogram << 12;
    const end = place + 4096;
    for (let token = 0; token < length; token++, next++) {
      const frequency = low[next] | (high[next] << 8);
      if (frequency > end - place) throw unequalSum();
      for (let offset = 0; offset < frequency; offset++) {
        entries[place++] = ((frequency - 1) << 20) | (offset << 8) | token;
      }
    }
    if (place !== end) throw unequalSum();
  }
  return entries;
}

function unequalSum() {
  return new F3dgsError("tables", "a histogram's frequencies do not add up to 4096");
}

/** For each value below 2^16 (greater ones have the last one's), the number of edges up to it. */
function binTable(edges) {
  const table = new Uint8Array(2 ** 16);
  edges.forEach((edge, i) => table.fill(i + 1, edge)); // the edges are ascending
  return table;
}

// ------------------------------------------------------------ version 2: tokens and plain bits

const DIRECT_TOKENS = 232;
const LOWEST_STATE = 2 ** 16;
const MAX_TOKEN_SIZE = 2047;
const BINS = EDGES + 1;

// The context of an SH magnitude comes from its row's key: the energy in the lowest nine bits, then
// the neighbours' class (0 to 2), then whether the row's last group is coded.
const ENERGY_BITS = 9;
const ENERGY_MASK = 2 ** ENERGY_BITS - 1;
const LAST_GROUP_KEY = 3 << ENERGY_BITS;
const ENERGY_EDGES = [1, 4, 8, 14, 22, 32, 46, 66, 95, 140, 210];
const ENERGY_LEVELS = ENERGY_EDGES.length + 1;
const ENERGY_CONTEXTS = 2 * 3 * ENERGY_LEVELS;
const CONTEXT_OF_KEY = Uint8Array.from({ length: 6 << ENERGY_BITS }, (_, key) => {
  const level = ENERGY_EDGES.filter((edge) => edge <= (key & ENERGY_MASK)).length;
  return (key >> ENERGY_BITS) * ENERGY_LEVELS + level;
});

/** What a token adds to its lane's average: its least value, at most 2047. */
const TOKEN_SIZE = Int32Array.from({ length: 256 }, (_, token) => {
  const least = token < DIRECT_TOKENS ? token : DIRECT_TOKENS - 1 + 2 ** (token - DIRECT_TOKENS);
  return Math.min(least, MAX_TOKEN_SIZE);
});

/** Numbers the contexts of the planes, in the order in which planes first occur. */
class ContextNumbers {
  #map;
  #parts = new Map();
  #next = 0;

  constructor(map) {
    this.#map = map;
  }

  /** Where the entries of each context's histogram begin, for the `size` contexts of a plane. */
  starts(plane, size) {
    if (!this.#parts.has(plane)) {
      const end = this.#next + size;
      if (end > this.#map.length) throw new F3dgsError("tables", "too few contexts");
      this.#parts.set(plane, Int32Array.from(this.#map.subarray(this.#next, end), (h) => h << 12));
      this.#next = end;
    }
    return this.#parts.get(plane);
  }

  /** F3dgsError unless every context was used. */
  finish() {
    if (this.#next !== this.#map.length) throw new F3dgsError("tables", "too many contexts");
  }
}

/** Many interleaved rANS decoders, one a lane, that share a stream of words. */
class Lanes {
  #section;
  #states;
  #words;
  #wordCount;
  #nextWord = 0;

  constructor(bytes, count, section) {
    if (bytes.length < 4 * count || bytes.length % 2) {
      const text = `${bytes.length} bytes cannot hold ${count} lanes and words`;
      throw new F3dgsError(section, text);
    }
    this.count = count;
    this.#section = section;
    this.#states = numbersOf(Int32Array, bytes.subarray(0, 4 * count));
    if (this.#states.some((state) => state >>> 0 < LOWEST_STATE)) {
      throw new F3dgsError(section, "a coder's first state is out of range");
    }
    const words = numbersOf(Uint16Array, bytes.subarray(4 * count));
    this.#wordCount = words.length;
    // A step reads one word a lane at most, before it finds that there are no more.
    this.#words = new Uint16Array(words.length + count);
    this.#words.set(words);
  }

  /**
   * Decodes the tokens `low` to `end` - 1, one a lane. `starts` holds for each lane where the
   * entries of its token's histogram begin.
   */
  step(entries, starts, tokens, low, end) {
    const states = this.#states;
    const words = this.#words;
    let next = this.#nextWord;
    for (let i = low, lane = 0; i < end; i++, lane++) {
      let state = states[lane];
      const entry = entries[starts[lane] + (state & 4095)];
      state = (Math.imul((entry >>> 20) + 1, state >>> 12) + ((entry >>> 8) & 4095)) | 0;
      if (state >>> 16 === 0) state = (state << 16) | words[next++];
      states[lane] = state;
      tokens[i] = entry; // its lowest eight bits
    }
    if (next > this.#wordCount) throw new F3dgsError(this.#section, "ends before its last token");
    this.#nextWord = next;
  }

  /** F3dgsError unless everything was read and the states are those the writer began with. */
  finish() {
    const isAtEnd = this.#nextWord === this.#wordCount;
    if (!isAtEnd || this.#states.some((state) => state !== LOWEST_STATE)) {
      throw new F3dgsError(this.#section, "does not end at its last token");
    }
  }
}

/** Reads the planes of one layer in order, from its two streams: rANS and plain bits. */
class PlaneReader {
  #tables;
  #contexts;
  #lanes;
  #starts;
  #bits;
  #bitSection;
  #nextByte = 0;
  #scratch = new Uint8Array(0);

  constructor({ tables, contexts }, { rans, bits }, lanes, layer) {
    this.#tables = tables;
    this.#contexts = contexts;
    this.#lanes = new Lanes(rans, lanes, `rans${layer}`);
    this.#starts = new Int32Array(lanes); // of the current step, see Lanes.step
    this.#bitSection = `bits${layer}`;
    this.#bits = new Uint8Array(bits.length + 1); // after the last list, one bit more is read
    this.#bits.set(bits);
  }

  /** Values, each under its context, which is below `size`. */
  plane(name, size, contexts) {
    const ofContext = this.#contexts.starts(name, size);
    const starts = this.#starts;
    const tokens = this.#tokens(contexts.length, (low, end) => {
      for (let i = low; i < end; i++) starts[i - low] = ofContext[contexts[i]];
    });
    return this.#values(tokens);
  }

  /**
   * As `plane`, with the bin of the predecessors in the same lane as a further part of the
   * context; `shifts` are those of the rows.
   */
  nearPlane(name, size, contexts, shifts) {
    const ofContext = this.#contexts.starts(name, size * BINS);
    const [starts, bins] = [this.#starts, this.#tables.bins[name]];
    const averages = new Int32Array(starts.length).fill(16 * this.#tables.edges[name][EDGES >> 1]);
    const choose = (low, end) => {
      for (let i = low; i < end; i++) {
        const bin = bins[Math.min(averages[i - low] >> 4, 65535)];
        starts[i - low] = ofContext[contexts[i] * BINS + bin];
      }
    };
    const update = (low, end, tokens) => {
      for (let i = low; i < end; i++) {
        const size16 = TOKEN_SIZE[tokens[i]] << (shifts[i] + 4);
        averages[i - low] += (size16 - averages[i - low]) >> 2;
      }
    };
    return this.#values(this.#tokens(contexts.length, choose, update));
  }

  /**
   * Fills `values` (Int16Array) with magnitudes, each under its row's key, and their signs. The
   * magnitudes' energy is added to the keys.
   */
  signedPlane(name, keys, values) {
    const ofContext = this.#contexts.starts(name, ENERGY_CONTEXTS);
    const ofKey = Int32Array.from(CONTEXT_OF_KEY, (context) => ofContext[context]);
    const starts = this.#starts;
    const choose = (low, end) => {
      for (let i = low; i < end; i++) starts[i - low] = ofKey[keys[i]];
    };
    const update = (low, end, tokens) => {
      for (let i = low; i < end; i++) {
        keys[i] += 4 * Math.min(tokens[i], 15) - ((keys[i] & ENERGY_MASK) >> 3);
      }
    };
    const tokens = this.#tokens(values.length, choose, update);
    this.#putSigned(this.#magnitudes(tokens), values);
  }

  /** Plain integers, number i of widths[i] bits. */
  bits(widths) {
    const found = new Int32Array(widths.length);
    const wider = countsAbove(widths);
    for (let bit = wider.length - 1; bit >= 0; bit--) {
      const list = this.#takeList(wider[bit]);
      let position = 0;
      for (let i = 0; i < found.length; i++) {
        const isWide = (bit - widths[i]) >>> 31;
        const value = (list[position >>> 3] >>> (7 - (position & 7))) & isWide;
        found[i] |= value << bit;
        position += isWide;
      }
    }
    return found;
  }

  /** F3dgsError unless both streams were read to their ends. */
  finish() {
    this.#lanes.finish();
    if (this.#nextByte !== this.#bits.length - 1) {
      throw new F3dgsError(this.#bitSection, "bytes left over");
    }
  }

  /**
   * The next tokens; the array is used again for the next plane. For each step, `choose` sets the
   * lanes' starts, and `update` takes the tokens that were found.
   */
  #tokens(count, choose, update = () => {}) {
    const lanes = this.#lanes.count;
    if (count > this.#scratch.length) this.#scratch = new Uint8Array(count);
    const tokens = this.#scratch.subarray(0, count);
    for (let low = 0; low < count; low += lanes) {
      const end = Math.min(low + lanes, count);
      choose(low, end);
      this.#lanes.step(this.#tables.entries, this.#starts, tokens, low, end);
      update(low, end, tokens);
    }
    return tokens;
  }

  /** The bytes of the next list of `count` plain bits, and at least one byte more. */
  #takeList(count) {
    const start = this.#nextByte;
    this.#nextByte += (count + 7) >>> 3;
    if (this.#nextByte > this.#bits.length - 1) {
      throw new F3dgsError(this.#bitSection, "ends before its last bit");
    }
    return this.#bits.subarray(start, this.#nextByte + 1);
  }

  /** The values of tokens, with the plain bits that follow large ones. */
  #values(tokens) {
    const values = new Int32Array(tokens);
    const large = placesOfLarge(tokens);
    if (!large.length) return values;
    const widths = new Uint8Array(large.length);
    for (let i = 0; i < widths.length; i++) widths[i] = tokens[large[i]] - DIRECT_TOKENS;
    const extra = this.bits(widths);
    for (let i = 0; i < widths.length; i++) {
      values[large[i]] = DIRECT_TOKENS - 1 + (1 << widths[i]) + extra[i];
    }
    return values;
  }

  /** The values of tokens of SH magnitudes; the tokens themselves if none has further bits. */
  #magnitudes(tokens) {
    if (!placesOfLarge(tokens).length) return tokens;
    const magnitudes = this.#values(tokens);
    if (magnitudes.some((magnitude) => magnitude > MAX_SYMBOL)) {
      throw new F3dgsError("sh", `a magnitude above ${MAX_SYMBOL}`);
    }
    return magnitudes;
  }

  /** Fills `values` with the magnitudes, negated where their bit is 1; those of 0 have no bit. */
  #putSigned(magnitudes, values) {
    let count = 0;
    for (let i = 0; i < magnitudes.length; i++) count += -magnitudes[i] >>> 31;
    const list = this.#takeList(count);
    let position = 0;
    for (let i = 0; i < magnitudes.length; i++) {
      const magnitude = magnitudes[i];
      const isNegative = (list[position >>> 3] >>> (7 - (position & 7))) & 1;
      values[i] = (magnitude ^ -isNegative) + isNegative; // 0 stays 0
      position += -magnitude >>> 31;
    }
  }
}

/** For each bit that one of the integers has, how many have it, if `widths` are their bits. */
function countsAbove(widths) {
  const ofWidth = new Array(25).fill(0);
  for (let i = 0; i < widths.length; i++) ofWidth[widths[i]]++;
  const most = ofWidth.findLastIndex((count) => count > 0);
  const above = new Array(Math.max(0, most)).fill(0);
  for (let bit = 0; bit < above.length; bit++) {
    for (let width = bit + 1; width <= most; width++) above[bit] += ofWidth[width];
  }
  return above;
}

/** Where the tokens are that further bits follow. */
function placesOfLarge(tokens) {
  let count = 0;
  for (let i = 0; i < tokens.length; i++) count += tokens[i] > DIRECT_TOKENS ? 1 : 0;
  const places = new Int32Array(count);
  if (count === 0) return places;
  for (let i = 0, next = 0; i < tokens.length; i++) {
    if (tokens[i] > DIRECT_TOKENS) places[next++] = i;
  }
  return places;
}

// ------------------------------------------------------------------------- version 2: a layer

/** The number of members of a set of eight bits. */
const SET_SIZE = new Uint8Array(256);
for (let set = 1; set < 256; set++) SET_SIZE[set] = SET_SIZE[set >> 1] + (set & 1);

/** Decodes the layers of a file of version 2, in order. */
class GridDecoder {
  #container;
  #parts;
  #grids;
  #tables;
  #contexts;
  #owners; // null where no Gaussians share SH

  constructor(container, fileBytes) {
    this.#container = container;
    const { layers, grids, isShared } = readModelSection(container.take("model"), fileBytes);
    this.#parts = layers;
    this.#grids = grids;
    this.#tables = readTables(container.take("tables"));
    this.#contexts = new ContextNumbers(this.#tables.map);
    this.layers = layers.length;
    this.shDegree = grids.shDegree;
    this.channels = grids.channels;
    this.#owners = isShared ? new Owners(grids.channels) : null;
    let end = 0;
    this.layerEnds = layers.map(({ count }) => (end += count));
  }

  /** Appends a layer's Gaussians to the columns. */
  readLayer(layer, columns) {
    const { count, far, lanes } = this.#parts[layer];
    const [container, grids] = [this.#container, this.#grids];
    const streams = { rans: container.take(`rans${layer}`), bits: container.take(`bits${layer}`) };
    const given = { tables: this.#tables, contexts: this.#contexts };
    const reader = new PlaneReader(given, streams, lanes, layer);
    const cells = readOctree(reader, grids.coarseBits, count);
    const rows = stepMajor(count, lanes);
    const integers = readIntegers(reader, this.#tables.bins, grids, cells, rows);
    const sh = readSh(reader, grids, integers.precision, lanes);
    const sharers = this.#owners?.read(reader, layer, sh.groups, rows);
    reader.finish();
    // Not before: it is the octree that shows that the header states the right count.
    const arrays = columns.extended(count);
    putIntegers(integers, cells, rows, grids, arrays);
    putSh(sh, rows, integers.precision, grids, arrays.featuresRest);
    if (sharers) this.#owners.put(sharers, arrays.featuresRest, layer === this.layers - 1);
    this.#putFar(far, count, layer, arrays.xyz);
    this.#putExact(count, layer, arrays);
  }

  /** Checks what is left after the last layer that is read. */
  finish(models) {
    if (models === this.layers) this.#contexts.finish();
    for (let layer = models; layer < this.layers; layer++) {
      for (const kind of ["rans", "bits", "far", "exact"]) this.#container.discard(kind + layer);
    }
    this.#container.finish();
  }

  /** Centres outside the cells. */
  #putFar(far, count, layer, xyz) {
    if (!far) return;
    const name = `far${layer}`;
    const bytes = this.#container.take(name);
    if (bytes.length !== 16 * far) {
      throw new F3dgsError(name, `${bytes.length} bytes, ${16 * far} expected`);
    }
    const rows = numbersOf(Uint32Array, bytes.subarray(0, 4 * far));
    const centres = numbersOf(Float32Array, bytes.subarray(4 * far));
    if (rows.some((row, i) => row >= count || (i > 0 && row <= rows[i - 1]))) {
      throw new F3dgsError(name, "rows out of range or out of order");
    }
    if (!centres.every(Number.isFinite)) throw new F3dgsError(name, "a centre is not finite");
    rows.forEach((row, i) => xyz.set(centres.subarray(3 * i, 3 * i + 3), 3 * row));
  }

  /** Single numbers that no grid holds. */
  #putExact(count, layer, arrays) {
    const name = `exact${layer}`;
    if (this.#container.lacks(name)) throw new F3dgsError(name, "missing");
    if (!this.#container.has(name)) return;
    const bytes = this.#container.take(name);
    const number = bytes.length / 9;
    if (!number || !Number.isInteger(number)) {
      throw new F3dgsError(name, `${bytes.length} bytes, a multiple of 9 expected`);
    }
    const rows = numbersOf(Uint32Array, bytes.subarray(0, 4 * number));
    const channels = bytes.subarray(4 * number, 5 * number);
    const values = numbersOf(Float32Array, bytes.subarray(5 * number));
    const isInRange = (row, i) => row < count && channels[i] < 7 + this.channels;
    if (!rows.every(isInRange)) throw new F3dgsError(name, "a row or a channel out of range");
    const isAfter = (row, i) =>
      i === 0 || row > rows[i - 1] || (row === rows[i - 1] && channels[i] > channels[i - 1]);
    if (!rows.every(isAfter)) throw new F3dgsError(name, "rows and channels out of order");
    if (!values.every(Number.isFinite)) throw new F3dgsError(name, "a number that is not finite");
    rows.forEach((row, i) => putExactValue(arrays, row, channels[i], values[i], this.channels));
  }
}

/**
 * The owners of shared SH: the Gaussians with SH of their own, numbered in file order. The SH of
 * those in earlier layers are kept here, because the arrays that held them may be gone.
 */
class Owners {
  #channels;
  #kept = []; // of each earlier layer, the SH of its owners, one after the other
  #ends = []; // of each layer, the number of owners up to its end

  constructor(channels) {
    this.#channels = channels;
  }

  /**
   * Of a layer the rows that have SH, in Morton order (`own`), and the others (`rows`), with
   * 1 + the number of the owner of each, or 0. `gaussians`: those of the rows in step-major order.
   */
  read(reader, layer, groups, gaussians) {
    const own = gaussians.filter((_, i) => groups[i] > 0).sort();
    const rows = gaussians.filter((_, i) => groups[i] === 0);
    const count = (this.#ends.at(-1) ?? 0) + own.length;
    this.#ends.push(count);
    let low = 0; // plain bits of a number; what is above them is a token without plain bits
    while ((count - 1) >> low >= DIRECT_TOKENS - 1) low++;
    const numbers = reader.plane(`owner${layer}`, 1, new Uint8Array(rows.length));
    requireOwners(numbers, 1 + ((count - 1) >> low));
    const rest = reader.bits(Uint8Array.from(numbers, (upper) => (upper ? low : 0)));
    for (let i = 0; i < numbers.length; i++) {
      if (numbers[i]) numbers[i] = 1 + (((numbers[i] - 1) << low) | rest[i]);
    }
    requireOwners(numbers, count);
    return { own, rows, numbers };
  }

  /** Fills in the SH of the layer's rows that share them; `isLast`: no layer comes after it. */
  put({ own, rows, numbers }, featuresRest, isLast) {
    const width = this.#channels;
    const before = this.#ends.at(-2) ?? 0;
    for (let i = 0; i < rows.length; i++) {
      if (!numbers[i]) continue;
      const owner = numbers[i] - 1;
      const sh = owner < before ? this.#keptSh(owner) : rowOf(featuresRest, own[owner - before], width);
      featuresRest.set(sh, width * rows[i]);
    }
    if (isLast) return;
    const kept = allocated(Float32Array, width * own.length);
    own.forEach((row, i) => kept.set(rowOf(featuresRest, row, width), width * i));
    this.#kept.push(kept);
  }

  #keptSh(owner) {
    const layer = this.#ends.findIndex((end) => owner < end);
    return rowOf(this.#kept[layer], owner - (this.#ends[layer - 1] ?? 0), this.#channels);
  }
}

function rowOf(values, row, width) {
  return values.subarray(width * row, width * (row + 1));
}

function requireOwners(numbers, owners) {
  if (numbers.some((number) => number > owners)) {
    throw new F3dgsError("sh", "the owner of shared SH does not exist");
  }
}

function putExactValue(arrays, row, channel, value, channels) {
  if (channel === 0) arrays.opacity[row] = value;
  else if (channel < 4) arrays.scaling[3 * row + channel - 1] = value;
  else if (channel < 7) arrays.featuresDc[3 * row + channel - 4] = value;
  else arrays.featuresRest[channels * row + channel - 7] = value;
}

/** The coarse cells x, y, z of all Gaussians, in Morton order. */
function readOctree(reader, levels, count) {
  if (!count) return [0, 1, 2].map(() => new Int32Array(0));
  let nodes = [0, 1, 2].map(() => new Int32Array(1));
  let siblings = new Uint8Array(1); // of each node, without itself
  for (let level = 0; level < levels; level++) {
    const sets = reader.plane(`octree${level}`, 8, siblings);
    const children = childCount(sets);
    if (children > count) {
      throw new F3dgsError("octree", `level ${level} has more nodes than Gaussians`);
    }
    [nodes, siblings] = childrenOf(nodes, sets, children);
  }
  const repeats = reader.plane("repeats", 8, siblings);
  const total = repeats.reduce((sum, more) => sum + more + 1, 0);
  if (total !== count) {
    throw new F3dgsError("octree", `its leaves do not hold ${count} Gaussians`);
  }
  return nodes.map((axis) => repeated(axis, repeats, count));
}

/** The nodes of the next level, from the set of each node's children, less 1. */
function childCount(sets) {
  let count = 0;
  for (let i = 0; i < sets.length; i++) count += sets[i] > 254 ? Infinity : SET_SIZE[sets[i] + 1];
  return count;
}

/** The occupied nodes of the next level, and of each the number of its siblings. */
function childrenOf([x, y, z], sets, count) {
  const [nextX, nextY, nextZ] = [0, 1, 2].map(() => new Int32Array(count));
  const siblings = new Uint8Array(count);
  let next = 0;
  for (let i = 0; i < sets.length; i++) {
    const set = sets[i] + 1;
    for (let child = 0; child < 8; child++) {
      if (((set >> child) & 1) === 0) continue;
      nextX[next] = 2 * x[i] + (child & 1);
      nextY[next] = 2 * y[i] + ((child >> 1) & 1);
      nextZ[next] = 2 * z[i] + (child >> 2);
      siblings[next++] = SET_SIZE[set] - 1;
    }
  }
  return [[nextX, nextY, nextZ], siblings];
}

/** `count` numbers: number i of `numbers`, and its repetitions. */
function repeated(numbers, repeats, count) {
  const all = new Int32Array(count);
  let next = 0;
  for (let i = 0; i < numbers.length; i++) {
    for (let left = repeats[i]; left >= 0; left--) all[next++] = numbers[i];
  }
  return all;
}

/** For each row in step-major order, its Gaussian in Morton order. */
function stepMajor(count, lanes) {
  const shortest = Math.floor(count / lanes);
  const longer = count % lanes;
  const rows = new Int32Array(count);
  for (let i = 0, lane = 0, step = 0; i < count; i++) {
    rows[i] = lane * shortest + Math.min(lane, longer) + step;
    if (++lane === lanes) [lane, step] = [0, step + 1];
  }
  return rows;
}

/** All integers of a layer but the SH, in step-major order. */
function readIntegers(reader, bins, grids, cells, rows) {
  const zeros = new Uint8Array(rows.length);
  const opacity = reader.nearPlane("opacity", 1, zeros, zeros);
  within(opacity, grids.opacity.levels, "opacity");
  const scales = readScales(reader, grids.scale.levels, opacity, bins, zeros);
  const predicted = predictedPrecision(grids, opacity, scales, cells, rows);
  const precision = readPrecision(reader, predicted);
  const fine = grids.bits - grids.coarseBits;
  const widths = applyRule(grids.positionShift, precision, scales).map((shift) => fine - shift);
  const lowBits = [0, 1, 2].map(() => reader.bits(widths));
  const rotationShifts = applyRule(grids.rotationShift, precision, scales);
  const rotation = readRotation(reader, rotationShifts);
  const dcShifts = applyRule(grids.dcShift, precision, scales);
  const dc = [0, 1, 2].map((channel) =>
    within(reader.nearPlane(`dc${channel}`, 16, dcShifts, dcShifts), MAX_SYMBOL + 1, "dc"),
  );
  return { opacity, scales, precision, widths, lowBits, rotationShifts, rotation, dcShifts, dc };
}

/** The symbols of the three scales of each row, in descending order. */
function readScales(reader, levels, opacity, bins, zeros) {
  const largest = reader.nearPlane("scale0", BINS, binsOf(bins.opacity, opacity), zeros);
  const bin0 = binsOf(bins.scale0, largest);
  const drop1 = reader.nearPlane("scale1", BINS, bin0, zeros);
  const bin1 = binsOf(bins.scale1, drop1);
  for (let i = 0; i < bin1.length; i++) bin1[i] += BINS * bin0[i];
  const drop2 = reader.nearPlane("scale2", BINS * BINS, bin1, zeros);
  const middle = new Int32Array(largest.length);
  const least = new Int32Array(largest.length);
  for (let i = 0; i < largest.length; i++) {
    middle[i] = largest[i] - drop1[i];
    least[i] = middle[i] - drop2[i];
  }
  return [largest, middle, least].map((symbols) => within(symbols, levels, "scale"));
}

function binsOf(table, values) {
  const bins = new Uint8Array(values.length);
  for (let i = 0; i < bins.length; i++) bins[i] = table[Math.min(values[i], 65535)];
  return bins;
}

/** The values; F3dgsError unless all are from 0 to `levels` - 1. */
function within(values, levels, attribute) {
  for (let i = 0; i < values.length; i++) {
    if (values[i] < 0 || values[i] >= levels) {
      throw new F3dgsError(attribute, `a symbol outside 0 to ${levels - 1}`);
    }
  }
  return values;
}

/** x for 2 x, and -x - 1 for 2 x + 1. */
function unzigzag(value) {
  return (value >> 1) ^ -(value & 1);
}

/** The precision class of each row that its opacity, scales and place predict. */
function predictedPrecision(grids, opacity, [s0, s1, s2], [x, y, z], rows) {
  const { byOpacity, byShell } = grids;
  const [f0, f1, f2] = grids.scaleFactors;
  const [cx, cy, cz] = grids.centre;
  const squares = grids.radii.map((radius) => radius * radius);
  const classes = new Uint8Array(rows.length);
  for (let i = 0; i < classes.length; i++) {
    const row = rows[i];
    const dx = x[row] - cx;
    const dy = y[row] - cy;
    const dz = z[row] - cz;
    const squared = dx * dx + dy * dy + dz * dz;
    let shell = 0;
    while (shell < squares.length && squares[shell] <= squared) shell++;
    const total = byOpacity[opacity[i]] + byShell[shell] + s0[i] * f0 + s1[i] * f1 + s2[i] * f2;
    classes[i] = clipped(total, CLASSES - 1);
  }
  return classes;
}

/** total >> 16 for totals up to 2^53, at least 0 and at most `most`. */
function clipped(total, most) {
  return Math.min(Math.max(Math.floor(total / 65536), 0), most);
}

/** The class that a rule gives each row, from its precision and its scales. */
function applyRule({ most, bias, factors }, precision, [s0, s1, s2]) {
  const [f, f0 = 0, f1 = 0, f2 = 0] = factors; // the rule of the DC has one
  const classes = new Uint8Array(precision.length);
  for (let i = 0; i < classes.length; i++) {
    classes[i] = clipped(bias + f * precision[i] + f0 * s0[i] + f1 * s1[i] + f2 * s2[i], most);
  }
  return classes;
}

function readPrecision(reader, predicted) {
  const differences = reader.plane("precision", CLASSES, predicted);
  for (let i = 0; i < differences.length; i++) {
    differences[i] = predicted[i] + unzigzag(differences[i]);
  }
  return Uint8Array.from(within(differences, CLASSES, "precision"));
}

/** Three planes of components in steps << shift. */
function readRotation(reader, shifts) {
  const contexts = new Uint8Array(shifts.length);
  const before = new Int32Array(shifts.length); // the greatest component so far
  return [0, 1, 2].map((axis) => {
    for (let i = 0; i < contexts.length; i++) {
      contexts[i] = (axis * 16 + shifts[i]) * 4 + Math.min(before[i], 3);
    }
    const plane = within(reader.plane("rotation", 192, contexts), MAX_SYMBOL + 1, "rotation");
    for (let i = 0; i < plane.length; i++) {
      before[i] = Math.max(before[i], (plane[i] << shifts[i]) >> 4);
      plane[i] = unzigzag(plane[i]);
    }
    return plane;
  });
}

/**
 * The SH of a layer: `groups`, in step-major order; `places` (in this order) and `used` groups of
 * the rows that have any, those with the most first; `planes`, an array for each coefficient, of
 * the first of these rows.
 */
function readSh(reader, { channels }, precision, lanes) {
  if (!channels) return { groups: [], places: [], used: [], planes: [] };
  const zeros = new Uint8Array(precision.length);
  const groups = reader.nearPlane("groups", CLASSES, precision, zeros);
  within(groups, channels / 3 + 1, "sh");
  const users = usersOf(groups, channels / 3);
  const places = placesByUse(groups, users);
  const keys = firstKeys(groups, places, lanes);
  const firsts = Int32Array.from({ length: channels }, (_, channel) => firstOf(users, channel));
  const planes = allocated(Int16Array, firstOf(users, channels));
  for (let channel = 0; channel < channels; channel++) {
    const group = Math.floor(channel / 3);
    const [count, longer] = [users[group + 1], users[group + 2]];
    if (channel % 3 === 0) {
      for (let i = longer; i < count; i++) keys[i] += LAST_GROUP_KEY;
    }
    const first = firsts[channel];
    reader.signedPlane(`sh${channel}`, keys, planes.subarray(first, first + count));
  }
  const used = Uint8Array.from(places, (place) => groups[place]);
  return { groups, places, used, firsts, planes };
}

/** How many magnitudes come before those of a coefficient. */
function firstOf(users, channel) {
  let first = 0;
  for (let earlier = 0; earlier < channel; earlier++) first += users[Math.floor(earlier / 3) + 1];
  return first;
}

/** users[g]: the number of rows with at least g groups; for g up to `most` + 1. */
function usersOf(groups, most) {
  const users = new Int32Array(most + 2);
  for (let i = 0; i < groups.length; i++) users[groups[i]]++;
  for (let g = most; g >= 0; g--) users[g] += users[g + 1];
  return users;
}

/** The rows that have groups: those with more first, those with equally many in their order. */
function placesByUse(groups, users) {
  const places = new Int32Array(users[1]);
  const next = users.slice(1); // next[g]: where the next row with g groups goes
  for (let i = 0; i < groups.length; i++) {
    if (groups[i]) places[next[groups[i]]++] = i;
  }
  return places;
}

/** The keys before the first magnitude: the class of the neighbours' number of groups. */
function firstKeys(groups, places, lanes) {
  const keys = new Int16Array(places.length);
  for (let i = 0; i < keys.length; i++) {
    const place = places[i];
    const before = place >= lanes ? groups[place - lanes] : 0;
    const after = place + lanes < groups.length ? groups[place + lanes] : 0;
    const neighbours = before + after;
    keys[i] = ((neighbours >= 2) + (neighbours >= 6)) << ENERGY_BITS;
  }
  return keys;
}

// ----------------------------------------------------------------- version 2: integers to values

/** Fills the columns of a layer, but for the higher SH; values are rounded as in docs/format.md. */
function putIntegers(integers, cells, rows, grids, arrays) {
  putCentres(integers, cells, rows, grids, arrays.xyz);
  putEven(integers.opacity, rows, grids.opacity, arrays.opacity, 1, 0);
  integers.scales.forEach((symbols, axis) => {
    putEven(symbols, rows, grids.scale, arrays.scaling, 3, axis);
  });
  putRotations(integers, rows, grids.rotationStep, arrays.rotation);
  putColours(integers, rows, grids, arrays.featuresDc);
}

function putCentres({ widths, lowBits }, cells, rows, grids, xyz) {
  const fine = grids.bits - grids.coarseBits;
  for (let axis = 0; axis < 3; axis++) {
    const [coarse, low, origin] = [cells[axis], lowBits[axis], grids.origin[axis]];
    for (let i = 0; i < rows.length; i++) {
      const row = rows[i];
      const shift = fine - widths[i];
      const cell = ((coarse[row] << fine) | (low[i] << shift)) + ((1 << shift) >> 1);
      xyz[3 * row + axis] = Math.fround(cell * grids.cell) + origin;
    }
  }
}

/** values[row * stride + offset] = minimum + step x symbol. */
function putEven(symbols, rows, { minimum, step }, values, stride, offset) {
  for (let i = 0; i < rows.length; i++) {
    values[stride * rows[i] + offset] = Math.fround(symbols[i] * step) + minimum;
  }
}

function putRotations({ rotation: [x, y, z], rotationShifts }, rows, step, rotation) {
  const { fround } = Math;
  for (let i = 0; i < rows.length; i++) {
    const at = 4 * rows[i];
    const shift = rotationShifts[i];
    const a = fround((x[i] << shift) * step);
    const b = fround((y[i] << shift) * step);
    const c = fround((z[i] << shift) * step);
    const squares = fround(fround(fround(a * a) + fround(b * b)) + fround(c * c));
    rotation[at] = Math.sqrt(Math.max(fround(1 - squares), 0));
    rotation[at + 1] = a;
    rotation[at + 2] = b;
    rotation[at + 3] = c;
  }
}

function putColours({ dc: [x, y, z], dcShifts }, rows, grids, featuresDc) {
  const [low0, low1, low2] = grids.dcLow;
  const matrix = grids.dcMatrix;
  for (let i = 0; i < rows.length; i++) {
    const shift = dcShifts[i];
    const a = (x[i] << shift) + low0;
    const b = (y[i] << shift) + low1;
    const c = (z[i] << shift) + low2;
    for (let channel = 0; channel < 3; channel++) {
      const sum = a * matrix[channel] + b * matrix[3 + channel] + c * matrix[6 + channel];
      featuresDc[3 * rows[i] + channel] = Math.fround(sum) * grids.dcStep;
    }
  }
}

const FACTORS_AT_ONCE = 4;
// Where all sums of a row are below 2^25, two of them are computed as one double: sum of the left
// half's column + 2^26 x sum of the right half's. It is exact, because it is below 2^53.
const RIGHT_HALF = 2 ** 26;

/**
 * Fills the higher SH: the integers of each row times the matrix. The sums are exact in any order,
 * because they are below 2^53; integers that are 0 are left out.
 */
function putSh({ used, places, firsts, planes }, rows, precision, grids, featuresRest) {
  const { channels, shMatrix, shSteps } = grids;
  const isPaired = greatestSum(shMatrix, channels) * magnitudeBound(planes) < RIGHT_HALF / 2;
  const matrix = isPaired ? pairedColumns(shMatrix, channels) : shMatrix;
  const width = matrix.length / channels;
  const sums = new Float64Array(width);
  const factors = new Float64Array(channels + FACTORS_AT_ONCE);
  const lines = new Int32Array(channels + FACTORS_AT_ONCE); // where the factors' matrix rows begin
  for (let i = 0; i < places.length; i++) {
    const count = takeFactors(planes, firsts, i, 3 * used[i], width, factors, lines);
    multiply(sums, factors, lines, count, matrix);
    const start = channels * rows[places[i]];
    const step = shSteps[precision[places[i]]];
    if (isPaired) putPaired(sums, step, featuresRest, start, channels);
    else for (let c = 0; c < width; c++) featuresRest[start + c] = Math.fround(sums[c]) * step;
  }
}

/**
 * Sets the factors to the integers of row i other than 0, of the first `end` coefficients, and
 * `lines` to where their lines of the matrix begin. Returns their number; zeros follow.
 */
function takeFactors(planes, firsts, i, end, width, factors, lines) {
  let count = 0;
  for (let channel = 0; channel < end; channel++) {
    const factor = planes[firsts[channel] + i];
    factors[count] = factor;
    lines[count] = channel * width;
    count += (factor | -factor) >>> 31; // 1 unless the factor is 0, without a branch
  }
  for (let k = count; k < count + FACTORS_AT_ONCE; k++) factors[k] = 0;
  return count;
}

/** Sets the sums to those of `count` factors, each times its line of the matrix. */
function multiply(sums, factors, lines, count, matrix) {
  for (let c = 0; c < sums.length; c++) sums[c] = 0;
  for (let k = 0; k < count; k += FACTORS_AT_ONCE) addLines(sums, factors, lines, k, matrix);
}

/** Adds to the sums four factors, from factor k on, each times its line of the matrix. */
function addLines(sums, factors, lines, k, matrix) {
  const f0 = factors[k];
  const f1 = factors[k + 1];
  const f2 = factors[k + 2];
  const f3 = factors[k + 3];
  const l0 = lines[k];
  const l1 = lines[k + 1];
  const l2 = lines[k + 2];
  const l3 = lines[k + 3];
  for (let c = 0; c < sums.length; c++) {
    sums[c] +=
      f0 * matrix[l0 + c] + f1 * matrix[l1 + c] + (f2 * matrix[l2 + c] + f3 * matrix[l3 + c]);
  }
}

/** The matrix with two columns in one: column c + 2^26 x column c + half the size. */
function pairedColumns(matrix, size) {
  const half = Math.ceil(size / 2);
  return Float64Array.from({ length: size * half }, (_, i) => {
    const [line, column] = [Math.floor(i / half), i % half];
    const right = column + half < size ? matrix[line * size + column + half] : 0;
    return matrix[line * size + column] + RIGHT_HALF * right;
  });
}

/** values[start + c] = sum c x step, for the sums of all columns of a matrix of paired columns. */
function putPaired(sums, step, values, start, channels) {
  const half = sums.length;
  for (let c = 0; c < half; c++) {
    const right = Math.floor(sums[c] / RIGHT_HALF + 0.5);
    values[start + c] = Math.fround(sums[c] - RIGHT_HALF * right) * step;
    if (half + c < channels) values[start + half + c] = Math.fround(right) * step;
  }
}

/** A number that no magnitude exceeds, below twice the greatest one. */
function magnitudeBound(numbers) {
  let bits = 0;
  for (let i = 0; i < numbers.length; i++) bits |= numbers[i] ^ (numbers[i] >> 31);
  return bits + 1; // of a negative number, one less than its magnitude was taken
}

// ------------------------------------------------------------------------------ decoded columns

/** Numbers of a Gaussian in each array; `channels` is that of the higher SH. */
function columnWidths(channels) {
  return { xyz: 3, opacity: 1, scaling: 3, rotation: 4, featuresDc: 3, featuresRest: channels };
}

/** The decoded arrays, to which layers are appended. */
class Columns {
  #widths;

  /** @param {number} channels higher SH coefficients of all three colours */
  constructor(channels) {
    this.#widths = columnWidths(channels);
    this.count = 0;
    this.arrays = this.#allocated(0);
  }

  /** Adds `more` rows of zeros, and returns the arrays' parts that hold these. */
  extended(more) {
    const [before, first] = [this.arrays, this.count];
    this.count += more;
    this.arrays = this.#allocated(this.count);
    const parts = {};
    for (const [name, width] of Object.entries(this.#widths)) {
      this.arrays[name].set(before[name]);
      parts[name] = this.arrays[name].subarray(first * width);
    }
    return parts;
  }

  #allocated(count) {
    const arrays = {};
    for (const [name, width] of Object.entries(this.#widths)) {
      arrays[name] = allocated(Float32Array, count * width);
    }
    return arrays;
  }
}

/** A new array; F3dgsError where the memory does not suffice. */
function allocated(ArrayType, length) {
  try {
    return new ArrayType(length);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new F3dgsError("model", `not enough memory for an array of ${length} numbers`);
  }
}

// --------------------------------------------------------------------------- version 3: blocks

const BLOCK_SECTIONS = ["index", "meta", "blocks"];
const BLOCK_ENTRY_BYTES = 48;
const MAX_BLOCKS = 2 ** 16;

/** A file of blocks as one model. */
function decodeBlocks(bytes, layers) {
  const container = unpackContainer(bytes, false);
  checkBlockSections(container);
  const blocks = container.take("blocks");
  const index = new BlockIndex(container);
  const models = index.entries.map((entry, number) =>
    entry.bytes === 0
      ? null
      : index.decode(number, blocks.subarray(entry.offset, entry.offset + entry.bytes), layers),
  );
  return index.model(models.filter((model) => model !== null));
}

/** The blocks of a file while it arrives; the last waits for its end. */
async function* streamBlocks(container, source, layers) {
  checkBlockSections(container);
  for (const entry of container.entries.slice(0, 2)) {
    container.add(entry, await source.take(entry.length));
  }
  const index = new BlockIndex(container);
  const numbers = [...index.entries.keys()].filter((number) => index.entries[number].bytes > 0);
  const layersAndTotal = { layers: Math.max(1, numbers.length), total: index.count };
  let waiting = index.model([]);
  let crc = 0;
  for (const [part, number] of numbers.entries()) {
    const bytes = await source.take(index.entries[number].bytes);
    crc = crc32(bytes, crc);
    if (part > 0) yield { ...waiting, layer: part - 1, ...layersAndTotal };
    waiting = index.model([index.decode(number, bytes, layers)]);
  }
  await source.requireEnd();
  if (crc !== container.entries[2].crc) {
    throw new F3dgsError("section blocks", "checksum does not match");
  }
  yield { ...waiting, layer: layersAndTotal.layers - 1, ...layersAndTotal };
}

function checkBlockSections(container) {
  const names = container.entries.map(({ name }) => name).join(", ");
  const expected = BLOCK_SECTIONS.join(", ");
  if (names !== expected) {
    throw new F3dgsError("section table", `${expected} expected, got ${names}`);
  }
}

/** The section `index`, and the blocks that it describes. */
class BlockIndex {
  constructor(container) {
    const bytes = container.take("index");
    this.#container = container;
    this.metadata = container.metadata();
    if (bytes.length < 5) throw new F3dgsError("index", `cut short: ${bytes.length} bytes`);
    const view = viewOf(bytes);
    this.shDegree = bytes[0];
    const number = view.getUint32(1, true);
    if (this.shDegree > 3) {
      throw new F3dgsError("index", `SH degree ${this.shDegree}, at most 3 allowed`);
    }
    if (number < 1 || number > MAX_BLOCKS) {
      throw new F3dgsError("index", `${number} blocks, 1 to ${MAX_BLOCKS} allowed`);
    }
    const end = 5 + BLOCK_ENTRY_BYTES * number;
    if (bytes.length !== end) {
      throw new F3dgsError("index", `${bytes.length} bytes, ${end} expected`);
    }
    this.entries = [];
    for (let at = 5; at < end; at += BLOCK_ENTRY_BYTES) this.entries.push(blockEntry(view, at));
    this.#check();
  }

  #container;

  /** The model of one block; F3dgsError if it is not what the entry states. */
  decode(number, bytes, layers) {
    const section = `blocks, number ${number}`;
    const entry = this.entries[number];
    if (bytes.length < entry.bytes) {
      throw new F3dgsError("blocks", `cut short: ${bytes.length} bytes of ${entry.bytes}`);
    }
    if (crc32(bytes) !== entry.crc) throw new F3dgsError(section, "checksum does not match");
    const model = decodeOneBlock(section, bytes, layers);
    if (model.version !== 2 || Object.keys(model.metadata).length > 0) {
      throw new F3dgsError(section, "a file of version 2 without metadata is expected");
    }
    const counts = model.count === entry.count || layers < MAX_LAYERS;
    if (model.shDegree !== this.shDegree || !counts) {
      throw new F3dgsError(section, "other Gaussians than the index states");
    }
    for (let i = 0; i < model.xyz.length; i++) {
      if (model.xyz[i] < entry.low[i % 3] || model.xyz[i] > entry.high[i % 3]) {
        throw new F3dgsError(section, "a centre lies outside the block's box");
      }
    }
    return model;
  }

  /** The Gaussians of these blocks as one model. */
  model(models) {
    const count = models.reduce((sum, model) => sum + model.count, 0);
    const channels = 3 * ((this.shDegree + 1) ** 2 - 1);
    const widths = { xyz: 3, opacity: 1, scaling: 3, rotation: 4, featuresDc: 3 };
    widths.featuresRest = channels;
    const arrays = {};
    for (const [name, width] of Object.entries(widths)) {
      const whole = allocated(Float32Array, count * width);
      let at = 0;
      for (const model of models) {
        whole.set(model[name], at);
        at += model[name].length;
      }
      arrays[name] = whole;
    }
    return {
      version: BLOCKS_VERSION,
      count,
      shDegree: this.shDegree,
      layerEnds: [],
      metadata: this.metadata,
      sectionBytes: this.#container.sectionBytes,
      ...arrays,
    };
  }

  #check() {
    let end = 0;
    let gaussians = 0;
    for (const [number, entry] of this.entries.entries()) {
      const fault = entryFault(entry, end);
      if (fault !== null) throw new F3dgsError("index", `block ${number} ${fault}`);
      end += entry.bytes;
      gaussians += entry.count;
    }
    if (end !== this.#container.sectionBytes.blocks) {
      throw new F3dgsError("index", "the section of the blocks has another length");
    }
    checkCount(gaussians, this.#container.fileBytes);
    this.count = gaussians;
  }
}

function decodeOneBlock(section, bytes, layers) {
  try {
    if (readHead(bytes).version === BLOCKS_VERSION) {
      throw new F3dgsError("header", "blocks in a block");
    }
    return decode(bytes, { layers });
  } catch (error) {
    if (!(error instanceof F3dgsError)) throw error;
    throw new F3dgsError(section, error.message.replace(/^corrupt file: /, ""));
  }
}

function blockEntry(view, at) {
  const floats = Array.from({ length: 6 }, (_, i) => view.getFloat32(at + 4 * i, true));
  const long = (where) => view.getUint32(where, true) + 2 ** 32 * view.getUint32(where + 4, true);
  return {
    low: floats.slice(0, 3),
    high: floats.slice(3),
    count: view.getUint32(at + 24, true),
    offset: long(at + 28),
    bytes: long(at + 36),
    crc: view.getUint32(at + 44, true),
  };
}

/** What is wrong with an entry whose bytes should begin at `begin`; null if nothing is. */
function entryFault(entry, begin) {
  const box = [...entry.low, ...entry.high];
  if (entry.offset !== begin) return `begins at ${entry.offset}, not at ${begin}`;
  if (!box.every(Number.isFinite) || entry.low.some((low, i) => low > entry.high[i])) {
    return "has no box";
  }
  if (entry.count > 0) return entry.bytes > 0 ? null : "has Gaussians, but no bytes";
  const isZero = entry.bytes === 0 && entry.crc === 0 && box.every((x) => x === 0);
  return isZero ? null : "has no Gaussians, but other numbers than 0";
}

// ------------------------------------------------------------------------ version 1: attributes

const ATTRIBUTES = [
  { name: "xyz", section: "xyz" },
  { name: "opacity", section: "opacity" },
  { name: "scaling", section: "scaling" },
  { name: "rotation", section: "rotation" },
  { name: "featuresDc", section: "shdc" },
  { name: "featuresRest", section: "shrest" },
];
const KINDS = { float32: 0, float16: 1, evenGrids: 2 };

/** Decodes a file of version 1, as one layer. */
class EvenDecoder {
  #container;
  #count;
  #quantizers;

  constructor(container, fileBytes) {
    this.#container = container;
    const reader = new SectionReader("model", container.take("model"));
    this.#count = reader.u32();
    this.shDegree = reader.u8();
    if (this.shDegree > 3) {
      throw new F3dgsError("model", `SH degree ${this.shDegree}, at most 3 allowed`);
    }
    this.channels = restChannels(this.shDegree);
    const widths = columnWidths(this.channels);
    this.#quantizers = ATTRIBUTES.map(({ name }) => readQuantizer(reader, widths[name]));
    reader.finish();
    checkCount(this.#count, fileBytes);
    this.layers = 1;
    this.layerEnds = [];
  }

  readLayer(_, columns) {
    const widths = columnWidths(this.channels);
    const symbols = ATTRIBUTES.map(({ name, section }, i) => {
      const bytes = this.#container.take(section);
      return readSymbols(bytes, this.#count, widths[name], this.#quantizers[i], section);
    });
    const arrays = columns.extended(this.#count);
    ATTRIBUTES.forEach(({ name, section }, i) => {
      putSymbols(symbols[i], widths[name], this.#quantizers[i], arrays[name]);
      if (!arrays[name].every(Number.isFinite)) {
        throw new F3dgsError(section, "a number that is not finite");
      }
    });
  }

  finish() {
    this.#container.finish();
  }
}

/** A quantiser record: its kind, the array type of its symbols, and its grids. */
function readQuantizer(reader, channels) {
  const kind = reader.u8();
  if (kind === KINDS.float32) return { kind, SymbolArray: Uint32Array };
  if (kind === KINDS.float16) return { kind, SymbolArray: Uint16Array };
  if (kind !== KINDS.evenGrids) throw new F3dgsError("model", `unknown quantiser kind ${kind}`);
  const levels = reader.u32();
  const entries = reader.u8();
  if (entries !== 1 && (entries !== channels || entries === 0)) {
    const text = `${entries} quantiser entries for ${channels} channels`;
    throw new F3dgsError("model", text);
  }
  const grids = listOf(entries, () => ({ minimum: reader.f32(), step: reader.f32() }));
  const isValid = ({ minimum, step }) =>
    step > 0 && Math.abs(minimum) + step * levels <= MAX_VALUE; // false for a NaN
  if (levels < 2 || levels > 2 ** 24 || !grids.every(isValid)) {
    throw new F3dgsError("model", "EvenGrids: levels, a minimum or a step out of range");
  }
  const SymbolArray = levels <= 2 ** 8 ? Uint8Array : levels <= 2 ** 16 ? Uint16Array : Uint32Array;
  return { kind, SymbolArray, levels, grids };
}

/** The symbols of one attribute: row by row where they are bytes, else channel by channel. */
function readSymbols(stream, count, channels, { SymbolArray, levels }, section) {
  const size = count * channels * SymbolArray.BYTES_PER_ELEMENT;
  const symbols = numbersOf(SymbolArray, decompressXz(stream, size, section));
  if (levels !== undefined && symbols.some((symbol) => symbol >= levels)) {
    throw new F3dgsError(section, `a symbol beyond the ${levels} levels of its grid`);
  }
  return symbols;
}

/** Fills `values`, row by row, with what the symbols stand for. */
function putSymbols(symbols, channels, { kind, SymbolArray, grids }, values) {
  const count = values.length / channels;
  const isByRow = SymbolArray === Uint8Array;
  const valueOf = kind === KINDS.float32 ? float32Of : float16Of;
  for (let channel = 0; channel < channels; channel++) {
    const grid = grids?.[grids.length === 1 ? 0 : channel];
    for (let row = 0; row < count; row++) {
      const at = row * channels + channel;
      const symbol = symbols[isByRow ? at : channel * count + row];
      values[at] = grid ? Math.fround(symbol * grid.step) + grid.minimum : valueOf(symbol);
    }
  }
}

const SCRATCH = new DataView(new ArrayBuffer(4));

function float32Of(bits) {
  SCRATCH.setUint32(0, bits);
  return SCRATCH.getFloat32(0);
}

/** The value of an IEEE half-precision number's bits. */
function float16Of(bits) {
  const sign = bits >> 15 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}

// ----------------------------------------------------------------------- version 1: .xz and LZMA

const XZ_MAGIC = [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00];
const XZ_END = [0x59, 0x5a];
const LZMA2_ID = 0x21;
const MAX_DICTIONARY = 2 ** 26;

/**
 * The content of an .xz stream (The .xz File Format, version 1.2.1) of exactly `size` bytes, with
 * LZMA2 as its only filter, no check, and at most one block; F3dgsError for any other.
 */
function decompressXz(bytes, size, section) {
  const fail = (reason) => new F3dgsError(section, `.xz stream: ${reason}`);
  const reader = new XzReader(bytes, fail);
  const flags = reader.streamHeader();
  const content = new LzmaOutput(size, fail);
  const block = reader.nextIsIndex() ? null : readBlock(reader, content, fail);
  reader.index(block === null ? [] : [block]);
  reader.streamFooter(flags);
  return content.finished();
}

/** Reads the only block; its sizes, as the index repeats them. */
function readBlock(reader, content, fail) {
  const start = reader.position;
  const header = reader.blockHeader();
  const dataStart = reader.position;
  content.dictionary = header.dictionary;
  readLzma2(reader, content, fail);
  const compressed = reader.position - dataStart;
  const { length } = content;
  const isAsStated = (stated, found) => stated === undefined || stated === found;
  if (!isAsStated(header.compressed, compressed) || !isAsStated(header.uncompressed, length)) {
    throw fail("a block's size is not the stated one");
  }
  const unpadded = reader.position - start;
  reader.padding(start);
  return { unpadded, length };
}

/** Takes the parts of an .xz stream that surround the data. */
class XzReader {
  constructor(bytes, fail) {
    this.bytes = bytes;
    this.position = 0;
    this.fail = fail;
  }

  u8() {
    if (this.position >= this.bytes.length) throw this.fail("ends early");
    return this.bytes[this.position++];
  }

  /** The next bytes. */
  take(length) {
    if (length > this.bytes.length - this.position) throw this.fail("ends early");
    this.position += length;
    return this.bytes.subarray(this.position - length, this.position);
  }

  /** A number of up to 63 bits, seven in a byte; exact below 2^53, which greater ones are not. */
  number() {
    let value = 0;
    for (let i = 0; i < 9; i++) {
      const byte = this.u8();
      if (byte === 0 && i > 0) throw this.fail("a number is longer than necessary");
      value += (byte & 127) * 2 ** (7 * i);
      if (byte < 128) return value;
    }
    throw this.fail("a number has more than nine bytes");
  }

  /** The two flag bytes. */
  streamHeader() {
    if (!XZ_MAGIC.every((byte) => byte === this.u8())) throw this.fail("its magic is missing");
    const flags = this.take(2);
    this.crc(flags);
    if (flags[0] !== 0 || flags[1] !== 0) throw this.fail("it has an integrity check of its own");
    return flags;
  }

  nextIsIndex() {
    return this.bytes[this.position] === 0;
  }

  /** The dictionary's size, and the data's sizes where they are stated. */
  blockHeader() {
    const start = this.position;
    const end = start + 4 * (this.u8() + 1);
    const flags = this.u8();
    if (flags & 0x3f) throw this.fail("it has filters besides LZMA2, or unknown flags");
    const compressed = flags & 0x40 ? this.number() : undefined;
    const uncompressed = flags & 0x80 ? this.number() : undefined;
    if (this.number() !== LZMA2_ID || this.number() !== 1) throw this.fail("it is not LZMA2");
    const dictionary = this.dictionarySize(this.u8());
    if (compressed === 0 || this.position > end - 4) throw this.fail("a block's header is damaged");
    this.zeros(end - 4 - this.position);
    this.crc(this.bytes.subarray(start, end - 4));
    return { dictionary, compressed, uncompressed };
  }

  dictionarySize(code) {
    const size = (2 | (code & 1)) * 2 ** ((code >> 1) + 11);
    if (code > 39 || size > MAX_DICTIONARY) {
      throw this.fail(`its dictionary has more than ${MAX_DICTIONARY} bytes`);
    }
    return size;
  }

  /** The index, which repeats the sizes of the blocks. */
  index(blocks) {
    const start = this.position;
    if (this.u8() !== 0 || this.number() !== blocks.length) throw this.fail("more than one block");
    for (const { unpadded, length } of blocks) {
      if (this.number() !== unpadded || this.number() !== length) {
        throw this.fail("its index does not fit its blocks");
      }
    }
    this.padding(start);
    this.crc(this.bytes.subarray(start, this.position));
    this.indexBytes = this.position - start;
  }

  streamFooter(flags) {
    const crc = viewOf(this.take(4)).getUint32(0, true);
    const content = this.take(6);
    if (crc !== crc32(content)) throw this.fail("a checksum does not match");
    const backward = 4 * (viewOf(content).getUint32(0, true) + 1);
    const isSame = content[4] === flags[0] && content[5] === flags[1];
    if (backward !== this.indexBytes || !isSame || !XZ_END.every((byte) => byte === this.u8())) {
      throw this.fail("its end is damaged");
    }
    if (this.position !== this.bytes.length) throw this.fail("bytes are left over");
  }

  /** Zeros up to a multiple of four bytes after `start`. */
  padding(start) {
    this.zeros((4 - ((this.position - start) % 4)) % 4);
  }

  zeros(count) {
    if (this.take(count).some((byte) => byte !== 0)) throw this.fail("its padding is damaged");
  }

  /** Takes the CRC-32 of `bytes`. */
  crc(bytes) {
    if (viewOf(this.take(4)).getUint32(0, true) !== crc32(bytes)) {
      throw this.fail("a checksum does not match");
    }
  }
}

/** The decompressed bytes, which are the dictionary too. */
class LzmaOutput {
  constructor(size, fail) {
    this.bytes = allocated(Uint8Array, size);
    this.length = 0;
    this.dictionary = 0;
    this.start = 0; // where the dictionary was last reset
    this.fail = fail;
  }

  /** F3dgsError unless `count` more bytes are allowed. */
  reserve(count) {
    if (count > this.bytes.length - this.length) {
      throw this.fail(`more than ${this.bytes.length} bytes, which were expected`);
    }
  }

  /** Bytes to which a distance may go back. */
  reach() {
    return Math.min(this.length - this.start, this.dictionary);
  }

  finished() {
    if (this.length !== this.bytes.length) {
      throw this.fail(`holds ${this.length} bytes, ${this.bytes.length} expected`);
    }
    return this.bytes;
  }
}

/** The chunks of an LZMA2 stream (described in the XZ Embedded and LZMA specifications). */
function readLzma2(reader, output, fail) {
  let decoder = null; // null until a chunk states the properties
  let mustReset = true;
  for (;;) {
    const control = reader.u8();
    if (control === 0) return;
    if (control >= 0xe0 || control === 1) {
      mustReset = false;
      output.start = output.length;
      if (control === 1) decoder = null;
    }
    if (mustReset || (control > 2 && control < 0x80)) throw fail("a chunk's kind is damaged");
    const low = viewOf(reader.take(2)).getUint16(0);
    if (control < 0x80) {
      output.reserve(low + 1);
      output.bytes.set(reader.take(low + 1), output.length);
      output.length += low + 1;
      continue;
    }
    const size = ((control & 31) << 16) + low + 1;
    const compressed = viewOf(reader.take(2)).getUint16(0) + 1;
    if (control >= 0xc0) decoder = new LzmaDecoder(reader.u8(), output, fail);
    else if (decoder === null) throw fail("the properties of LZMA are missing");
    else if (control >= 0xa0) decoder.reset();
    output.reserve(size);
    decoder.chunk(reader.take(compressed), size);
  }
}

// LZMA (LZMA specification by Igor Pavlov, in the public domain): the parts of the array of
// probabilities, and what a kind of symbol makes of the state.
const LZMA = {
  isMatch: 0,
  isRep: 192,
  isRepG0: 204,
  isRepG1: 216,
  isRepG2: 228,
  isRep0Long: 240,
  slot: 432,
  special: 688,
  align: 816,
  lengths: 832,
  repLengths: 1346,
  literals: 1860,
};
const HALF = 1024; // a probability of 11 bits
const AFTER_LITERAL = [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 4, 5];

/** Decodes LZMA chunks, whose state continues from one to the next. */
class LzmaDecoder {
  #output;
  #fail;
  #lc;
  #lp;
  #pb;
  #probabilities;
  #state = 0;
  #reps = [0, 0, 0, 0]; // the last four distances, each less 1
  #bytes;
  #next;
  #coder = new Uint32Array(2); // range and code: an array holds 32 bits faster than a property

  constructor(properties, output, fail) {
    this.#lc = properties % 9;
    this.#lp = Math.floor(properties / 9) % 5;
    this.#pb = Math.floor(properties / 45);
    if (this.#pb > 4 || this.#lc + this.#lp > 4) throw fail("the properties of LZMA are damaged");
    this.#output = output;
    this.#fail = fail;
    this.#probabilities = new Uint16Array(LZMA.literals + (0x300 << (this.#lc + this.#lp)));
    this.reset();
  }

  reset() {
    this.#probabilities.fill(HALF);
    this.#state = 0;
    this.#reps = [0, 0, 0, 0];
  }

  /** Decodes a chunk into `size` bytes. */
  chunk(bytes, size) {
    if (bytes.length < 5 || bytes[0] !== 0) throw this.#fail("a chunk is damaged");
    this.#bytes = bytes;
    this.#coder[0] = 0xffffffff;
    this.#coder[1] = viewOf(bytes).getUint32(1);
    this.#next = 5;
    const end = this.#output.length + size;
    while (this.#output.length < end) this.#symbol(end);
    this.#normalize();
    if (this.#next !== bytes.length || this.#coder[1] !== 0) {
      throw this.#fail("a chunk does not end at its last symbol");
    }
  }

  #symbol(end) {
    const position = (this.#output.length - this.#output.start) & ((1 << this.#pb) - 1);
    const state = this.#state;
    if (this.#bit(LZMA.isMatch + (state << 4) + position) === 0) {
      this.#literal();
      this.#state = AFTER_LITERAL[state];
      return;
    }
    if (this.#bit(LZMA.isRep + state) === 0) {
      this.#match(position, end);
    } else if (this.#output.reach() === 0) {
      throw this.#fail("a repetition before the first byte");
    } else {
      this.#repetition(position, end);
    }
  }

  #literal() {
    const { bytes, length, start } = this.#output;
    const before = length > start ? bytes[length - 1] : 0;
    const low = (length - start) & ((1 << this.#lp) - 1);
    const base = LZMA.literals + 0x300 * ((low << this.#lc) + (before >> (8 - this.#lc)));
    let symbol = 1;
    if (this.#state >= 7) {
      if (this.#reps[0] >= this.#output.reach()) throw this.#fail("a distance is too great");
      const matched = bytes[length - this.#reps[0] - 1];
      for (let i = 7; i >= 0; i--) {
        const bit = (matched >> i) & 1;
        const found = this.#bit(base + ((1 + bit) << 8) + symbol);
        symbol = (symbol << 1) | found;
        if (found !== bit) break;
      }
    }
    while (symbol < 256) symbol = (symbol << 1) | this.#bit(base + symbol);
    bytes[this.#output.length++] = symbol;
  }

  #match(position, end) {
    const length = this.#length(LZMA.lengths, position);
    this.#reps = [this.#distance(length), ...this.#reps.slice(0, 3)];
    this.#state = this.#state < 7 ? 7 : 10;
    this.#copy(length, end);
  }

  #repetition(position, end) {
    const state = this.#state;
    const reps = this.#reps;
    if (this.#bit(LZMA.isRepG0 + state) === 0) {
      if (this.#bit(LZMA.isRep0Long + (state << 4) + position) === 0) {
        this.#state = state < 7 ? 9 : 11;
        this.#copy(1, end);
        return;
      }
    } else {
      const is1 = this.#bit(LZMA.isRepG1 + state) === 0;
      const index = is1 ? 1 : 2 + this.#bit(LZMA.isRepG2 + state);
      reps.unshift(...reps.splice(index, 1));
    }
    const length = this.#length(LZMA.repLengths, position);
    this.#state = state < 7 ? 8 : 11;
    this.#copy(length, end);
  }

  #copy(length, end) {
    const output = this.#output;
    const distance = this.#reps[0] + 1;
    if (distance > output.reach()) throw this.#fail("a distance is too great");
    if (length > end - output.length) throw this.#fail("a match goes beyond its chunk");
    for (let i = 0; i < length; i++) {
      output.bytes[output.length] = output.bytes[output.length - distance];
      output.length++;
    }
  }

  /** Lengths have 2 flags, then 16 x 8 low, 16 x 8 middle and 256 high probabilities. */
  #length(base, position) {
    if (this.#bit(base) === 0) return 2 + this.#tree(base + 2 + (position << 3), 3);
    if (this.#bit(base + 1) === 0) return 10 + this.#tree(base + 130 + (position << 3), 3);
    return 18 + this.#tree(base + 258, 8);
  }

  /** A distance less 1. */
  #distance(length) {
    const slot = this.#tree(LZMA.slot + (Math.min(length - 2, 3) << 6), 6);
    if (slot < 4) return slot;
    const bits = (slot >> 1) - 1;
    const base = (2 | (slot & 1)) * 2 ** bits;
    if (slot < 14) return base + this.#reverseTree(LZMA.special + base - slot, bits);
    const high = this.#direct(bits - 4);
    return base + 16 * high + this.#reverseTree(LZMA.align, 4);
  }

  #tree(base, bits) {
    let symbol = 1;
    for (let i = 0; i < bits; i++) symbol = (symbol << 1) | this.#bit(base + symbol);
    return symbol - (1 << bits);
  }

  #reverseTree(base, bits) {
    let symbol = 1;
    let value = 0;
    for (let i = 0; i < bits; i++) {
      const bit = this.#bit(base + symbol);
      symbol = (symbol << 1) | bit;
      value |= bit << i;
    }
    return value;
  }

  #direct(count) {
    const coder = this.#coder;
    let value = 0;
    for (let i = 0; i < count; i++) {
      this.#normalize();
      coder[0] >>>= 1;
      const bit = coder[1] >= coder[0] ? 1 : 0;
      if (bit) coder[1] -= coder[0];
      value = 2 * value + bit;
    }
    return value;
  }

  #bit(index) {
    this.#normalize();
    const coder = this.#coder;
    const probabilities = this.#probabilities;
    const probability = probabilities[index];
    const bound = (coder[0] >>> 11) * probability;
    if (coder[1] < bound) {
      coder[0] = bound;
      probabilities[index] = probability + ((2048 - probability) >> 5);
      return 0;
    }
    coder[0] -= bound;
    coder[1] -= bound;
    probabilities[index] = probability - (probability >> 5);
    return 1;
  }

  #normalize() {
    const coder = this.#coder;
    if (coder[0] >= 2 ** 24) return;
    if (this.#next >= this.#bytes.length) throw this.#fail("a chunk ends early");
    coder[0] <<= 8;
    coder[1] = (coder[1] << 8) | this.#bytes[this.#next++];
  }
}

// ------------------------------------------------------------------------------------ metadata

/** The section `meta`: one JSON object. */
function readMetadata(bytes) {
  if (bytes.length > MAX_METADATA_BYTES) {
    const text = `${bytes.length} bytes, at most ${MAX_METADATA_BYTES} allowed`;
    throw new F3dgsError("meta", text);
  }
  const copy = bytes.slice(); // the decoder takes no memory that is shared with other threads
  let metadata;
  try {
    metadata = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(copy));
  } catch (error) {
    throw new F3dgsError("meta", `not JSON: ${error.message}`);
  }
  if (typeof metadata !== "object" || metadata === null || Array.isArray(metadata)) {
    throw new F3dgsError("meta", "a JSON object expected, got another value");
  }
  if (isNestedBeyond(metadata, MAX_METADATA_DEPTH)) {
    throw new F3dgsError("meta", `nested more than ${MAX_METADATA_DEPTH} levels deep`);
  }
  checkOrigin(metadata);
  return metadata;
}

/** Whether a JSON value has objects or arrays more than `levels` levels deep. */
function isNestedBeyond(value, levels) {
  let inner = [value];
  for (let level = 0; level < levels && inner.length; level++) {
    inner = inner.flatMap((outer) => Object.values(outer).filter((x) => Object(x) === x));
  }
  return inner.length > 0;
}

function checkOrigin({ origin = [0, 0, 0] }) {
  if (!Array.isArray(origin) || origin.length !== 3 || !origin.every(Number.isFinite)) {
    const text = JSON.stringify(origin).slice(0, 80);
    throw new F3dgsError("meta", `origin: three finite numbers are expected, got ${text}`);
  }
}
