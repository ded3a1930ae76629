// SPDX-License-Identifier: Apache-2.0
// Sorts Gaussians by view depth, the farthest first, beside the page's own thread.
//
// Messages in:  {total}                            a new model of that many Gaussians; earlier ones are removed
//               {positions: Float32Array}          x, y, z of the next Gaussians
//               {forward, offset, number, buffer}  sort by depth = forward . position + offset, into this
//                                                  buffer of at least 4 x total bytes
// Message out:  {order: Uint32Array, count, number}

const NEAR = 0.2; // nearer Gaussians are not drawn
const DIGIT_BITS = 11;
const DIGITS = 1 << DIGIT_BITS;

let positions = new Float32Array(0);
let filled = 0;
let work = makeWork(0);

function makeWork(total) {
  const depths = new Float32Array(total);
  const counts = [new Uint32Array(DIGITS), new Uint32Array(DIGITS)];
  return { depths, bits: new Uint32Array(depths.buffer), near: new Uint32Array(total), half: new Uint32Array(total), counts };
}

// The depths of the Gaussians in front of the near plane; work.near lists these. The bits of positive floats are in the
// same order as the floats.
function measure(forward, offset) {
  const { depths, bits, near } = work;
  const [x, y, z] = forward;
  let count = 0;
  let least = 0xffffffff;
  let most = 0;
  for (let i = 0, p = 0; i < filled; i += 1, p += 3) {
    depths[i] = x * positions[p] + y * positions[p + 1] + z * positions[p + 2] + offset;
    if (!(depths[i] > NEAR)) continue;
    near[count] = i;
    count += 1;
    if (bits[i] < least) least = bits[i];
    if (bits[i] > most) most = bits[i];
  }
  return { count, least, most };
}

// Two passes of a counting sort, on the upper 22 bits of the distance from the farthest. Equal depths: the later Gaussian
// comes first, because the rasteriser blends front to back and the earlier one first.
function sortInto(order, { count, least, most }) {
  const { bits, near, half, counts } = work;
  let shift = 0;
  while ((most - least) >>> shift >= DIGITS * DIGITS) shift += 1;
  counts[0].fill(0);
  counts[1].fill(0);
  for (let k = 0; k < count; k += 1) {
    const key = (most - bits[near[k]]) >>> shift;
    counts[0][key & (DIGITS - 1)] += 1;
    counts[1][key >>> DIGIT_BITS] += 1;
  }
  const [low, high] = counts.map(startsOf);
  for (let k = count - 1; k >= 0; k -= 1) {
    const digit = ((most - bits[near[k]]) >>> shift) & (DIGITS - 1);
    half[low[digit]] = near[k];
    low[digit] += 1;
  }
  for (let k = 0; k < count; k += 1) {
    const digit = (most - bits[half[k]]) >>> shift >>> DIGIT_BITS;
    order[high[digit]] = half[k];
    high[digit] += 1;
  }
}

function startsOf(counts) {
  let sum = 0;
  return counts.map((count) => {
    sum += count;
    return sum - count;
  });
}

self.onmessage = ({ data }) => {
  if (data.total !== undefined) {
    positions = new Float32Array(3 * data.total);
    filled = 0;
    work = makeWork(data.total);
  } else if (data.positions !== undefined) {
    positions.set(data.positions, 3 * filled);
    filled += data.positions.length / 3;
  } else {
    const found = measure(data.forward, data.offset);
    const order = new Uint32Array(data.buffer);
    sortInto(order, found);
    self.postMessage({ order, count: found.count, number: data.number }, [order.buffer]);
  }
};
