// SPDX-License-Identifier: Apache-2.0
// A model on the page: its cloud, which grows while the file arrives.

import { SplatCloud } from "./cloud.js";
import { startWorker } from "./workers.js";

export class ShownModel {
  // `entry`: {name, bytes, source, antialiasing} (session.js). `onChange` is called when there is more to draw,
  // `onProgress` when bytes have arrived.
  constructor(gl, entry, onChange, onProgress) {
    Object.assign(this, { gl, entry, onChange, onProgress, cloud: null, arrived: 0, metadata: {}, samples: null });
    this.isComplete = false;
  }

  // Resolves when all is loaded; rejects with an error that has `isUnknown` for a file of an unknown kind.
  load() {
    return new Promise((resolve, reject) => {
      this.worker = startWorker("load_worker");
      this.worker.onerror = (event) => reject(new Error(event.message ?? "the decoder could not be started"));
      this.worker.onmessage = ({ data }) => {
        try {
          this.receive(data, resolve, reject);
        } catch (error) {
          reject(error);
        }
      };
      this.worker.postMessage(this.entry.source);
    }).finally(() => {
      this.isComplete = true;
      this.worker.terminate();
    });
  }

  receive(data, resolve, reject) {
    if (data.kind === "progress") {
      this.arrived = data.bytes;
      this.onProgress();
    } else if (data.kind === "part") {
      this.append(data);
      this.onChange();
    } else if (data.kind === "end") resolve();
    else reject(Object.assign(new Error(data.message), { isUnknown: data.isUnknown }));
  }

  append({ total, shDegree, metadata, parts, samples }) {
    this.cloud ??= new SplatCloud(this.gl, total, shDegree, () => this.onChange());
    this.metadata = { ...this.metadata, ...metadata };
    this.cloud.origin = this.metadata.origin ?? [0, 0, 0];
    this.cloud.antialiasing = this.metadata.antialiasing === true || this.entry.antialiasing === true;
    this.cloud.append(parts);
    this.samples ??= samples;
  }

  get hasPicture() {
    return this.cloud !== null && this.cloud.filled > 0;
  }

  remove() {
    this.worker?.terminate();
    this.cloud?.remove();
  }
}
