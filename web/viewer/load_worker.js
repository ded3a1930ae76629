// SPDX-License-Identifier: Apache-2.0
// Reads and decodes one model beside the page's own thread, part by part while it arrives.
//
// Message in:   {url} or {file: Blob} or {bytes: ArrayBuffer}
// Messages out: {kind: "part", total, shDegree, metadata, parts, samples}  packed arrays (pack.js), at first samples
//                                                                          (framing.js)
//               {kind: "progress", bytes}                                bytes that have arrived
//               {kind: "end"}
//               {kind: "error", message, isUnknown}                      isUnknown: view.py may be able to convert the file

import { decodeStream, F3dgsError, isF3dgs } from "../f3dgs.js";
import { samplesOf } from "./framing.js";
import { pack } from "./pack.js";
import { isPly, PlyError, readPly, UnreadablePly } from "./ply.js";

const HEAD_BYTES = 16;
const LAYERS = 255;

class UnknownFile extends Error {}

async function openStream({ url, file, bytes }) {
  if (bytes) return new Blob([bytes]).stream();
  if (file) return file.stream();
  const answer = await fetch(url);
  if (!answer.ok) throw new Error((await answer.text()) || `the server answered ${answer.status}`);
  return answer.body;
}

// The stream with its first bytes read, its progress posted.
async function begin(stream) {
  const reader = stream.getReader();
  let head = new Uint8Array(0);
  let arrived = 0;
  const next = async () => {
    const { done, value } = await reader.read();
    if (done) return null;
    arrived += value.length;
    self.postMessage({ kind: "progress", bytes: arrived });
    return value;
  };
  for (let chunk; head.length < HEAD_BYTES && (chunk = await next()) !== null; ) {
    const joined = new Uint8Array(head.length + chunk.length);
    joined.set(head);
    joined.set(chunk, head.length);
    head = joined;
  }
  let sent = false;
  const whole = new ReadableStream({
    async pull(controller) {
      const chunk = sent ? await next() : head;
      sent = true;
      if (chunk === null) controller.close();
      else controller.enqueue(chunk);
    },
    cancel: (reason) => reader.cancel(reason),
  });
  return { head, whole };
}

async function* decoded({ head, whole }) {
  if (isF3dgs(head)) yield* decodeStream(whole, { layers: LAYERS });
  else if (isPly(head)) yield* readPly(whole);
  else throw new UnknownFile(head.length ? "neither a .f3dgs file nor a PLY" : "an empty file");
}

async function load(source) {
  let filled = 0;
  for await (const model of decoded(await begin(await openStream(source)))) {
    const total = model.total ?? model.layerEnds?.at(-1) ?? model.count;
    const parts = pack(model);
    const samples = filled === 0 ? samplesOf(parts) : null;
    filled += model.count;
    const buffers = [parts.positions, parts.centres, parts.scales, parts.rotations, ...parts.harmonics];
    const message = { kind: "part", total, shDegree: model.shDegree, metadata: model.metadata ?? {}, parts, samples };
    self.postMessage(message, [...new Set(buffers.map(({ buffer }) => buffer))]);
  }
  self.postMessage({ kind: "end" });
}

self.onmessage = async ({ data }) => {
  try {
    await load(data);
  } catch (error) {
    const isDamaged = error instanceof F3dgsError || (error instanceof PlyError && !(error instanceof UnreadablePly));
    const isUnknown = error instanceof UnknownFile || error instanceof UnreadablePly;
    if (!isDamaged && !isUnknown) console.warn(error);
    self.postMessage({ kind: "error", message: error.message, isUnknown });
  }
};
