// SPDX-License-Identifier: Apache-2.0
// A stable radix sort of 32-bit keys with values, 8 bits a pass, and an exclusive sum over an array.
//
// One pass: radix_count counts the digits of each block's run of keys; the counts, digit by digit and block by block, are summed up
// (scan_blocks, scan_top, scan_add), which gives the place of each block's first key of each digit; radix_scatter moves the keys.
#include "cuda_kernel.h"

using namespace cuda;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kDigits = 256;
constexpr int kRounds = 16;                       // keys of a thread
constexpr int kWarpKeys = kRounds * kWarp;        // neighbouring keys that one warp moves
constexpr int kBlockKeys = kWarps * kWarpKeys;    // mirrored in cuda_sort.py
constexpr int kScanned = 8;                       // numbers of a thread
constexpr int kBlockScanned = kThreads * kScanned;  // likewise

// Mirrored in cuda_sort.py of the package.
struct SortArguments {
  const uint32_t* keys;
  const uint32_t* values;  // null: the numbers 0, 1, 2, ...
  uint32_t* sorted_keys;
  uint32_t* sorted_values;
  uint32_t* places;        // (kDigits, blocks): counts, and when summed up the place of the first key
  int64_t count;
  int32_t shift;           // of the digit
};

DEVICE uint32_t digit_of(uint32_t key, int32_t shift) { return key >> shift & (kDigits - 1); }

KERNEL(radix_count, 256, SortArguments) {
  __shared__ uint32_t counts[kDigits];
  counts[threadIdx.x] = 0;
  __syncthreads();
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kBlockKeys;
  for (int i = threadIdx.x; i < kBlockKeys; i += kThreads) {
    if (begin + i < arguments.count) atomicAdd(&counts[digit_of(arguments.keys[begin + i], arguments.shift)], 1u);
  }
  __syncthreads();
  arguments.places[static_cast<int64_t>(threadIdx.x) * gridDim.x + blockIdx.x] = counts[threadIdx.x];
}

KERNEL(radix_scatter, 256, SortArguments) {
  __shared__ uint32_t counts[kWarps][kDigits];  // of the keys of each warp so far; later the places of its first keys
  for (int w = 0; w < kWarps; ++w) counts[w][threadIdx.x] = 0;
  __syncthreads();
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kBlockKeys + warp() * kWarpKeys + lane();
  uint32_t* mine = counts[warp()];
  uint32_t keys[kRounds], ranks[kRounds];  // rank: number of equal digits before, of the warp
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int64_t i = begin + round * kWarp;
    const bool present = i < arguments.count;
    keys[round] = present ? arguments.keys[i] : 0;
    const uint32_t digit = present ? digit_of(keys[round], arguments.shift) : kDigits;
    const unsigned peers = __match_any_sync(kAllLanes, digit);
    const unsigned before = __popc(peers & ((1u << lane()) - 1));
    if (present) ranks[round] = mine[digit] + before;
    __syncwarp();
    if (present && before == 0) mine[digit] += __popc(peers);
    __syncwarp();
  }
  __syncthreads();
  uint32_t place = arguments.places[static_cast<int64_t>(threadIdx.x) * gridDim.x + blockIdx.x];
  for (int w = 0; w < kWarps; ++w) {
    const uint32_t count = counts[w][threadIdx.x];
    counts[w][threadIdx.x] = place;
    place += count;
  }
  __syncthreads();
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int64_t i = begin + round * kWarp;
    if (i >= arguments.count) continue;
    const uint32_t to = mine[digit_of(keys[round], arguments.shift)] + ranks[round];
    arguments.sorted_keys[to] = keys[round];
    arguments.sorted_values[to] = arguments.values != nullptr ? arguments.values[i] : static_cast<uint32_t>(i);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Exclusive sums, in place.

struct ScanArguments {
  uint32_t* values;
  uint32_t* block_sums;  // (blocks): sums of runs of kBlockScanned numbers; after scan_top the sums before each
  int64_t count;
  int64_t blocks;
};

// The sum of the values of the threads before this one in the block. `warp_sums`: one number per warp and one more, the
// sum of the block.
DEVICE uint32_t sum_before(uint32_t value, uint32_t* warp_sums) {
  const uint32_t running = warp_running_sum(value);
  if (lane() == kWarp - 1) warp_sums[warp()] = running;
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t total = 0;
    for (int w = 0; w <= kWarps; ++w) {
      const uint32_t own = w < kWarps ? warp_sums[w] : 0;
      warp_sums[w] = total;
      total += own;
    }
  }
  __syncthreads();
  return warp_sums[warp()] + running - value;
}

KERNEL(scan_blocks, 256, ScanArguments) {
  __shared__ uint32_t warp_sums[kWarps + 1];
  const int64_t begin = global_thread() * kScanned;
  uint32_t own[kScanned], total = 0;
#pragma unroll
  for (int i = 0; i < kScanned; ++i) {
    own[i] = begin + i < arguments.count ? arguments.values[begin + i] : 0;
    total += own[i];
  }
  uint32_t before = sum_before(total, warp_sums);
#pragma unroll
  for (int i = 0; i < kScanned; ++i) {
    if (begin + i < arguments.count) arguments.values[begin + i] = before;
    before += own[i];
  }
  if (threadIdx.x == 0) arguments.block_sums[blockIdx.x] = warp_sums[kWarps];
}

// One block.
KERNEL(scan_top, 256, ScanArguments) {
  __shared__ uint32_t warp_sums[kWarps + 1];
  uint32_t carried = 0;
  for (int64_t first = 0; first < arguments.blocks; first += kThreads) {
    const int64_t i = first + threadIdx.x;
    const uint32_t own = i < arguments.blocks ? arguments.block_sums[i] : 0;
    const uint32_t before = sum_before(own, warp_sums);
    if (i < arguments.blocks) arguments.block_sums[i] = carried + before;
    carried += warp_sums[kWarps];
    __syncthreads();  // before the sums are overwritten
  }
}

KERNEL(scan_add, 256, ScanArguments) {
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kBlockScanned;
  const uint32_t before = arguments.block_sums[blockIdx.x];
  for (int i = threadIdx.x; i < kBlockScanned; i += kThreads) {
    if (begin + i < arguments.count) arguments.values[begin + i] += before;
  }
}
