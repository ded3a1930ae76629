// SPDX-License-Identifier: Apache-2.0
/**
 * Decodes many files with web/f3dgs.js in one process: `node tests/web_driver.mjs CASES`.
 *
 * CASES holds for each file: u32 length, u32 layers (0: all), u32 bytes at a time (0: all at once,
 * else as a stream), then the bytes. Prints a JSON list of what each decodes to, or its error.
 */

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { F3dgsError, decode, decodeStream } from "../web/f3dgs.js";

const ARRAYS = ["xyz", "opacity", "scaling", "rotation", "featuresDc", "featuresRest"];

function* cases(data) {
  for (let at = 0; at < data.length; ) {
    const [length, layers, step] = [0, 4, 8].map((offset) => data.readUInt32LE(at + offset));
    yield { file: data.subarray(at + 12, at + 12 + length), layers: layers || Infinity, step };
    at += 12 + length;
  }
}

async function* inSteps(file, step) {
  for (let at = 0; at < file.length; at += step) yield file.subarray(at, at + step);
}

async function streamed(file, step, layers) {
  const models = [];
  const stream = ReadableStream.from?.(inSteps(file, step)) ?? inSteps(file, step);
  for await (const model of decodeStream(stream, { layers })) models.push(model);
  return models;
}

/** What the models decode to together, as the test describes it in Python. */
function description(models) {
  const hash = createHash("sha256");
  for (const name of ARRAYS) for (const model of models) hash.update(model[name]);
  const { version, shDegree, layerEnds, metadata, sectionBytes } = models.at(-1);
  const count = models.reduce((sum, model) => sum + model.count, 0);
  const digest = hash.digest("hex");
  return { version, count, shDegree, layerEnds, metadata, sectionBytes, digest };
}

async function outcome({ file, layers, step }) {
  try {
    const models = step ? await streamed(file, step, layers) : [decode(file, { layers })];
    return description(models);
  } catch (error) {
    if (!(error instanceof F3dgsError)) throw error;
    return { section: error.section, message: error.message };
  }
}

const outcomes = [];
for (const one of cases(readFileSync(process.argv[2]))) outcomes.push(await outcome(one));
console.log(JSON.stringify(outcomes));
