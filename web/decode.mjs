#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
/**
 * `node web/decode.mjs FILE OUT.ply [--layers N]` decodes a .f3dgs file with f3dgs.js and writes
 * the very PLY that decompress.py writes. Needs Node.js 18 or later.
 */

import { randomBytes } from "node:crypto";
import * as fs from "node:fs";
import { basename, dirname, extname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { F3dgsError, decode } from "./f3dgs.js";

const USAGE = "usage: node web/decode.mjs FILE OUT.ply [--layers N]";
const ROWS_PER_WRITE = 2 ** 16;
const SIGNALS = { SIGINT: 130, SIGTERM: 143 };
/** Of errors of the operating system: the words that decompress.py uses. */
const REASONS = {
  EACCES: "Permission denied",
  EFBIG: "File too large",
  EISDIR: "Is a directory",
  ENOENT: "No such file or directory",
  ENOSPC: "disk full",
  ENOTDIR: "Not a directory",
  EPIPE: "Broken pipe",
  EROFS: "Read-only file system",
};

/** A fault that the user can remedy: its message is printed in one line. */
class UserError extends Error {}

async function main() {
  const { file, ply, layers } = readArguments();
  checkTarget(ply, file);
  const data = await namingErrors(file, () => fs.readFileSync(file));
  const model = decodeFile(file, data, layers);
  await namingErrors(ply, () => writePly(ply, model));
  const print = isSpecial(ply) ? console.error : console.log;
  const count = model.count.toLocaleString("en");
  print(`${ply}: ${count} Gaussians, SH degree ${model.shDegree}`);
}

function readArguments() {
  let parsed;
  try {
    const options = { layers: { type: "string" }, help: { type: "boolean", short: "h" } };
    parsed = parseArgs({ allowPositionals: true, options });
  } catch (error) {
    throw new UserError(`${error.message}; ${USAGE}`);
  }
  const { values, positionals } = parsed;
  if (values.help) {
    console.log(USAGE);
    process.exit(0);
  }
  if (positionals.length !== 2) {
    throw new UserError(`a file and a PLY to write expected, got ${positionals.length}; ${USAGE}`);
  }
  const layers = values.layers === undefined ? Infinity : Number(values.layers);
  if (layers !== Infinity && !(Number.isInteger(layers) && layers >= 1)) {
    throw new UserError(`--layers ${values.layers}: expected at least 1`);
  }
  return { file: positionals[0], ply: positionals[1], layers };
}

function decodeFile(file, data, layers) {
  try {
    return decode(data, { layers });
  } catch (error) {
    if (!(error instanceof F3dgsError)) throw error;
    throw new UserError(`${file}: ${error.message}`);
  }
}

/** UserError if `target` is a folder, the input, or has another ending than .ply. */
function checkTarget(target, source) {
  const status = fs.statSync(target, { throwIfNoEntry: false });
  if (status?.isDirectory()) {
    throw new UserError(`${target} is a folder: expected the name of a file to write`);
  }
  const input = fs.statSync(source, { throwIfNoEntry: false });
  if (status && input && status.dev === input.dev && status.ino === input.ino) {
    throw new UserError(`${target} is the input ${source}: give another name for the output`);
  }
  if (extname(target).toLowerCase() !== ".ply" && !isSpecial(target)) {
    const text = "cannot write this kind of file: a name that ends in .ply is expected";
    throw new UserError(`${target}: ${text}`);
  }
}

/** Whether a path is written into, not replaced: a device, a pipe, an open descriptor. */
function isSpecial(path) {
  const status = fs.statSync(path, { throwIfNoEntry: false });
  return status !== undefined && (!status.isFile() || /^\/(dev|proc)\//.test(resolve(path)));
}

/** Writes the PLY, whole or not at all. */
async function writePly(path, model) {
  if (isSpecial(path)) {
    await writeRecords(path, fs.constants.O_WRONLY | fs.constants.O_APPEND, model);
    return;
  }
  const target = fs.existsSync(path) ? fs.realpathSync(path) : resolve(path);
  const made = fs.mkdirSync(dirname(target), { recursive: true });
  const stem = basename(target, extname(target)).slice(0, 100);
  const name = `.${stem}.${randomBytes(4).toString("hex")}.tmp${extname(target)}`;
  const temporary = join(dirname(target), name);
  const clean = () => removeAll(temporary, made, dirname(target));
  const onSignal = (signal) => {
    clean();
    process.exit(SIGNALS[signal]);
  };
  for (const signal of Object.keys(SIGNALS)) process.on(signal, onSignal);
  try {
    await writeRecords(temporary, "wx", model);
    fs.renameSync(temporary, target);
  } catch (error) {
    clean();
    throw error;
  }
}

/** Removes the temporary file, and the folders that were made, from `made` down to `folder`. */
function removeAll(temporary, made, folder) {
  fs.rmSync(temporary, { force: true });
  if (made === undefined) return;
  for (let place = folder; place.length >= made.length; place = dirname(place)) {
    if (fs.readdirSync(place).length) return;
    fs.rmdirSync(place);
  }
}

async function writeRecords(path, flags, model) {
  const file = await fs.promises.open(path, flags);
  try {
    await file.writeFile(header(model));
    for (let row = 0; row < model.count; row += ROWS_PER_WRITE) {
      await file.writeFile(records(model, row, Math.min(row + ROWS_PER_WRITE, model.count)));
    }
    if (!isSpecial(path)) await file.sync();
  } finally {
    await file.close();
  }
}

/** The offset to the world, or null where positions are written as they are. */
function originOf({ metadata: { origin = [0, 0, 0] } }) {
  return origin.every((number) => number === 0) ? null : origin;
}

function restCount({ shDegree }) {
  return (shDegree + 1) ** 2 - 1;
}

function header(model) {
  const number = (stem, count) => Array.from({ length: count }, (_, i) => `${stem}_${i}`);
  const rest = number("f_rest", 3 * restCount(model));
  const names = ["nx", "ny", "nz", ...number("f_dc", 3), ...rest, "opacity"];
  names.push(...number("scale", 3), ...number("rot", 4));
  const position = originOf(model) === null ? "float" : "double";
  const lines = [
    "ply",
    "format binary_little_endian 1.0",
    `element vertex ${model.count}`,
    ...(model.metadata.antialiasing === true ? ["comment SplatRenderMode: mip"] : []),
    ...["x", "y", "z"].map((name) => `property ${position} ${name}`),
    ...names.map((name) => `property float ${name}`),
    "end_header",
  ];
  return lines.map((line) => `${line}\n`).join("");
}

/** The bytes of the rows `start` to `stop` - 1. */
function records(model, start, stop) {
  const origin = originOf(model);
  const perRow = 4 * (17 + 3 * restCount(model)) + (origin === null ? 0 : 12);
  const view = new DataView(new ArrayBuffer(perRow * (stop - start)));
  for (let row = start; row < stop; row++) {
    putRecord(view, perRow * (row - start), model, row, origin);
  }
  return new Uint8Array(view.buffer);
}

function putRecord(view, start, model, row, origin) {
  let at = start;
  const put = (value) => {
    view.setFloat32(at, value, true);
    at += 4;
  };
  for (let axis = 0; axis < 3; axis++) {
    const coordinate = model.xyz[3 * row + axis];
    if (origin === null) put(coordinate);
    else {
      view.setFloat64(at, coordinate + origin[axis], true);
      at += 8;
    }
  }
  at += 12; // normals, which are 0
  for (let c = 0; c < 3; c++) put(model.featuresDc[3 * row + c]);
  const count = restCount(model);
  for (let c = 0; c < 3; c++) {
    for (let k = 0; k < count; k++) put(model.featuresRest[3 * (count * row + k) + c]);
  }
  put(model.opacity[row]);
  for (let axis = 0; axis < 3; axis++) put(model.scaling[3 * row + axis]);
  for (let i = 0; i < 4; i++) put(model.rotation[4 * row + i]);
}

/** What `work` returns; errors of the operating system that name no file get the name `path`. */
async function namingErrors(path, work) {
  try {
    return await work();
  } catch (error) {
    if (error.code !== undefined) error.path ??= path;
    throw error;
  }
}

/** What happened and where, in one line. */
function textOf(error) {
  const reason = REASONS[error.code];
  return reason === undefined ? error.message : `${reason}: ${error.path}`;
}

try {
  await main();
} catch (error) {
  const isFaultOfThisProgram = !(error instanceof UserError) && error.code === undefined;
  if (isFaultOfThisProgram) throw error;
  console.error(`error: ${textOf(error)}`);
  process.exitCode = 1;
}
